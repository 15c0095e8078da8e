"""Selection: the rows that a claim is about, and which of them are compared with which.

An `Arm` is a few settings. Rows of two arms are matched where all other settings agree, so that an
effect is never the difference of something else; what has no match is left out. Settings that are
named to be averaged need not agree. Amounts of training have to agree as far as a table has them:
where they may differ, their columns are left out. `ROWS` and `ARMS` are those of
`papers/selections.toml`.

Example:
    >>> ARMS["resuscitated, factor 2"].settings["site"], ROWS["last"]
    ('up', {'step': <Extreme.LARGEST: 'largest'>})
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from analysis.claims.choices import Extreme
from analysis.measurements import AMOUNTS, NONE, Table, settings_of
from analysis.statistics.tests import ScaleError

Setting: TypeAlias = str | float | int | bool | Extreme | tuple[str | float | int, ...] | None
"""A value; None where there is none; several for any of them; or the place of a number."""
Settings: TypeAlias = Mapping[str, Setting]
PAPERS = Path(__file__).with_name("papers")
"""The folder of the catalogue's files."""
_PLACES = {Extreme.SMALLEST: 0.0, Extreme.EARLY: 0.2, Extreme.MIDDLE: 0.5, Extreme.LARGEST: 1.0}
_KEPT = ("seed", "cluster", "step")
"""Settings by which values are put together later, even where there is one only."""


@dataclass(frozen=True)
class Arm:
    """Rows with certain settings.

    Attributes:
        name: in words.
        settings: by column; `measure` may be among them.
    """

    name: str
    settings: Settings


def read_settings(given: Mapping[str, Any], rows: Mapping[str, Settings]) -> Settings:
    """Settings as a file says them: those of named rows, then its own."""
    found: dict[str, Setting] = {}
    for name in given.get("rows", ()):
        found |= rows[name]
    return found | {name: _setting(value) for name, value in given.items() if name != "rows"}


def _setting(value: Any) -> Setting:
    if isinstance(value, list):
        return tuple(value)
    if value == NONE:
        return None
    is_place = isinstance(value, str) and value.upper() in Extreme.__members__
    return Extreme[value.upper()] if is_place else value


def _selections() -> tuple[dict[str, Settings], dict[str, Arm]]:
    content = tomllib.loads((PAPERS / "selections.toml").read_text(encoding="utf-8"))
    rows: dict[str, Settings] = {}
    for name, given in content["rows"].items():
        rows[name] = read_settings(given, rows)
    return rows, {name: Arm(name, read_settings(g, rows)) for name, g in content["arms"].items()}


ROWS, ARMS = _selections()
"""Settings and arms by name."""


def rows_with(frame: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The rows that have some settings."""
    masks = [
        _is(frame[column], wanted).to_numpy()
        for column, wanted in settings.items()
        if not isinstance(wanted, Extreme)
    ]
    if masks:
        frame = frame[np.logical_and.reduce(masks)]
    for column, wanted in settings.items():
        # A model without a step is its own last checkpoint, and its only one.
        is_only = wanted is Extreme.LARGEST and bool((frame[column] == NONE).all())
        if isinstance(wanted, Extreme) and len(frame) and not is_only:
            frame = frame[frame[column] == _placed(frame[column], wanted)]
    return frame


def matched(
    frame: pd.DataFrame, table: Table, arms: Sequence[Arm], averaged: Iterable[str] = ()
) -> pd.DataFrame:
    """Values of arms side by side, a row for each combination of all other settings."""
    fixed = set(arms[0].settings)
    assert all(set(arm.settings) == fixed for arm in arms), "arms name different columns"
    others = [name for name in settings_of(table) if name not in {*fixed, *averaged}]
    others += [name for name in AMOUNTS[table] if name in frame.columns]
    # Settings that are the same throughout cannot tell rows apart.
    keys = [name for name in others if name in _KEPT or frame[name].nunique() > 1]
    columns: dict[int, pd.Series] = {}
    taken: dict[int, str] = {}
    for place, arm in enumerate(arms):
        rows = rows_with(frame, arm.settings)
        if rows.empty:
            raise ScaleError(f"no rows of: {arm.name}")
        # Two places in a short list of numbers can be the same number.
        if (other := taken.setdefault(int(rows.index[0]), arm.name)) != arm.name:
            raise ScaleError(f"{other} and {arm.name} are the same rows")
        repeated = rows[rows.duplicated([*keys, *averaged], keep=False)]
        if len(repeated):
            raise ValueError(
                f"{len(repeated)} rows of {arm.name!r} differ in their value only; give each once"
            )
        columns[place] = rows.groupby(keys, sort=False)["value"].mean()
    side_by_side = pd.concat(columns, axis=1, join="inner")
    if side_by_side.empty:
        raise ScaleError(f"no two rows of {' and '.join(arm.name for arm in arms)} agree otherwise")
    return side_by_side


def along(values: pd.Series, axis: str, least: int) -> pd.DataFrame:
    """Series of each seed along an axis, over the points that all of them have."""
    if axis not in values.index.names:
        raise ScaleError(f"{axis} has 1 value in common, {least} are needed")
    wide = values.unstack(axis)
    wide = wide[sorted(point for point in wide.columns if point != NONE)]
    long = wide[wide.notna().sum(axis=1) >= least].dropna(axis=1)
    points = long.shape[1] if len(long) else int(wide.notna().sum(axis=1).max() or 0)
    if points < least or long.empty:
        raise ScaleError(f"{axis} has {points} values in common, {least} are needed")
    return long.groupby(level="seed", sort=False).mean()


def _is(column: pd.Series, wanted: Any) -> pd.Series:
    if isinstance(wanted, tuple):
        return column.isin(wanted)
    return column == (NONE if wanted is None else wanted)


def _placed(column: pd.Series, wanted: Extreme) -> float:
    """The number of a column that is nearest to a part of the largest."""
    numbers = sorted({float(value) for value in column if value != NONE})
    if not numbers:
        raise ScaleError(f"no row has a {column.name}")
    goal = _PLACES[wanted] * numbers[-1]
    return min(numbers, key=lambda value: abs(value - goal))
