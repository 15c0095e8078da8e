"""Figures of the page, as pure functions of tables with one number for each run.

Every trace says which series and seed it is of, so that the page's switches act on it; panels of
the same axis name it, so that pointing at one shows the same place in the others.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.arm_figures import dots_by_arm, empty_figure
from analysis.report.over_seeds import over_seeds, rounded
from analysis.report.switches import MEAN, keyed, seed_key
from analysis.theme import REFERENCE_COLOUR, SEQUENTIAL_SCALE, SIGNED_SCALE, label

_HEIGHT = 320
_SPIKE = {
    "showspikes": True,
    "spikemode": "across",
    "spikesnap": "data",
    "spikethickness": 1,
    "spikedash": "dot",
    "spikecolor": REFERENCE_COLOUR,
}
_THIN, _THICK = 1.0, 2.6
_FAINT = 0.4
_LEAST_LINES = 2
"""Seeds of which single lines are drawn beside their mean."""
_CELL = 14
"""Pixels of a layer in a heatmap."""
_FEW_TICKS = 4
_LEAST_ROWS = 8
"""Layers that a heatmap is tall enough for, however few there are."""
_MOST_LABELS = 9
_MOST_LAYERS = 16
"""Labels of an axis of steps, and of one of layers."""


def linked(figure: go.Figure, axis: str) -> go.Figure:
    """A figure whose panels follow one another along an axis."""
    return figure.update_layout(meta={"axis": axis}).update_xaxes(**_SPIKE)


def arm_dots(
    means: pd.DataFrame,
    colours: Mapping[str, str],
    x_title: str,
    *,
    seeds: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
    control_name: str = "",
    form: str = "",
    from_zero: bool = True,
) -> go.Figure:
    """A number of every arm in a row of its own, in the order of the colours."""
    by_arm = means.set_index("arm")
    ours = by_arm.loc[[name for name in colours if name in by_arm.index]].reset_index()
    several = None if seeds is None else seeds[seeds.duplicated("arm", keep=False)]
    drawn = dots_by_arm(
        ours,
        colours,
        x_title,
        seeds=several,
        controls=controls,
        control_name=control_name,
        form=form,
    )
    if not from_zero:
        drawn.layout.shapes = ()
    # As short as they can be: beside the names there is little room on a telephone.
    ticks = form.replace("%", "~%") if "%" in form else ""
    return keyed(drawn, colours).update_xaxes(nticks=_FEW_TICKS, tickangle=0, tickformat=ticks)


def lines_over(
    runs: pd.DataFrame,
    x_title: str,
    y_title: str,
    colours: Mapping[str, str],
    *,
    form: str = ".3f",
    intervals: bool = False,
) -> go.Figure:
    """A number along an axis: thin lines for seeds, a thick one for their mean."""
    figure = empty_figure(x_title, y_title, _HEIGHT, legend=False)
    means = over_seeds(runs, ["series", "x"])
    for series, colour in colours.items():
        ours = runs[runs["series"] == series].sort_values("x")
        if ours["seed"].nunique() >= _LEAST_LINES:
            for seed, rows in ours.groupby("seed"):
                _add_line(figure, rows, series, colour, form, seed_key(seed), _THIN)
        mean = means[means["series"] == series].sort_values("x")
        if len(mean):
            _add_line(figure, mean, series, colour, form, MEAN, _THICK, intervals=intervals)
    return linked(figure.update_yaxes(tickformat=form if "%" in form else None), x_title)


def _add_line(
    figure: go.Figure,
    rows: pd.DataFrame,
    series: str,
    colour: str,
    form: str,
    of: str,
    width: float,
    *,
    intervals: bool = False,
) -> None:
    is_mean = of == MEAN
    name = label(f"{series}, {of}")
    figure.add_scatter(
        x=[_plain(value) for value in rows["x"]],
        y=rounded(rows["value"]),
        error_y=_bars(rows, colour) if intervals else None,
        mode="lines+markers" if is_mean else "lines",
        line={"color": colour, "width": width},
        marker={"color": colour, "size": 6},
        opacity=1 if is_mean else _FAINT,
        name=name,
        meta={"keys": [series, of]},
        hovertemplate=f"{name}, %{{x:,}}: <b>%{{y:{form}}}</b><extra></extra>",
    )


def _bars(rows: pd.DataFrame, colour: str) -> dict[str, object] | None:
    if rows["low"].isna().all():
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": rounded((rows["high"] - rows["value"]).fillna(0)),
        "arrayminus": rounded((rows["value"] - rows["low"]).fillna(0)),
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def add_reference(figure: go.Figure, value: float, name: str) -> go.Figure:
    """A dotted line across a figure, for what others are compared with."""
    figure.add_hline(
        y=value,
        line={"color": REFERENCE_COLOUR, "width": 1.2, "dash": "dot"},
        annotation={"text": label(name), "font": {"size": 11}, "yanchor": "bottom"},
        annotation_position="top right",
    )
    return figure


def between_ends(runs: pd.DataFrame) -> pd.DataFrame:
    """Numbers of every series on a scale from its least (0) to its most
    (1), over means of seeds.
    """
    means = runs.groupby(["series", "x"], sort=False, as_index=False)["value"].mean()
    ends = means.groupby("series")["value"].agg(["min", "max"])
    low, high = (means["series"].map(ends[name]) for name in ("min", "max"))
    moving = (high > low).to_numpy()
    scaled = means.assign(value=(means["value"] - low) / (high - low).where(moving), seed=0)
    return scaled[moving]


def layer_heatmap(
    rows: pd.DataFrame, unit: str, *, signed: bool, form: str = ".3f", reach: float | None = None
) -> go.Figure:
    """A number of every layer at every step; layer 0 at the bottom."""
    grid = rows.astype({"value": float, "layer": int}).pivot_table("value", "layer", "x")
    names = [f"{step:,}" if isinstance(step, int) else str(step) for step in grid.columns]
    reach = reach or float(np.nanmax(np.abs(grid.to_numpy()))) or 1.0
    scale = {"zmid": 0.0, "zmin": -reach, "zmax": reach} if signed else {}
    height = 150 + _CELL * max(_LEAST_ROWS, len(grid))
    figure = empty_figure("pretraining step", "layer", height, legend=False)
    figure.add_heatmap(
        x=names,
        y=[int(layer) for layer in grid.index],
        z=[rounded(pd.Series(row)) for row in grid.to_numpy()],
        colorscale=SIGNED_SCALE if signed else SEQUENTIAL_SCALE,
        colorbar={"title": {"text": unit, "side": "top"}, "thickness": 10, "outlinewidth": 0},
        hovertemplate=f"step %{{x}}, layer %{{y}}: <b>%{{z:{form}}}</b> {unit}<extra></extra>",
        xgap=1,
        ygap=1,
        **scale,
    )
    apart = -(-len(names) // _MOST_LABELS)
    shown = names[::apart]
    figure.update_xaxes(type="category", tickvals=shown, ticktext=shown, showgrid=False)
    return figure.update_yaxes(showgrid=False, dtick=max(1, -(-len(grid) // _MOST_LAYERS)))


def mark_maxima(
    figure: go.Figure, maxima: pd.DataFrame, colours: Mapping[str, str], unit: str
) -> go.Figure:
    """Open dots at the best place after each encounter."""
    for arm, rows in maxima.groupby("arm", sort=False):
        name = str(arm)
        figure.add_scatter(
            x=[_plain(step) for step in rows["step"]],
            y=rounded(rows["score"]),
            mode="markers",
            marker={"color": colours[name], "size": 7, "symbol": "circle-open"},
            name=label(name),
            hovertemplate=f"{label(name)}, local maximum at step %{{x}}: <b>%{{y:.3f}}</b> {unit}"
            "<extra></extra>",
        )
    return figure


def thinned(steps: np.ndarray, most: int) -> np.ndarray:
    """Places of so many steps that a figure can show, the ends among them."""
    places = np.linspace(0, len(steps) - 1, min(most, len(steps)))
    return np.unique(np.rint(places).astype(int))


def has_order(values: pd.Series) -> bool:
    """Whether there are two different numbers or more, so that a line can be drawn."""
    found = sorted(set(values))
    return any(low < high for low, high in pairwise(found))


def _plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else value
