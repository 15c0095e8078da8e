"""Figures of a trajectory: entropies over pretraining, as pure functions of the tidy table.

The horizontal axis is the pretraining step where every checkpoint has one, and the order of the
checkpoints otherwise.
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analysis.theme import DEPTH_SCALE, label, series_colour, template


def totals_over_training(table: pd.DataFrame, measure: str) -> go.Figure:
    """One total at every checkpoint, a line per corpus, with its interval."""
    rows = table[(table["measure"] == measure) & table["layer"].isna()]
    figure = _figure(table, "entropy (nats)")
    for index, (corpus, line) in enumerate(rows.groupby("corpus", sort=False, dropna=False)):
        known = line["low"].notna().all()
        colour = series_colour(index)
        figure.add_scatter(
            x=_places(table, line),
            y=line["estimate"],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": line["high"] - line["estimate"],
                "arrayminus": line["estimate"] - line["low"],
                "thickness": 1,
                "width": 3,
            }
            if known
            else None,
            customdata=line[["checkpoint"]],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 6},
            name=label(str(corpus)),
            hovertemplate="%{customdata[0]}: <b>%{y:.3f}</b> nats",
        )
    return figure


def layers_over_training(table: pd.DataFrame, measure: str, corpus: str | None) -> go.Figure:
    """Entropy of every layer, less its value at the first checkpoint; a line per layer."""
    rows = table[(table["measure"] == measure) & table["layer"].notna()]
    rows = rows[rows["corpus"] == corpus] if corpus is not None else rows
    depth = max(int(rows["layer"].max()), 1)
    figure = _figure(table, "change since the first checkpoint (nats)")
    for layer, line in rows.groupby("layer"):
        colour = sample_colorscale([list(stop) for stop in DEPTH_SCALE], [layer / depth])[0]
        figure.add_scatter(
            x=_places(table, line),
            y=line["entropy"] - line["entropy"].iloc[0],
            customdata=line[["checkpoint", "entropy"]],
            mode="lines",
            line={"color": colour, "width": 1.4},
            name=f"layer {layer}",
            showlegend=False,
            meta={"layer": int(layer)},
            hovertemplate=f"layer {layer}, %{{customdata[0]}}: %{{y:+.4f}}, "
            "at %{customdata[1]:.4f} nats",
        )
    _add_depth_bar(figure, depth)
    return figure


def _figure(table: pd.DataFrame, y_title: str) -> go.Figure:
    axis: dict[str, object] = {"title": {"text": "pretraining step"}}
    if table["step"].isna().any():
        names = table["checkpoint"].unique()
        axis = {
            "title": {"text": "checkpoint"},
            "tickvals": list(range(len(names))),
            "ticktext": [label(name) for name in names],
        }
    return go.Figure(
        layout={
            "template": template(),
            "height": 380,
            "hovermode": "closest",
            "xaxis": axis,
            "yaxis": {"title": {"text": y_title}},
        }
    )


def _places(table: pd.DataFrame, line: pd.DataFrame) -> list[int]:
    if table["step"].notna().all():
        return [int(step) for step in line["step"]]
    order = {name: place for place, name in enumerate(table["checkpoint"].unique())}
    return [order[name] for name in line["checkpoint"]]


def _add_depth_bar(figure: go.Figure, depth: int) -> None:
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={
            "color": [0],
            "cmin": 0,
            "cmax": depth,
            "colorscale": [list(stop) for stop in DEPTH_SCALE],
            "colorbar": {"title": {"text": "layer", "side": "top"}, "thickness": 12, "len": 0.9},
        },
    )
