"""Figures of runs of continual memorization, as pure functions of the summary's tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import unlabel_rgb

from analysis.arm_figures import LEGEND_ARMS, empty_figure
from analysis.theme import REFERENCE_COLOUR, label, template

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_HEIGHT = 360


def over_stages(
    table: pd.DataFrame,
    colours: Mapping[str, str],
    stages: Sequence[str],
    y_title: str,
    *,
    form: str = ".3f",
    dashes: str | None = None,
    band: bool = False,
) -> go.Figure:
    """Curves over the stages, a line for each arm; the boundaries of stages are marked."""
    lines = table.groupby(["arm", *([dashes] if dashes else [])], sort=False)
    figure = empty_figure("stage", y_title, _HEIGHT, legend=lines.ngroups <= LEGEND_ARMS)
    kinds = [] if dashes is None else list(dict.fromkeys(table[dashes]))
    for keys, rows in lines:
        arm, kind = keys[0], keys[1] if dashes else None
        name = label(str(arm) if kind is None else f"{arm}: {kind}")
        style = {"color": colours[str(arm)], "width": 1.8}
        if kind is not None:
            style["dash"] = _DASHES[kinds.index(kind) % len(_DASHES)]
        if band and (rows["high"] > rows["low"]).any():
            figure.add_scatter(**_band(rows, str(style["color"])))
        figure.add_scatter(
            x=rows["place"],
            y=rows["value"],
            customdata=rows[["stage", "step"]],
            mode="lines",
            line=style,
            name=name,
            hovertemplate=f"{name}, stage %{{customdata[0]}}, step %{{customdata[1]:,.0f}}: "
            f"<b>%{{y:{form}}}</b><extra></extra>",
        )
    _mark_stages(figure, stages)
    return figure.update_yaxes(tickformat=form if "%" in form else None)


def by_layer(table: pd.DataFrame, colours: Mapping[str, str], x_title: str) -> go.Figure:
    """A number of every layer, a line for each arm; layer 0 at the bottom."""
    n_layers = int(table["layer"].max()) + 1
    height = int(np.clip(190 + 14 * n_layers, 300, 760))
    figure = empty_figure(x_title, "layer", height, legend=len(colours) <= LEGEND_ARMS)
    for arm, rows in table.groupby("arm", sort=False):
        name = label(str(arm))
        figure.add_scatter(
            x=rows["value"],
            y=rows["layer"].astype(int),
            mode="lines+markers",
            line={"color": colours[str(arm)], "width": 1.4},
            marker={"size": 7},
            name=name,
            hovertemplate=f"{name}, layer %{{y}}: <b>%{{x:.3g}}</b><extra></extra>",
        )
    return figure.update_yaxes(range=[-0.7, n_layers - 0.3], dtick=max(1, -(-n_layers // 16)))


def relearning_curves(table: pd.DataFrame, colours: Mapping[str, str], y_title: str) -> go.Figure:
    """What came back step by step: a dash for each kind of items."""
    figure = empty_figure("steps of relearning", y_title, _HEIGHT, legend=False)
    kinds = list(dict.fromkeys(table["of"]))
    for (arm, kind), rows in table.groupby(["arm", "of"], sort=False):
        name = label(f"{arm}: {kind}")
        figure.add_scatter(
            x=rows["step"],
            y=rows["value"],
            mode="lines+markers",
            line={"color": colours[str(arm)], "width": 1.6, "dash": _DASHES[kinds.index(kind)]},
            marker={"size": 5},
            name=name,
            hovertemplate=f"{name}, step %{{x}}: <b>%{{y:.1%}}</b><extra></extra>",
        )
    return figure.update_yaxes(tickformat=".0%")


def _band(rows: pd.DataFrame, colour: str) -> dict[str, object]:
    return {
        "x": [*rows["place"], *rows["place"][::-1]],
        "y": [*rows["high"], *rows["low"][::-1]],
        "fill": "toself",
        "fillcolor": _faint(colour),
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _faint(colour: str) -> str:
    """A colour as a shade, whether it is written as hexadecimal or as rgb(...)."""
    if colour.startswith("#"):
        parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    else:
        parts = [round(value) for value in unlabel_rgb(colour)]
    return f"rgba({parts[0]},{parts[1]},{parts[2]},0.14)"


def _mark_stages(figure: go.Figure, stages: Sequence[str]) -> None:
    for place in range(1, len(stages)):
        figure.add_vline(x=place, line={"color": REFERENCE_COLOUR, "width": 1.2, "dash": "dot"})
    figure.update_layout(template=template())
    figure.update_xaxes(
        range=[-0.02, len(stages) + 0.02],
        tickvals=[place + 0.5 for place in range(len(stages))],
        ticktext=[label(stage) for stage in stages],
        showgrid=False,
    )
