"""What the papers report, and what results say of the same, with what each was made with.

`numbers.csv` has a row for each published number, in the order of the papers; its columns after
`inconsistencies` are the conditions under which the number was measured. `inconsistencies.csv` says
which numbers do not go together; some are no targets at all. `names.csv` has what papers and
results call the same model, corpus or data set.

K of Kim et al. is the sum of a target's log-probabilities over the length of the padded row, about
a twelfth of the mean over its tokens. Of a figure the ticks of its axis are known. Of Chang et al.
a summary without numbers is at hand. A measured value is the mean over seeds of their means; its
interval reaches as far as the wider of two, over seeds and over passages, questions or facts.

Example:
    >>> one = PUBLISHED["kim-table-1-baseline-738k-A"]
    >>> one.value, one.change, str(one.direction)
    (18.8, -6.4, 'falls')
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import dropwhile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from analysis.checkpoints import MANIFEST
from analysis.claims.choices import Paper
from analysis.claims.designs import hull, student_interval
from analysis.claims.selection import Arm, Settings, matched, rows_with
from analysis.measurements import AMOUNTS, NONE, Table, checked, series_of
from analysis.significance import Direction, ScaleError
from probes.corpus_means import Interval
from training.ckl_config import SIX_TASKS, ProbeReduction
from training.data.mixes import MixName
from training.runs.directory import read_manifest

if TYPE_CHECKING:
    from analysis.result_folders import Results


Conditions: TypeAlias = Mapping[str, str]
"""What results are known to have been made with, by the names of the published conditions."""
PERCENT = 100.0
LEAST_UNITS = 2  # seeds or items below which there is no interval


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of what a paper reports, in the unit of the published number."""

    value: float
    # what was measured how, by the names of the published conditions
    conditions: Mapping[str, str] = field(default_factory=dict)
    interval: Interval | None = None
    # the change from what the paper compares with; None where that was not measured
    change: float | None = None
    change_interval: Interval | None = None
    unchanged: str = ""  # why there is no change, in words
    rows: str = ""  # which results it is of, in words
    seeds: int = 0  # how many runs it is a mean over; 0 where that is not known


@dataclass(frozen=True)
class ResultRows:
    """Tables of results, `checked`, and conditions that are known beside their columns."""

    tables: Mapping[Table, pd.DataFrame]
    known: Mapping[Table, Conditions]
    _found: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def conditions(self, table: Table) -> Conditions:
        return self.known.get(table, {})

    def having(self, table: Table, where: Settings, words: str) -> pd.DataFrame:
        """The rows that have some settings; a search is made once."""
        if table not in self.tables:
            raise ScaleError(f"no results of the kind {table.value!r}")
        key = f"{table} {sorted(where.items(), key=str)}"
        if key not in self._found:
            self._found[key] = rows_with(self.tables[table], where)
        if self._found[key].empty:
            raise ScaleError(f"no results of {words}")
        return self._found[key]


def result_rows(
    tables: Mapping[Table, pd.DataFrame], known: Mapping[Table, Conditions] | None = None
) -> ResultRows:
    """Tables that published numbers can be compared with; see `ResultRows`."""
    ready = {Table(table): checked(Table(table), frame) for table, frame in tables.items()}
    # The papers compare runs of unequal lengths.
    there = {
        table: frame.drop(columns=[*AMOUNTS[table]]) for table, frame in ready.items() if len(frame)
    }
    return ResultRows(there, known or {})


def measured(values: pd.Series, change: pd.Series | None = None, **given: Any) -> Measured:
    """Values and changes as a measurement."""
    if change is not None:
        given |= {"change": float(_seeds(change).mean()), "change_interval": _interval(change)}
    seeds = _seeds(values)
    return Measured(
        value=float(seeds.mean()), interval=_interval(values), seeds=len(seeds), **given
    )


def measured_arm(
    frame: pd.DataFrame,
    table: Table,
    arm: Arm,
    base: Callable[[], Arm | None] = lambda: None,
    *,
    factor: float = 1.0,
    averaged: Iterable[str] = (),
    **given: Any,
) -> Measured:
    """An arm as a measurement, and its change from a base where rows of both can be matched."""
    values = matched(frame, table, [arm], averaged)[0]
    change = None
    try:
        if (other := base()) is not None:
            both = matched(frame, table, [arm, other], averaged)
            change = factor * (both[0] - both[1])
    except ScaleError as error:
        given["unchanged"] = str(error)
    return measured(factor * values, change, **given)


