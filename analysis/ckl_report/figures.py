"""Figures of runs of continual knowledge learning, as pure functions of the summary's tables.

Arms keep their colour in all figures; of more than six, colours run over a scale in the order of
the arms, which is that of age along a trajectory.

Example:
    >>> knowledge_over_steps(probes, colours, "met").show()                  # doctest: +SKIP
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analysis.theme import (
    DEPTH_SCALE,
    REFERENCE_COLOUR,
    SERIES_COLOURS,
    label,
    series_colour,
    template,
)

_ROW = 24
"""Pixels of an arm in a figure with a row for each."""
_LEGEND_ARMS = 8
"""Of more arms a legend would be larger than the figure; names are shown where one points."""


def arm_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every arm."""
    if len(names) <= len(SERIES_COLOURS):
        return {name: series_colour(place) for place, name in enumerate(names)}
    scale = [list(stop) for stop in DEPTH_SCALE]
    places = [place / (len(names) - 1) for place in range(len(names))]
    return dict(zip(names, sample_colorscale(scale, places), strict=True))


def knowledge_over_steps(
    table: pd.DataFrame, colours: Mapping[str, str], injections: Sequence[int]
) -> go.Figure:
    """K at every look, a line for each arm; ticks at the bottom are injections.

    Args:
        table: columns `arm`, `step`, `score`.
        colours: of the arms.
        injections: updates before each round.
    """
    figure = _figure("step", "K (nats)", 360, legend=len(colours) <= _LEGEND_ARMS)
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


def dots_by_arm(
    table: pd.DataFrame,
    colours: Mapping[str, str],
    x_title: str,
    *,
    seeds: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
    form: str = "",
) -> go.Figure:
    """A number of every arm in a row of its own, with its interval; the first arm at the top.

    Args:
        table: columns `arm`, `value`, `low`, `high`.
        colours: of the arms.
        x_title: what the number is.
        seeds: the same of single seeds, as faint dots.
        controls: the same of a control, as open dots.
        form: of the numbers, `.1%` say.
    """
    names = list(dict.fromkeys(table["arm"]))
    places = {name: place for place, name in enumerate(names)}
    figure = _figure(x_title, "", 110 + _ROW * len(names), legend=False)
    drawn: list[tuple[pd.DataFrame | None, str, dict[str, object]]] = [
        (seeds, "a seed", {"size": 5, "opacity": 0.4}),
        (controls, "held-out passages", {"size": 8, "symbol": "circle-open"}),
    ]
    for rows, what, marker in drawn:
        if rows is None or rows.empty:
            continue
        figure.add_scatter(
            x=rows["value"],
            y=[places[name] for name in rows["arm"]],
            mode="markers",
            marker={**marker, "color": [colours[name] for name in rows["arm"]]},
            customdata=[[label(name)] for name in rows["arm"]],
            hovertemplate=f"%{{customdata[0]}}, {what}: %{{x:{form}}}<extra></extra>",
        )
    for _, row in table.iterrows():
        name, colour = label(row["arm"]), colours[row["arm"]]
        figure.add_scatter(
            x=[row["value"]],
            y=[places[row["arm"]]],
            error_x=_error(row, colour),
            mode="markers",
            marker={"color": colour, "size": 9},
            name=name,
            hovertemplate=f"{name}: <b>%{{x:{form}}}</b><extra></extra>",
        )
    figure.add_vline(x=0, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"})
    figure.update_xaxes(tickformat=form or None)
    figure.update_yaxes(
        tickvals=list(places.values()),
        ticktext=[label(name) for name in names],
        range=[len(names) - 0.4, -0.6],
    )
    return figure


def forgetting_curves(points: pd.DataFrame, colours: Mapping[str, str]) -> go.Figure:
    """The share of gains that is left, with the lines fitted to it.

    Args:
        points: columns `arm`, `offset`, `retained`, `fitted`, of one exposure.
        colours: of the arms.
    """
    legend = len(colours) <= _LEGEND_ARMS
    figure = _figure("steps after the last maximum", "share of the gain left", 340, legend=legend)
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
    """A number of every start against its pretraining step, a line for each series.

    Args:
        points: `analysis.ckl_report.trajectory.trajectory_points`.
        measure: the column.
        colours: of the arms.
    """
    figure = _figure("pretraining step of the start", measure, 340, legend=False)
    for _, rows in points.groupby("series", sort=False):
        _add_points(figure, rows, rows["step"], measure, colours, line=True)
    return figure


def against_entropy(
    points: pd.DataFrame, entropy: str, measure: str, colours: Mapping[str, str]
) -> go.Figure:
    """A number of every start against an entropy of it.

    Args:
        points: `analysis.ckl_report.trajectory.trajectory_points`.
        entropy: its column.
        measure: the other column.
        colours: of the arms.
    """
    figure = _figure(f"{entropy} of the start (nats)", measure, 340, legend=False)
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


def _error(row: pd.Series, colour: str) -> dict[str, object] | None:
    if pd.isna(row["low"]):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [row["high"] - row["value"]],
        "arrayminus": [row["value"] - row["low"]],
        "color": colour,
        "thickness": 1.4,
        "width": 4,
    }


def _figure(x_title: str, y_title: str, height: int, *, legend: bool) -> go.Figure:
    return go.Figure(
        layout={
            "template": template(),
            "height": height,
            "hovermode": "closest",
            "showlegend": legend,
            "xaxis": {"title": {"text": x_title}},
            "yaxis": {"title": {"text": y_title}},
        }
    )
