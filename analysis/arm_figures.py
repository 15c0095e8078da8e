"""Arm figures: numbers of several arms, as every report of runs draws them.

Arms keep their colour in all figures; of more than six, colours run over a scale in the order of
the arms.

Example:
    >>> list(arm_colours(["none", "replay"]))
    ['none', 'replay']
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import unlabel_rgb

from analysis.figures import MOST_NAMED as LEGEND_ARMS
from analysis.figures import colours_of as arm_colours
from analysis.figures import dots_by_name as dots_by_arm
from analysis.figures import empty
from analysis.numbers import label
from analysis.theme import REFERENCE_COLOUR, template

__all__ = ["arm_colours", "dots_by_arm"]


def empty_figure(x_title: str, y_title: str, height: int, *, legend: bool) -> go.Figure:
    """A figure without traces."""
    return empty(x_title, y_title, height).update_layout(showlegend=legend)


def knowledge_over_steps(
    table: pd.DataFrame, colours: Mapping[str, str], injections: Sequence[int]
) -> go.Figure:
    """K at every look, a line for each arm; ticks at the bottom are injections."""
    figure = empty_figure("step", "K (nats)", 360, legend=len(colours) <= LEGEND_ARMS)
    for arm, rows in table.groupby("arm", sort=False):
        name = label(str(arm))
        figure.add_scatter(
            x=rows["step"],
            y=rows["score"],
            mode="lines",
            line={"color": colours[str(arm)], "width": 1.8},
            name=name,
            hovertemplate=f"{name}, step %{{x}}: <b>%{{y:.3f}}</b> nats<extra></extra>",
        )
    if len(table):
        bottom = table["score"].min() - 0.04 * (table["score"].max() - table["score"].min())
        figure.add_scatter(
            x=list(injections),
            y=[bottom] * len(injections),
            mode="markers",
            marker={"symbol": "line-ns-open", "color": REFERENCE_COLOUR, "size": 8},
            name="injections",
            showlegend=False,
            hovertemplate="injection after %{x} updates<extra></extra>",
        )
    return figure


def forgetting_curves(points: pd.DataFrame, colours: Mapping[str, str]) -> go.Figure:
    """The share of gains that is left, with the lines fitted to it."""
    legend = len(colours) <= LEGEND_ARMS
    figure = empty_figure(
        "steps after the last maximum", "share of the gain left", 340, legend=legend
    )
    for arm, rows in points.groupby("arm", sort=False):
        name, colour = label(str(arm)), colours[str(arm)]
        figure.add_scatter(
            x=rows["offset"],
            y=rows["retained"],
            mode="markers",
            marker={"color": colour, "size": 6},
            name=name,
            hovertemplate=f"{name}, %{{x}} steps: <b>%{{y:.1%}}</b><extra></extra>",
        )
        figure.add_scatter(
            x=rows["offset"],
            y=rows["fitted"],
            mode="lines",
            line={"color": colour, "width": 1.4},
            showlegend=False,
            hoverinfo="skip",
        )
    figure.update_xaxes(type="log", dtick="D2" if len(points) else None)
    figure.update_yaxes(tickformat=".0%")
    return figure


def over_pretraining(points: pd.DataFrame, measure: str, colours: Mapping[str, str]) -> go.Figure:
    """A number of every start against its pretraining step, a line for each series."""
    figure = empty_figure("pretraining step of the start", measure, 340, legend=False)
    for _, rows in points.groupby("series", sort=False):
        _add_points(figure, rows, rows["step"], measure, colours, line=True)
    return figure


def against_entropy(
    points: pd.DataFrame, entropy: str, measure: str, colours: Mapping[str, str]
) -> go.Figure:
    """A number of every start against an entropy of it."""
    figure = empty_figure(f"{entropy} of the start (nats)", measure, 340, legend=False)
    for _, rows in points.groupby("series", sort=False):
        _add_points(figure, rows, rows[entropy], measure, colours, line=False)
    return figure


def _add_points(
    figure: go.Figure,
    rows: pd.DataFrame,
    x: pd.Series,
    measure: str,
    colours: Mapping[str, str],
    *,
    line: bool,
) -> None:
    share = measure[0] in "AF"
    figure.add_scatter(
        x=x,
        y=rows[measure],
        customdata=[[label(name)] for name in rows["arm"]],
        text=None if line else [str(step) for step in rows["step"]],
        textposition="top center",
        mode="lines+markers" if line else "markers+text",
        line={"color": REFERENCE_COLOUR, "width": 1.2},
        marker={"color": [colours[name] for name in rows["arm"]], "size": 9},
        hovertemplate="%{customdata[0]}: %{x:,}, <b>"
        + ("%{y:.1%}" if share else "%{y:.3f}")
        + "</b><extra></extra>",
    )
    if share:
        figure.update_yaxes(tickformat=".0%")


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
