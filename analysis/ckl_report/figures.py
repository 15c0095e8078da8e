"""Figures of runs of continual knowledge learning, as pure functions of the summary's tables."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from analysis.arm_figures import LEGEND_ARMS, empty_figure
from analysis.theme import REFERENCE_COLOUR, label


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