def usual(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The rows with the most frequent value of each column, the smallest of several."""
    for column in columns:
        counts = frame[column].value_counts()
        most = counts[counts == counts.max()].index
        frame = frame[frame[column] == min(most, key=lambda value: (value == NONE, value))]
    return frame


def _interval(values: pd.Series) -> Interval | None:
    units = [_seeds(values)]
    if "cluster" in values.index.names:
        clusters = values[values.index.get_level_values("cluster") != NONE]
        units.append(clusters.groupby(level="cluster", sort=False).mean().to_numpy())
    ends = [student_interval(each) for each in units if len(each) >= LEAST_UNITS]
    return hull(ends) if ends else None


def _seeds(values: pd.Series) -> np.ndarray:
    return values.groupby(level="seed", sort=False).mean().to_numpy(dtype=float)


NEW, FAMILIAR = "new", "familiar"
MIX_CORPUS = "mix corpus"  # the condition that says which generic text was mixed in
with Path(__file__).with_name("names.csv").open(encoding="utf-8", newline="") as _file:
    _, *NAMES = csv.reader(_file)
"""Kinds, names of the papers and names that results have."""
_NEW_CORPORA = ("biomedical", "pubmed")
"""Beginnings of the names of corpora that pretraining has not seen; others are familiar."""
_PADDED_METRIC = "padded mean, batches of 16 over 4 processes"
_TASK_METRIC = "sciq, winogrande, piqa, openbookqa, hellaswag, arc-easy, zero-shot"
_UNMIXED = ("none", MixName.RANDOM)


def published_name(kind: str, ours: str) -> str:
    """What a paper calls a data set, model, corpus or mix; of others, the last part of the name."""
    path = PurePosixPath(ours)
    same = (path.name if kind != "corpus" else path.stem).casefold()
    return next((theirs for each, theirs, name in NAMES if (each, name) == (kind, same)), path.name)


def names_of_set(published: str) -> tuple[str, ...]:
    """What results call a data set of a paper."""
    return tuple(ours for kind, theirs, ours in NAMES if (kind, theirs) == ("data set", published))


def novelty_of(corpus: str) -> str:
    """Whether a corpus is "new" to a model pretrained on general text, or "familiar"."""
    return NEW if PurePosixPath(corpus).name.casefold().startswith(_NEW_CORPORA) else FAMILIAR


def settings_of_results(results: "Results") -> dict[Table, Conditions]:
    """What is known of results beside the columns of their tables."""
    acquired, kept = (
        [read_manifest(path)["configuration"] for path in paths]
        for paths in (results.ckl_runs, results.remix_runs)
    )
    return {
        Table.PRETRAINING: _agreed(map(_sweep_conditions, results.entropy_sweeps)),
        Table.ACQUISITION: _agreed(map(_acquisition_conditions, acquired)),
        Table.MEMORIZATION: _agreed(map(_memorization_conditions, kept)),
    }


def _agreed(found: Iterable[Conditions]) -> Conditions:
    """What all that say something of a condition say alike."""
    values: dict[str, set[str]] = {}
    for conditions in found:
        for name, value in conditions.items():
            values.setdefault(name, set()).add(value)
    return {name: next(iter(each)) for name, each in values.items() if len(each) == 1}


def _sweep_conditions(folder: Path) -> Conditions:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {"model": published_name("model", series_of(manifest["model"]).name)}


def _acquisition_conditions(configuration: Mapping[str, Any]) -> Conditions:
    rows = configuration["steps"] * configuration["batch_size"] // configuration["epochs"]
    corpus, reduction = configuration["corpus"], configuration["probe_reduction"]
    return {
        f"{novelty_of(corpus)} corpus": published_name("corpus", corpus),
        "corpus rows": f"{rows} of {configuration['row_length']}",
        "knowledge": _knowledge(configuration),
        "metric of tasks": _tasks(configuration["tasks"], configuration["task_limit"]),
        "metric of knowledge": _PADDED_METRIC
        if reduction == ProbeReduction.PADDED_MEAN
        else reduction,
    }


def _knowledge(configuration: Mapping[str, Any]) -> str:
    is_generated = "generated" in configuration["knowledge"]
    groups = [("paraphrased", "paraphrase"), ("duplicated", "duplication"), ("once", "once")]
    counts = " and ".join(
        f"{configuration[name]} {words}" for words, name in groups if configuration[name]
    )
    return f"{'generated' if is_generated else 'fictional'} knowledge, {counts}"


def _tasks(tasks: Sequence[str], limit: int | None) -> str:
    if limit is None and sorted(tasks) == sorted(SIX_TASKS):
        return _TASK_METRIC
    return f"{len(tasks)} tasks, {'all' if limit is None else limit} questions each"


def _memorization_conditions(configuration: Mapping[str, Any]) -> Conditions:
    conditions = {
        "model": published_name("model", series_of(configuration["model"]).name),
        "metric": "exact match",
        "items": " and ".join(sorted({str(count) for count in configuration["items"]})),
    }
    generic = {mix for mix in configuration["mix"] if mix not in _UNMIXED}
    if len(generic) == 1:
        mix, corpus = generic.pop(), configuration["mix_corpus"]
        name = corpus if mix == MixName.GENERIC and corpus else mix
        conditions[MIX_CORPUS] = published_name("mix", name)
    return conditions


_DIGITS = 6
_LAST_FIELD = "inconsistencies"


class Reading(StrEnum):
    """How a number was come by."""

    PRINTED = "printed"
    TICKS = "read off an axis"  # only the range that the axis of a figure shows is known
    WORDS = "words"  # only which way something goes is known


@dataclass(frozen=True)
class Inconsistency:
    """Numbers that do not go together; with `no_target` they should not be compared with at all."""

    identifier: str
    says: str
    no_target: bool


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published number.

    Attributes:
        conditions: what has to agree for values to be compared: model, data, metric, settings.
        value: the number; None where there is a range (low, high) or a direction only.
        tolerance: largest difference of numbers that are the same for all that matters.
        change: value less what it is compared with there; None where that is no published number.
        change_from: what that is, in words.
        base: identifier of what it is compared with; empty where that is no published number.
        goes: which way it goes, where there is no `change`.
        inconsistencies: what is known against it.
    """

    identifier: str
    paper: Paper
    place: str
    measure: str
    unit: str
    reading: Reading
    conditions: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float = 0.0
    change: float | None = None
    change_from: str = ""
    base: str = ""
    goes: Direction | None = None
    inconsistencies: tuple[Inconsistency, ...] = ()

    @property
    def direction(self) -> Direction | None:
        """Which way it goes; None where the change is within the tolerance, or not known."""
        if self.change is None:
            return self.goes
        if abs(self.change) <= self.tolerance:
            return None
        return Direction.RISES if self.change > 0 else Direction.FALLS

    @property
    def refusal(self) -> str:
        """Why nothing should be compared with it; empty where something may be."""
        wrong = [one.says for one in self.inconsistencies if one.no_target]
        return f"the published number is no target: {wrong[0]}" if wrong else ""


def _rows(name: str) -> dict[str, dict[str, str]]:
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def _numbers() -> Iterator[Published]:
    rows = _rows("numbers.csv")
    for name, row in rows.items():
        _, *conditions = dropwhile(lambda column: column != _LAST_FIELD, row)
        value, low, high = (
            float(row[end]) if row[end] else None for end in ("value", "low", "high")
        )
        base = rows[row["base"]]["value"] if row["base"] else None
        yield Published(
            identifier=name,
            paper=Paper(row["paper"]),
            place=row["place"],
            measure=row["measure"],
            unit=row["unit"],
            reading=Reading(row["reading"]),
            conditions={one: row[one] for one in conditions if row[one]},
            value=value,
            low=low,
            high=high,
            tolerance=float(row["tolerance"] or 0),
            change=None if base is None else round(float(row["value"]) - float(base), _DIGITS),
            change_from=row["change_from"],
            base=row["base"],
            goes=Direction(row["goes"]) if row["goes"] else None,
            inconsistencies=tuple(
                INCONSISTENCIES[one] for one in row[_LAST_FIELD].split("; ") if one
            ),
        )


INCONSISTENCIES: Mapping[str, Inconsistency] = {
    name: Inconsistency(name, row["says"], row["no_target"] == "yes")
    for name, row in _rows("inconsistencies.csv").items()
}
"""All that are known, by their identifiers."""
PUBLISHED: Mapping[str, Published] = {one.identifier: one for one in _numbers()}
"""Every number by its identifier, in the order of the papers."""
