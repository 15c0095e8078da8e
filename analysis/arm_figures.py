"""Figures of runs: knowledge and forgetting over steps, stages, layers and pretraining, by arm.

Arms keep their colour in all figures of a report.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import dots, empty, layer_axis, lines, mark
from analysis.numbers import label
from analysis.theme import REFERENCE_COLOUR

Colours = Mapping[str, str]
"""By the names of arms."""


def knowledge_over_steps(
    table: pd.DataFrame, colours: Colours, injections: Sequence[int]
) -> go.Figure:
    """K at every evaluation, a line for each arm; ticks at the bottom are injections."""
    titles, hover = ("step", "K (nats)"), "step {step}: <b>{score:.3f}</b> nats"
    of: dict[str, Any] = {"by": "arm", "colours": colours, "titles": titles, "keys": True}
    figure = lines(table, "step", "score", hover=hover, **of)
    if len(table):
        low, high = table["score"].min(), table["score"].max()
        figure.add_scatter(
            x=list(injections),
            y=[low - 0.04 * (high - low)] * len(injections),
            mode="markers",
            marker={"symbol": "line-ns-open", "color": REFERENCE_COLOUR, "size": 8},
            name="injections",
            showlegend=False,
            hovertemplate="injection after %{x} updates<extra></extra>",
        )
    return figure


def forgetting_curves(points: pd.DataFrame, colours: Colours) -> go.Figure:
    """The share of gains that is left, with the lines fitted to it."""
    titles = ("steps after the last maximum", "share of the gain left")
    hover = "{offset} steps: <b>{retained:.1%}</b>"
    of: dict[str, Any] = {"by": "arm", "colours": colours, "titles": titles, "keys": True}
    figure = dots(points, "offset", "retained", hover=hover, size=6, **of)
    lines(points, "offset", "fitted", width=1.4, onto=figure, **of)
    figure.update_xaxes(type="log", dtick="D2" if len(points) else None)
    return figure.update_yaxes(tickformat=".0%")


def over_pretraining(points: pd.DataFrame, x: str, measure: str, colours: Colours) -> go.Figure:
    """A number of every start against its pretraining step, or against an entropy of it.

    Over steps, which are `x = "step"`, there is a line for each series.
    """
    over_steps, is_share = x == "step", measure[0] in "AF"
    x_title = "pretraining step of the start" if over_steps else f"{x} of the start (nats)"
    figure = empty(x_title, measure)
    if over_steps:
        grey = dict.fromkeys(points["series"], REFERENCE_COLOUR)
        lines(points, x, measure, by="series", colours=grey, width=1.2, onto=figure)
    steps = {} if over_steps else {"text": "step", "textposition": "top center"}
    hover = f"{{{x}:,}}, <b>{{{measure}:{'.1%' if is_share else '.3f'}}}</b>"
    mode = "markers" if over_steps else "markers+text"
    of = {"by": "arm", "colours": colours, "hover": hover, "mode": mode, "onto": figure, **steps}
    dots(points, x, measure, size=9, **of)
    return figure.update_layout(showlegend=False).update_yaxes(
        tickformat=".0%" if is_share else None
    )


def over_stages(
    table: pd.DataFrame,
    colours: Colours,
    stages: Sequence[str],
    y_title: str,
    *,
    form: str = ".3f",
    dashes: str | None = None,
    band: bool = False,
    log: bool = False,
) -> go.Figure:
    """Curves over the stages, a line for each arm; the boundaries of stages are marked."""
    figure = lines(
        table,
        "place",
        "value",
        by=["arm", *([dashes] if dashes else [])],
        colours=colours,
        titles=("stage", y_title),
        hover=f"stage {{stage}}, step {{step:,.0f}}: <b>{{value:{form}}}</b>",
        ends=("low", "high") if band else None,
        band=band,
        keys=True,
    )
    for place in range(1, len(stages)):
        mark(figure, x=place, width=1.2)
    names = list(map(label, stages))
    middles = [place + 0.5 for place in range(len(stages))]
    figure.update_xaxes(range=[-0.02, len(stages) + 0.02], tickvals=middles, ticktext=names)
    figure.update_xaxes(showgrid=False)
    return figure.update_yaxes(
        tickformat=form if "%" in form else None, type="log" if log else None
    )


def by_layer(table: pd.DataFrame, colours: Colours, x_title: str) -> go.Figure:
    """A number of every layer, a line for each arm; layer 0 at the bottom."""
    of: dict[str, Any] = {"by": "arm", "colours": colours, "titles": (x_title, "layer")}
    of |= {"hover": "layer {layer}: <b>{value:.3g}</b>", "mode": "lines+markers"}
    figure = lines(table.astype({"layer": int}), "value", "layer", width=1.4, size=7, **of)
    return layer_axis(figure, int(table["layer"].max()) + 1)
