"""What sections of the page are built of: tables over seeds, and figures that switches act on.

A section is a function from `Material` to a `Part`; what there are no results for has none. Runs
come as tables with a row for each run, `seed` and `value`; means are over runs that differ in
nothing but their seed, with Student's interval over seeds (`analysis.statistics.tests`). Every
trace says in `meta["keys"]` which series and seed it stands for, so that the page can switch it
off; panels of one axis name it, so that pointing at one shows the same place in the others.

Example:
    >>> runs = pd.DataFrame({"arm": "a", "seed": [0, 1, 2], "value": [1.0, 2.0, 3.0]})
    >>> over_seeds(runs, ["arm"]).round(2).to_dict("records")
    [{'arm': 'a', 'value': 2.0, 'low': -0.48, 'high': 4.48, 'seeds': 3}]
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.arms import UNEDITED_NAME
from analysis.claims.choices import Anchor
from analysis.document import Figure, Panel, Section, Switches, Table
from analysis.document import Part as Piece
from analysis.figures import dots_by_name, empty, heatmap, lines, mark
from analysis.statistics.tests import is_constant, mean_over_seeds
from analysis.theme import REFERENCE_COLOUR

MEAN = "mean over seeds"
LEAST_SEEDS = 2
"""Below it there is no interval, and no line of a single seed."""
_DIGITS = 12
"""Digits of differences: what differs less is the rounding of sums."""
_IN_A_ROW = 3
"""Panels, where the window is wide enough."""
_HEIGHT = 320
_CELL, _LEAST_ROWS = 14, 8
"""Pixels of a layer in a heatmap, and layers that it is tall enough for, however few there are."""
_FEW_TICKS = 4
_SPIKE = {
    "showspikes": True,
    "spikemode": "across",
    "spikesnap": "data",
    "spikethickness": 1,
    "spikedash": "dot",
    "spikecolor": REFERENCE_COLOUR,
}


Each = TypeVar("Each")
ByPanel: TypeAlias = Each | Mapping[str, Each]
"""The same for all panels, or by their names."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page.

    Attributes:
        tables: what its figures show, by the names of their files; empty ones are left out.
        findings: sentences for the head of the page.
        anchors: of figures in it, beside its own.
    """

    anchor: Anchor
    heading: str
    pieces: Sequence[Piece]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    findings: Sequence[str] = ()
    anchors: Sequence[Anchor] = ()

    @property
    def section(self) -> Section:
        """The part as a section of a report."""
        return Section(self.heading, self.pieces, anchor=str(self.anchor))


def run_means(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The mean of every run over its items."""
    return rows.groupby([*keys, "seed"], sort=False, as_index=False)["value"].mean()


