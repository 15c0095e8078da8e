r"""Designs: how a claim is tested, as data.

- `Contrast`: rows of one arm against rows of another, matched: \(a - s\,b\) is above (below) a
  margin. Without a base, the arm itself is.
- `Trend`: a line through the values of an arm (or its differences from a base) along an axis, such
  as checkpoints by their order, rises or falls in each seed. Only the order of points counts, not
  how far apart they are, and points of a seed may hang together; seeds must not.
- `Follows`: two measures follow each other over checkpoints, in first differences and beside a
  line over the logarithm of steps, so that a common drift is not taken for a connection.
- `AllOf`: several of these at once; `EachOf`: one for each value of a column, such as each layer.
- `Foremost`: the trend of one value of a column is ahead of that of every other value.

Each takes rows of its table and the direction that is claimed, and gives `Evidence`. What is too
little for a verdict raises `ScaleError`.

Example:
    >>> design = Trend(Arm("knowledge entropy", {"measure": "|c|"}))
    >>> design.axis
    'step'
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from analysis.claims.evidence import Evidence, Scale, all_of, of_units
from analysis.claims.measurements import NONE, Table
from analysis.claims.selection import Arm, along, matched
from analysis.statistics.results import Direction
from analysis.statistics.series import LEAST_CHECKPOINTS, LEAST_SEEDS, ScaleError

ACROSS_SEEDS = Scale(seeds=LEAST_SEEDS)
OVER_CHECKPOINTS = Scale(seeds=LEAST_SEEDS, checkpoints=LEAST_CHECKPOINTS)
ACROSS_ITEMS = Scale(seeds=LEAST_SEEDS, items=8)
"""Of fewer items signs have too few ways to be flipped, once several claims are tested."""
LEAST_POINTS = 3
"""Of a line along anything but checkpoints."""
Named = tuple[str, ...]


@runtime_checkable
class Design(Protocol):
    """A way to test a claim."""

    @property
    def least(self) -> Scale:
        """What it needs."""

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        """What rows of a table say."""


@dataclass(frozen=True)
class Contrast:
    """One arm against another.

    Attributes:
        arm: less
        base: this one, `scale` times; None for nothing.
        scale: of the base.
        margin: what the difference is compared with.
        averaged: columns that need not agree.
        least: what it needs; with items, the test is over these too.
    """

    arm: Arm
    base: Arm | None = None
    scale: float = 1.0
    margin: float = 0.0
    averaged: Named = ()
    least: Scale = ACROSS_SEEDS

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        """See `Design.evidence`."""
        differences, scale = _differences(frame, table, self)
        differences -= self.margin
        by_seed = _checked_seeds(differences, self.least)
        by_cluster = np.array([])
        if self.least.items:
            clusters = differences[differences.index.get_level_values("cluster") != NONE]
            by_cluster = clusters.groupby(level="cluster", sort=False).mean().to_numpy()
            if len(by_cluster) < self.least.items:
                raise ScaleError(f"found {len(by_cluster)} items, {self.least.items} are needed")
        return of_units(by_seed.to_numpy(), by_cluster, towards, scale)


@dataclass(frozen=True)
class Trend:
    """A line through the values of an arm, or its differences from a base.

    Attributes:
        arm: whose values, less
        base: those of this one; None for nothing.
        axis: the column along which they are put in order.
        averaged: columns that need not agree.
        least: what it needs; its checkpoints are points along the axis.
    """

    arm: Arm
    base: Arm | None = None
    axis: str = "step"
    averaged: Named = ()
    least: Scale = OVER_CHECKPOINTS
    scale: float = 1.0

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        """See `Design.evidence`; the effect is from the first to the last point of the line."""
        points = max(self.least.checkpoints, LEAST_POINTS)
        differences, scale = _differences(frame, table, self)
        whole = along(differences, self.axis, points)
        found = whole.shape[1]
        place = np.linspace(-0.5, 0.5, found)
        lines = pd.Series(whole.to_numpy() @ place / (place @ place), index=whole.index)
        by_seed = _checked_seeds(lines, self.least).to_numpy()
        tested = of_units(by_seed, np.array([]), towards, scale)
        test = f"line over {found} values of {self.axis} in each seed, {tested.test}"
        return replace(tested, n=found, test=test)


@dataclass(frozen=True)
class AllOf:
    """Several designs at once.

    Attributes:
        parts: of them.
    """

    parts: tuple[Design, ...]

    @property
    def least(self) -> Scale:
        """What the first part needs; parts are alike."""
        return self.parts[0].least

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        """See `Design.evidence`."""
        return all_of([part.evidence(frame, table, towards) for part in self.parts], towards)


@dataclass(frozen=True)
class EachOf:
    """A design for each value of a column.

    Attributes:
        design: to test.
        column: whose values are taken apart.
        fewest: how many values there have to be.
    """

    design: Design
    column: str
    fewest: int = 2

    @property
    def least(self) -> Scale:
        """What the design needs."""
        return self.design.least

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        """See `Design.evidence`."""
        parts = [
            self.design.evidence(rows, table, towards)
            for _, rows in _apart(frame, self.column, self.fewest)
        ]
        return all_of(parts, towards)


@dataclass(frozen=True)
class Foremost:
    """Whether the trend of one value of a column is ahead of that of every other.

    Attributes:
        trend: whose arm does not name the column.
        column: whose values are compared; the largest should be ahead, such as the last layer.
    """

    trend: Trend
    column: str

    @property
    def least(self) -> Scale:
        """What the trend needs."""
        return self.trend.least

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        """See `Design.evidence`."""
        values = [value for value, _ in _apart(frame, self.column, 2)]
        first, *others = sorted(values, reverse=True)
        arm = self.trend.arm
        found = [
            Arm(f"{self.column} {value}", {**arm.settings, self.column: value})
            for value in (first, *others)
        ]
        parts = [replace(self.trend, arm=found[0], base=other) for other in found[1:]]
        return all_of([part.evidence(frame, table, towards) for part in parts], towards)


def _differences(
    frame: pd.DataFrame, table: Table, design: Contrast | Trend
) -> tuple[pd.Series, float]:
    """Values of an arm, less those of its base, by all other settings; and the size of both."""
    arms: Sequence[Arm] = [design.arm] if design.base is None else [design.arm, design.base]
    found = matched(frame, table, arms, design.averaged)
    less = 0.0 if design.base is None else design.scale * found[1]
    return found[0] - less, float(found.abs().to_numpy().max())


def _checked_seeds(values: pd.Series, least: Scale) -> pd.Series:
    by_seed = values.groupby(level="seed", sort=False).mean()
    if len(by_seed) < least.seeds:
        raise ScaleError(f"found {len(by_seed)} seeds, {least.seeds} are needed")
    return by_seed


def _apart(frame: pd.DataFrame, column: str, fewest: int) -> Iterator[tuple[float, pd.DataFrame]]:
    """The rows of each value of a column, those without one left out."""
    rows = frame[frame[column] != NONE]
    values = list(dict.fromkeys(rows[column]))
    if len(values) < fewest:
        raise ScaleError(f"found {len(values)} values of {column}, {fewest} are needed")
    for value in values:
        yield value, rows[rows[column] == value]
