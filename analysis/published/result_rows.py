"""Result rows: what the tables of results say of a few settings, with intervals.

A value is the mean over seeds of their means. Its interval reaches as far as the wider one of two:
over seeds, and over passages, questions or facts where there are some; with one of each there is
none.

Example:
    >>> import pandas as pd
    >>> values = pd.Series([1.0, 2.0, 3.0], index=pd.Index([0, 1, 2], name="seed"))
    >>> found = measured(values)
    >>> found.value, round(found.interval.low, 2), found.seeds
    (2.0, -0.48, 3)
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from analysis.claims.designs import hull, student_interval
from analysis.claims.selection import Arm, Settings, matched, rows_with
from analysis.measurements import NONE, Table, checked
from analysis.published.comparing import Measured
from analysis.statistics.tests import ScaleError
from probes.intervals import Interval

Conditions: TypeAlias = Mapping[str, str]
"""What results are known to have been made with, by the names of the published conditions."""
PERCENT = 100.0
LEAST_UNITS = 2
"""Of an interval."""


@dataclass(frozen=True)
class ResultRows:
    """Tables of results, and what is known of them beside.

    Attributes:
        tables: of results, `checked`.
        known: by table, conditions that its columns do not hold.
    """

    tables: Mapping[Table, pd.DataFrame]
    known: Mapping[Table, Conditions]
    _found: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def conditions(self, table: Table) -> Conditions:
        """What is known of a table."""
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
    return ResultRows({table: frame for table, frame in ready.items() if len(frame)}, known or {})


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
