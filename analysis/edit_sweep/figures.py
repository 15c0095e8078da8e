"""Figures of an edit sweep, as pure functions of its tidy table.

Entropies are drawn as changes from the unedited model, since they lie within a few percent of it;
losses of a series as they are, with a line for the unedited model.
"""

import pandas as pd
import plotly.graph_objects as go

from analysis.edit_sweep.measurements import AT_FACTOR, AT_RATIO
from analysis.edit_sweep.tables import MEASURES
from analysis.theme import REFERENCE_COLOUR, series_colour, template

AXES = {
    "factor": "amplifying factor",
    "ratio": "resuscitation ratio",
    "temperature": "attention temperature",
}
"""What may vary along a series, and what its axis is called."""
LOSSES = {"held_out_loss": "held-out text", "loss": "the same text"}
LEAST_SPAN = 0.2
"""Nats that an axis of losses spans at least, so that rounding is not drawn as a mountain range."""
SYMBOLS = ("circle", "square-open", "diamond", "triangle-up-open", "x")
"""Of sites, which may lie on top of each other."""


def series(
    table: pd.DataFrame,
    site: str | None,
    varies: str,
    *,
    at_ratio: float = AT_RATIO,
    at_factor: float = AT_FACTOR,
) -> pd.DataFrame:
    """The rows of one series, in the order of what varies along it; refused edits left out."""
    rows = table[table["refused"].isna()]
    if varies == "temperature":
        rows = rows[rows["temperature"].notna()]
    else:
        rows = rows[rows["site"] == site]
        rows = rows[
            rows["ratio"] == at_ratio if varies == "factor" else rows["factor"] == at_factor
        ]
    return rows.sort_values(varies)


def trade_off(table: pd.DataFrame) -> go.Figure:
    """What edits do to knowledge entropy, against what they cost: a dot for every edit."""
    figure = _figure("change in knowledge entropy (nats)", "change in held-out loss (nats)", 420)
    made = table[table["refused"].isna()]
    kinds = made["site"].fillna("temperature")
    cost = made["held_out_loss_after"] - made["held_out_loss_before"]
    for index, (kind, rows) in enumerate(made.groupby(kinds, sort=False)):
        figure.add_scatter(
            x=rows["knowledge_entropy_after"] - rows["knowledge_entropy_before"],
            y=cost[rows.index],
            customdata=rows[["edit"]],
            mode="markers",
            marker={
                "color": series_colour(index),
                "size": 10,
                "symbol": SYMBOLS[index % len(SYMBOLS)],
                "line": {"color": series_colour(index), "width": 1.5},
            },
            name=str(kind),
            hovertemplate="%{customdata[0]}: knowledge entropy %{x:+.3f}, held-out loss "
            "<b>%{y:+.3f}</b> nats<extra></extra>",
        )
    unedited = {"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"}
    figure.add_hline(y=0, line=unedited)
    figure.add_vline(x=0, line=unedited)
    _widen(figure, min(cost, default=0.0), max(cost, default=0.0))
    return figure


def entropy_changes(
    rows: pd.DataFrame,
    varies: str,
    measures: tuple[str, ...] = ("knowledge_entropy", "contribution_entropy"),
) -> go.Figure:
    """Change of entropies from the unedited model: dots as measured, open ones as predicted."""
    figure = _figure(AXES[varies], "change in entropy (nats)")
    for index, measure in enumerate(measures):
        before, colour = rows[f"{measure}_before"], series_colour(index)
        for when in ("after", "predicted"):
            values = rows.get(f"{measure}_{when}")
            if values is None or values.isna().all():
                continue
            measured = when == "after"
            name = MEASURES[measure]
            figure.add_scatter(
                x=rows[varies],
                y=values - before,
                customdata=pd.DataFrame({"edit": rows["edit"], "entropy": values}),
                mode="lines+markers",
                line={"color": colour, "width": 2 if measured else 1.2}
                | ({} if measured else {"dash": "dot"}),
                marker={
                    "color": colour,
                    "size": 7,
                    "symbol": "circle" if measured else "circle-open",
                },
                name=name if measured else f"{name}, predicted",
                showlegend=measured,
                hovertemplate="%{customdata[0]}: <b>%{y:+.4f}</b>, at %{customdata[1]:.4f} nats"
                "<extra></extra>",
            )
    figure.add_hline(y=0, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"})
    return figure


def losses(rows: pd.DataFrame, varies: str) -> go.Figure:
    """Loss on the measured text and on held-out text, with a line for the unedited model."""
    figure = _figure(AXES[varies], "loss (nats per token)")
    for index, (measure, name) in enumerate(LOSSES.items()):
        colour = series_colour(index)
        figure.add_scatter(
            x=rows[varies],
            y=rows[f"{measure}_after"],
            customdata=rows[["edit"]],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 7},
            name=name,
            hovertemplate="%{customdata[0]}: <b>%{y:.4f}</b> nats<extra></extra>",
        )
        figure.add_hline(
            y=rows[f"{measure}_before"].iloc[0], line={"color": colour, "width": 1, "dash": "dot"}
        )
    drawn = rows[[f"{measure}_{when}" for measure in LOSSES for when in ("before", "after")]]
    _widen(figure, drawn.min().min(), drawn.max().max())
    return figure


def _widen(figure: go.Figure, low: float, high: float) -> None:
    """Give the axis of losses its least span, around what is drawn."""
    if high - low < LEAST_SPAN:
        middle = (low + high) / 2
        figure.update_yaxes(range=[middle - LEAST_SPAN / 2, middle + LEAST_SPAN / 2])


def _figure(x_title: str, y_title: str, height: int = 340) -> go.Figure:
    return go.Figure(
        layout={
            "template": template(),
            "height": height,
            "hovermode": "closest",
            "xaxis": {"title": {"text": x_title}},
            "yaxis": {"title": {"text": y_title}},
        }
    )
