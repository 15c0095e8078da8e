"""What a page and its sections are built of: results read once, names of runs, tables and figures.

A section is a function from `Material` to a `Part`; what there are no results for has none. Means
are over runs that differ in nothing but their seed, with Student's interval over seeds. Every trace
says in `meta["keys"]` which series and seed it stands for, so that the page can switch it off;
panels of one axis name it, so that pointing at one shows the same place in the others.

Example:
    >>> runs = pd.DataFrame({"arm": "a", "seed": [0, 1, 2], "value": [1.0, 2.0, 3.0]})
    >>> over_seeds(runs, ["arm"]).round(2).to_dict("records")
    [{'arm': 'a', 'value': 2.0, 'low': -0.48, 'high': 4.48, 'seeds': 3}]
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.arms import PLAIN_NAME, UNEDITED_NAME, edit_label
from analysis.claims.choices import Anchor
from analysis.claims.ledger import Ledger, read_ledger
from analysis.claims.selection import Settings, rows_with
from analysis.document import Panel, Section, Switches
from analysis.document import Part as Piece
from analysis.document import Table as TextTable
from analysis.figures import REFERENCE_COLOUR, dots_by_name, empty, heatmap, lines, mark
from analysis.measurements import COLUMNS, NONE, Table, checked, settings_of_runs
from analysis.numbers import shown_value
from analysis.runs import TrainingRun
from analysis.significance import ScaleError, is_constant, mean_over_seeds
from training.choices import Replay

if TYPE_CHECKING:
    from analysis.result_folders import Results


MEAN = "mean over seeds"
LEAST_SEEDS = 2  # below it there is no interval, and no line of a single seed
_DIGITS = 12  # digits of differences: what differs less is the rounding of sums
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
ByPanel: TypeAlias = Each | Mapping[str, Each]  # the same for all panels, or by their names


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page."""

    anchor: Anchor
    heading: str
    pieces: Sequence[Piece]
    # what its figures show, by the names of their files; empty ones are left out
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    findings: Sequence[str] = ()  # sentences for the head of the page
    anchors: Sequence[Anchor] = ()  # the anchors of figures in it, beside its own

    @property
    def section(self) -> Section:
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


def table(
    title: str, note: str, cells: pd.DataFrame, *, is_open: bool | None = None
) -> list[TextTable]:
    """A table of texts with a name for each row, if it has rows."""
    header, rows = ["", *map(str, cells.columns)], cells.reset_index().to_numpy(dtype=str).tolist()
    return [TextTable.of_rows(title, header, rows, note=note, is_open=is_open)] if rows else []


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


CURVES = 6  # arms of which single curves are drawn, unless more are asked for
SETTINGS = ("trajectory", "step", "novelty", "batch_size", "learning_rate", "interval", "epochs")
"""Settings of a run of continual knowledge learning, but for its edit and its seed; the trajectory
says the size of the model."""
EDITS = ("site", "ratio", "factor", "control", "temperature", "edit_form")
MIXES = (
    *("mix_first", "mix_later", "mix_ratio", "mix_words", "mix_corpus"),
    *("replay", "replay_ratio", "equal"),
)
_CALLED = {"interval": "injection interval", "novelty": "text"}


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a page is made of; `curves` is how many arms may have their single curves drawn."""

    results: "Results"
    measured: Mapping[Table, pd.DataFrame] = field(default_factory=dict)
    ledger: Ledger | None = None
    curves: int = CURVES

    @cached_property
    def tables(self) -> dict[Table, pd.DataFrame]:
        """All tables, with missing settings made `NONE`; empty where nothing was measured."""
        empty = {table: pd.DataFrame(columns=list(COLUMNS[table])) for table in Table}
        found = empty | {table: checked(table, rows) for table, rows in self.measured.items()}
        acquired = found[Table.ACQUISITION]
        names = zip(acquired["trajectory"], acquired["seed"], strict=True)
        trajectory = [without_seed(name, seed) for name, seed in names]
        return found | {Table.ACQUISITION: acquired.assign(trajectory=trajectory)}

    def rows(self, table: Table, settings: Settings) -> pd.DataFrame:
        """The rows of a table that have some settings; see `rows_with`."""
        try:
            return rows_with(self.tables[table], settings)
        except ScaleError:
            return self.tables[table].iloc[:0]


def read_material(paths: Sequence[Path], *, curves: int = CURVES) -> Material:
    """Find results and read what was measured."""
    from analysis.result_folders import find_results, tables_of

    results = find_results(paths)
    if [name for name, found in vars(results).items() if found] == ["unfinished"]:
        names = ", ".join(map(str, results.unfinished[:3]))
        raise ValueError(
            f"nothing is over of {len(results.unfinished)} run(s) or sweep(s): {names}; go on with "
            "them, with --resume or the same command, and report then"
        )
    if len(results.ledgers) > 1:
        first, second = results.ledgers[:2]
        raise ValueError(f"{first} and {second} are two ledgers; a page shows one, so give one")
    ledger = read_ledger(results.ledgers[0]) if results.ledgers else None
    return Material(results=results, measured=tables_of(results), ledger=ledger, curves=curves)


def varied(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns in which rows differ."""
    return [name for name in columns if rows[name].nunique() > 1]


