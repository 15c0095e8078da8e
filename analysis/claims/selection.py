"""Selection: the rows that a claim is about, and which of them are compared with which.

An `Arm` is a few settings. Rows of two arms are matched where all other settings agree, so that an
effect is never the difference of something else; what has no match is left out. Settings that are
named to be averaged need not agree. An `Age` is a span of pretraining, in tokens for each
parameter, so that models of other sizes can be held against it.

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
from jaxtyping import Float

from analysis.claims.choices import Extreme
from analysis.measurements import AMOUNTS, NONE, Table, settings_of
from analysis.significance import ScaleError

Setting: TypeAlias = str | float | int | bool | Extreme | tuple[str | float | int, ...] | None
"""A value; None where there is none; several for any of them; or the place of a number."""
Settings: TypeAlias = Mapping[str, Setting]
PAPERS = Path(__file__).with_name("papers")  # the folder of the catalogue's files
_PLACES = {Extreme.SMALLEST: 0.0, Extreme.EARLY: 0.2, Extreme.MIDDLE: 0.5, Extreme.LARGEST: 1.0}
_KEPT = ("seed", "cluster", "step")
"""Settings by which values are put together later, even where there is one only."""


@dataclass(frozen=True)
class Arm:
    """Rows with certain settings."""

    name: str
    settings: Settings  # values by column; `measure` may be among them


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


_MILLION, _ROUND = 10**6, 10


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model that runs begin from, at one checkpoint or several."""

    parameters: int  # how many it has
    steps: tuple[int, ...] = ()  # its checkpoints, by growing age; none where not known
    # tokens that the last checkpoint was pretrained on; None where that is not known
    tokens: int | None = None

    @property
    def words(self) -> str:
        """Size, steps and tokens."""
        is_large = self.parameters >= _MILLION / _ROUND
        size = f"{self.parameters / _MILLION:,.1f}M" if is_large else f"{self.parameters:,}"
        parts = [f"{size} parameters"]
        if self.steps:
            first, last = self.steps[0], self.steps[-1]
            span = f"steps {first:,} to {last:,}" if first < last else f"step {last:,}"
            parts.append(f"{span} of pretraining")
        if self.tokens is None:
            return ", ".join(parts)
        seen = f"{self.tokens:,} tokens, {self.tokens_a_parameter(1.0)} a parameter"
        return f"{', '.join(parts)} ({seen})"

    def shares(self, steps: pd.Series) -> Float[np.ndarray, " row"]:
        """How far checkpoints are in pretraining; at its end where no step is said."""
        numbers = pd.to_numeric(steps.where(steps != NONE), errors="coerce").to_numpy(dtype=float)
        return np.where(np.isnan(numbers), 1.0, numbers / (self.steps[-1] if self.steps else 1))

    def tokens_a_parameter(self, share: float) -> str:
        """The tokens of a share of pretraining for each parameter, in words."""
        assert self.tokens is not None, "what is not known is not written"
        found = share * self.tokens / self.parameters
        return f"{found:,.{1 if found < _ROUND else 0}f}"


@dataclass(frozen=True, kw_only=True)
class Age:
    """A span of pretraining, in tokens for each parameter."""

    until: str  # what bounds it, in words
    source: str  # the origin of the bound
    least: float = 0.0  # checkpoints before this are left out
    most: float = np.inf  # checkpoints after this are left out

    def rows(self, rows: pd.DataFrame, model: Pretrained) -> pd.DataFrame:
        """The rows of checkpoints of this age."""
        is_late = self.least > 0
        bound = f"{self.until} at {self.least if is_late else self.most:g} ({self.source})"
        if model.tokens is None:
            raise ScaleError(
                "how many tokens the model was pretrained on is not known, and the claim is about "
                f"what comes {'after' if is_late else 'before'} {self.until} ({self.source})"
            )
        shares = model.shares(rows["step"])
        ages = shares * model.tokens / model.parameters
        kept = rows[(ages >= self.least) & (ages <= self.most)]
        if len(kept) or not len(rows):
            return kept
        end = shares.max() if is_late else shares.min()
        at = f" at step {end * model.steps[-1]:,.0f}," if model.steps else ""
        raise ScaleError(
            f"the trajectory {'ends' if is_late else 'begins'}{at} at "
            f"{model.tokens_a_parameter(float(end))} tokens a parameter, "
            f"{'before' if is_late else 'after'} {bound}"
        )


_CONTENT = tomllib.loads((PAPERS / "selections.toml").read_text(encoding="utf-8"))
ROWS: dict[str, Settings] = {}  # settings by name
for _name, _given in _CONTENT["rows"].items():
    ROWS[_name] = read_settings(_given, ROWS)
ARMS = {name: Arm(name, read_settings(given, ROWS)) for name, given in _CONTENT["arms"].items()}
AGES = {name: Age(**given) for name, given in _CONTENT["ages"].items()}
