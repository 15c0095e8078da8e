"""Arm figures: numbers of several arms, as every report of runs draws them.

Arms keep their colour in all figures; of more than six, colours run over a scale in the order of
the arms.

Example:
    >>> list(arm_colours(["none", "replay"]))
    ['none', 'replay']
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
LEGEND_ARMS = 8
"""Of more arms a legend would be larger than the figure; names are shown where one points."""


def arm_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every arm."""
    if len(names) <= len(SERIES_COLOURS):
        return {name: series_colour(place) for place, name in enumerate(names)}
    scale = [list(stop) for stop in DEPTH_SCALE]
    places = [place / (len(names) - 1) for place in range(len(names))]
    return dict(zip(names, sample_colorscale(scale, places), strict=True))


def dots_by_arm(
    table: pd.DataFrame,
    colours: Mapping[str, str],
    x_title: str,
    *,
    seeds: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
    control_name: str = "held-out passages",
    form: str = "",
) -> go.Figure:
    """A number of every arm in a row of its own, with its interval; the first arm at the top."""
    others = [rows["arm"] for rows in (seeds, controls) if rows is not None]
    names = list(dict.fromkeys(name for arms in (table["arm"], *others) for name in arms))
    places = {name: place for place, name in enumerate(names)}
    figure = empty_figure(x_title, "", 110 + _ROW * len(names), legend=False)
    drawn: list[tuple[pd.DataFrame | None, str, dict[str, object]]] = [
        (seeds, "a seed", {"size": 5, "opacity": 0.4}),
        (controls, control_name, {"size": 8, "symbol": "circle-open"}),
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


def empty_figure(x_title: str, y_title: str, height: int, *, legend: bool) -> go.Figure:
    """A figure without traces."""
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