def as_numbers(values: pd.Series) -> pd.Series:
    """A setting to sort by; what does not apply comes first."""
    return pd.to_numeric(values, errors="coerce").fillna(-1)


def is_set(values: pd.Series) -> pd.Series:
    """Whether a setting applies, row by row."""
    return values != NONE


def named(
    rows: pd.DataFrame, column: str, name: Callable[[Mapping[str, Any]], str]
) -> pd.DataFrame:
    """Rows with what each is called in a column of its own."""
    names = [name(row) for row in rows.to_dict("records")]
    return rows.assign(**{column: pd.Series(names, index=rows.index, dtype=object)})


def without_seed(name: object, seed: int) -> str:
    """What a model is called, whatever the seed of its own pretraining."""
    return str(name).removesuffix(f"-seed-{seed}")


def control_strengths(rows: pd.DataFrame) -> list[str]:
    """Ratio and factor, where controls differ in them; the names of controls do not say them."""
    return varied(rows[is_set(rows["control"])], ("ratio", "factor"))


def edit_name(row: Mapping[str, Any], said: Sequence[str] = ()) -> str:
    """How a start was edited."""
    known = {name: None if row[name] == NONE else row[name] for name in EDITS}
    label = edit_label(
        {
            "resuscitation_ratio": known["ratio"],
            "resuscitation_factor": known["factor"],
            "resuscitation_site": known["site"],
            "control": known["control"],
            "attention_temperature": known["temperature"],
            "temperature_schedule": "constant",
            "edit_form": known["edit_form"],
            # Where nothing is resuscitated, what stands in for it is an edit of one's own.
            "edit": [known["control"]] if known["ratio"] is None and known["control"] else [],
        }
    )
    strengths = [n for n in ("ratio", "factor") if n in said and row["control"] != NONE]
    return ", ".join([label, *(f"{name} {row[name]:g}" for name in strengths)])


def run_name(row: Mapping[str, Any], said: Sequence[str]) -> str:
    """What tells runs of continual knowledge learning apart, in the settings that are said."""
    start = [str(row["trajectory"])] if "trajectory" in said else []
    start += [f"step {row['step']:,}"] if "step" in said and row["step"] != NONE else []
    parts = [" at ".join(start)] if start else []
    for name in dict.fromkeys(said):
        if name not in ("trajectory", "step") and row[name] != NONE:
            parts.append(f"{_CALLED.get(name, name).replace('_', ' ')} {shown_value(row[name])}")
    return ", ".join(parts) or "all runs"


def unedited_runs(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Runs whose start was not edited."""
    return [run for run in runs if edit_label(run.configuration) == UNEDITED_NAME]


def names_of(runs: Sequence[TrainingRun], said: Sequence[str]) -> list[str]:
    """What the page calls runs of continual knowledge learning."""
    names = []
    for run, row in zip(runs, settings_of_runs(runs), strict=True):
        known = {name: NONE if value is None else value for name, value in row.items()}
        known["trajectory"] = without_seed(known["trajectory"], run.seed)
        names.append(run_name(known, said))
    return names


def memory_name(row: Mapping[str, Any], said: Sequence[str]) -> str:
    """What is done beside plain training of one stage after the other."""
    places = {"mix_first": "at A", "mix_later": "at B" if row["stages"] == 2 else "later"}
    parts = [f"{row[name]} {where}" for name, where in places.items() if row[name] != NONE]
    if row["equal"] != NONE:
        parts = [f"{PLAIN_NAME}, as many {row['equal']} as with a mix"]
    if row["replay"] != NONE:
        kind = "self-generated replay" if row["replay"] == Replay.SELF else "replay"
        parts.append(f"{kind} of {100 * row['replay_ratio']:g} %")
    if (edit := edit_name(row, said)) != UNEDITED_NAME:
        parts.append(f"{edit} before A")
    amounts = {
        "mix_ratio": "\N{MULTIPLICATION SIGN}{:g}",
        "mix_words": "{:g} words",
        "mix_corpus": "{}",
    }
    said_amounts = [name for name in amounts if name in said and row[name] != NONE]
    return ", ".join([*(parts or [PLAIN_NAME]), *(amounts[n].format(row[n]) for n in said_amounts)])
