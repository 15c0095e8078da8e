"""Convergence: how the totals of a pass settled as documents came in, with their intervals."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from analysis.entropy.tables import series_labels
from analysis.theme import label, series_colour, template
from probes.results import EntropyResult

COLUMNS = ["series", "kind", "documents", "tokens", "estimate", "low", "high"]


def convergence_table(results: Sequence[EntropyResult]) -> pd.DataFrame:
    """One row per series, kind and look, its estimate; those without an interval are left out."""
    rows = [
        (series, str(p.kind), p.documents, p.tokens, p.estimate, p.interval.low, p.interval.high)
        for series, result in zip(series_labels(results), results, strict=True)
        for p in result.convergence
        if p.interval is not None
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def convergence_figure(table: pd.DataFrame, kind: str) -> go.Figure:
    """One running total over documents, a line per series inside its interval."""
    figure = go.Figure(
        layout={
            "template": template(),
            "height": 300,
            "xaxis": {"title": {"text": "documents"}, "type": "log"},
            "yaxis": {"title": {"text": "entropy (nats)"}},
        }
    )
    rows = table[table["kind"] == kind]
    for index, (series, line) in enumerate(rows.groupby("series", sort=False)):
        colour = series_colour(index)
        for end, fill in (("low", None), ("high", "tonexty")):
            figure.add_scatter(
                x=line["documents"],
                y=line[end],
                mode="lines",
                line={"color": colour, "width": 0.5},
                fill=fill,
                opacity=0.3,
                showlegend=False,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=line["documents"],
            y=line["estimate"],
            customdata=line[["tokens", "low", "high"]],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 5},
            name=label(str(series)),
            hovertemplate="%{x} documents, %{customdata[0]:,} tokens: <b>%{y:.3f}</b> nats"
            "<br>%{customdata[1]:.3f} to %{customdata[2]:.3f}",
        )
    return figure