def over_seeds(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The mean of runs over their seeds: the keys, `value`, `low`, `high` and `seeds`."""
    _refuse_repeated(runs, [*keys, "seed"])
    rows = []
    for key, found in runs.groupby(list(keys), sort=False)["value"]:
        values = found.to_numpy(dtype=np.float64)
        ends: tuple[float | None, float | None] = (None, None)
        if len(values) >= LEAST_SEEDS and not is_constant(values):
            ends = mean_over_seeds(values).interval[:2]
        rows.append((*key, float(values.mean()), *ends, len(values)))
    columns = [*keys, "value", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})


def differences(runs: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Every run less that of a base with the same seed and all else that the base says."""
    agree = [name for name in base.columns if name != "value"]
    _refuse_repeated(base, agree)
    both = runs.merge(base, on=agree, suffixes=("", "_base"))
    apart = (both["value"] - both["value_base"]).round(_DIGITS)
    return both.assign(value=apart).drop(columns="value_base")


def _refuse_repeated(runs: pd.DataFrame, keys: Sequence[str]) -> None:
    repeated = runs[runs.duplicated(list(keys), keep=False)]
    if len(repeated):
        first = ", ".join(f"{name} {repeated.iloc[0][name]}" for name in keys)
        raise ValueError(
            f"found {len(repeated)} runs that nothing here tells apart, such as those of {first}; "
            "report them one by one"
        )


def figure(
    title: str,
    caption: str,
    panels: Iterable[Panel],
    *,
    anchor: Anchor | None = None,
    is_wide: bool | None = None,
) -> list[Figure]:
    """A figure, if it has panels; wide where its last row would be a single one of three."""
    found = list(panels)
    wide = len(found) > 1 and len(found) % _IN_A_ROW == 1 if is_wide is None else is_wide
    return [Figure(title, caption, found, anchor=anchor, is_wide=wide)] if found else []


def table(
    title: str, note: str, cells: pd.DataFrame, *, is_open: bool | None = None
) -> list[Table]:
    """A table of texts with a name for each row, if it has rows."""
    header, rows = ["", *map(str, cells.columns)], cells.reset_index().to_numpy(dtype=str).tolist()
    return [Table.of_rows(title, header, rows, note=note, is_open=is_open)] if rows else []


def crossed(
    rows: pd.DataFrame, down: str, across: str, cell: Callable[[pd.Series], str]
) -> pd.DataFrame:
    """Cells of the values of one column by those of another, both in the order they come in."""
    texts = rows.assign(cell=[cell(row) for _, row in rows.iterrows()])
    names, columns = (list(dict.fromkeys(rows[name])) for name in (down, across))
    return texts.pivot(index=down, columns=across, values="cell").loc[names, columns].fillna("")


def seed_switches(series: str, colours: Mapping[str, str], seeds: Iterable[int]) -> Switches:
    """Switches of series, and of seeds and their mean where there are several."""
    keys = [f"seed {seed}" for seed in sorted(set(seeds))]
    of_seeds = dict.fromkeys([*keys, MEAN]) if len(keys) >= LEAST_SEEDS else {}
    return Switches({series: colours, "Seeds": of_seeds})


def linked(drawn: go.Figure, axis: str) -> go.Figure:
    """A figure without a legend whose panels follow one another along an axis."""
    drawn.update_layout(meta={"axis": axis}, showlegend=False)
    return drawn.update_xaxes(title_text=axis, **_SPIKE)


def dot_panels(
    means: pd.DataFrame,
    colours: Mapping[str, str],
    x_title: str = "",
    *,
    seeds: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
    control_name: str = "",
    form: ByPanel[str] = "",
    marks_zero: ByPanel[bool] = True,
) -> Iterator[Panel]:
    """For each `panel`, a number of every `arm` in a row of its own, in the order of colours."""
    for panel, rows in means.groupby("panel", sort=False):
        ours = rows.set_index("arm").loc[[name for name in colours if name in set(rows["arm"])]]
        others = [None if one is None else one[one["panel"] == panel] for one in (seeds, controls)]
        if others[0] is not None:
            others[0] = others[0][others[0].duplicated("arm", keep=False)]
        shown = _of(form, panel)
        given: dict[str, Any] = {
            "seeds": others[0],
            "controls": others[1],
            "control_name": control_name,
        }
        drawn = dots_by_name(ours.reset_index(), colours, x_title, form=shown, **given)
        if not _of(marks_zero, panel):
            drawn.layout.shapes = ()
        # As short as they can be: beside the names there is little room on a telephone.
        ticks = shown.replace("%", "~%") if "%" in shown else ""
        drawn.update_xaxes(nticks=_FEW_TICKS, tickangle=0, tickformat=ticks)
        yield Panel(drawn, str(panel))


def line_panels(
    runs: pd.DataFrame,
    x_title: ByPanel[str],
    y_title: str,
    colours: Mapping[str, str],
    *,
    form: ByPanel[str] = ".3f",
    intervals: bool = True,
    unedited: Mapping[str, float] | None = None,
) -> Iterator[Panel]:
    """For each `panel`, each `series` along `x`: thin lines for seeds, a thick one for their mean.

    What is `unedited` in a panel is marked as a line across; `form` is d3's format of numbers.
    """
    for panel, rows in runs.groupby("panel", sort=False):
        shown, axis = _of(form, panel), _of(x_title, panel)
        drawn = empty(axis, y_title, _HEIGHT)
        means = over_seeds(rows, ["series", "x"]).assign(of=MEAN)
        looks: dict[str, Any] = {"by": ("series", "of"), "colours": colours, "keys": True}
        looks |= {"hover": f"{{x:,}}: <b>{{value:{shown}}}</b>", "onto": drawn}
        several = rows[rows.groupby("series")["seed"].transform("nunique") >= LEAST_SEEDS]
        single = several.assign(of="seed " + several["seed"].astype(str))
        thin: dict[str, Any] = {"width": 1.0, "opacity": 0.4, "line_dash": "solid"}
        lines(single.sort_values(["series", "seed", "x"]), "x", "value", **thin, **looks)
        ends = ("low", "high") if intervals else None
        thick: dict[str, Any] = {"mode": "lines+markers", "width": 2.6, "ends": ends}
        lines(means.sort_values(["series", "x"]), "x", "value", **thick, **looks)
        if (level := (unedited or {}).get(str(panel))) is not None:
            mark(drawn, y=level, text=UNEDITED_NAME, width=1.2)
        drawn.update_yaxes(tickformat=shown if "%" in shown else None)
        yield Panel(linked(drawn, axis), str(panel))


def _of(value: "ByPanel[Each]", panel: object) -> "Each":
    return value[str(panel)] if isinstance(value, Mapping) else value


def layer_heatmap(
    rows: pd.DataFrame,
    *,
    signed: bool,
    unit: str = "",
    form: str = ".3f",
    reach: float | None = None,
) -> go.Figure:
    """A number of every layer at every step, mean over seeds; layer 0 at the bottom."""
    typed = rows.astype({"value": float, "layer": int})
    means = typed.groupby(["layer", "x"], as_index=False)["value"].mean().sort_values("x")
    return heatmap(
        means.assign(x=[f"{step:,}" for step in means["x"]]),
        *("x", "layer", "value"),
        unit=unit,
        hover=f"step {{x}}, layer {{layer}}: <b>{{value:{form}}}</b> {unit}",
        titles=("pretraining step", "layer"),
        height=150 + _CELL * max(_LEAST_ROWS, means["layer"].nunique()),
        signed=signed,
        limits=None if reach is None else (-reach, reach),
    )


def between_ends(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of every series that moves, from its least (0) to its most (1)."""
    means = runs.groupby(["series", "x"], sort=False, as_index=False)["value"].mean()
    ends = means.groupby("series")["value"].agg(["min", "max"])
    low, high = (means["series"].map(ends[name]) for name in ("min", "max"))
    moving = (high > low).to_numpy()
    scaled = means.assign(value=(means["value"] - low) / (high - low).where(moving), seed=0)
    return scaled[moving].assign(panel="")


def thinned(number: int, most: int) -> np.ndarray:
    """Places of so many of some things that a figure can show, the ends among them."""
    return np.unique(np.rint(np.linspace(0, number - 1, min(most, number))).astype(int))
