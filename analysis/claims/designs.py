"""Designs: how a claim is tested, as data.

p-values are one-sided. Where values come by seed and by passage (question, fact), an effect must be
beyond chance over both: the larger p-value counts, and the interval reaches as far as the wider of
both (an intersection-union test; Berger, 1982). Over seeds it is Student's t; where all seeds have
the same value it is the sign test. Over clusters signs are flipped. Points of a seed may hang
together; seeds must not.

Example:
    >>> import numpy as np
    >>> found = of_units(np.array([0.9, 1.0, 1.2]), np.array([]), Direction.RISES)
    >>> round(found.effect, 2), round(found.p_for, 4), found.seeds
    (1.03, 0.0036, 3)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.claims.selection import Arm, along, matched
from analysis.correlations import (
    LEAST_CHECKPOINTS,
    LEAST_SEEDS,
    CheckpointCluster,
    checkpoint_correlation,
)
from analysis.measurements import NONE, Table
from analysis.significance import (
    Correlation,
    Direction,
    ScaleError,
    check_finite,
    is_constant,
    mean_over_seeds,
    sign_flips,
    without_rounding,
)
from probes.corpus_means import Interval

LEVEL = 0.95  # the level of intervals; claims are tested at 1 less it
LEAST_ITEMS = 8
"""Signs of fewer items have too few ways to be flipped, once several claims are tested."""
LEAST_POINTS = 3  # a line along anything but checkpoints needs as many
_REPLICATES = 9999


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much data there is, or has to be."""

    seeds: int = LEAST_SEEDS  # runs that differ in their seed
    checkpoints: int = 0  # points of pretraining; 0 where a claim is not about several
    items: int = 0  # passages, questions or facts; 0 where a claim is about numbers of whole runs


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a test found."""

    effect: float  # in the claim's unit
    interval: Interval  # its range with other seeds and items
    p_for: float  # chance of data so far in the direction claimed, if there were no effect
    p_against: float  # the same of the other direction
    n: int  # independent ones that it rests on: items, checkpoints, or seeds
    seeds: int  # how many
    test: str  # what was done, in words


@dataclass(frozen=True)
class _OfArms:
    """A test of the values of an arm, or of their differences from a base."""

    arm: Arm  # less
    base: Arm | None = None  # this one, `scale` times; None for nothing
    scale: float = 1.0
    averaged: tuple[str, ...] = ()  # columns that need not agree

    def differences(self, frame: pd.DataFrame, table: Table) -> tuple[pd.Series, float]:
        """Values of the arm less those of its base, by all other settings; the size of both."""
        arms = [self.arm] if self.base is None else [self.arm, self.base]
        found = matched(frame, table, arms, self.averaged)
        less = 0.0 if self.base is None else self.scale * found[1]
        return found[0] - less, float(found.abs().to_numpy().max())


@dataclass(frozen=True)
class Contrast(_OfArms):
    """Whether an arm differs from its base, over passages, questions or facts too (`by_item`)."""

    by_item: bool = False

    @property
    def least(self) -> Scale:
        return Scale(items=LEAST_ITEMS if self.by_item else 0)

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        differences, size = self.differences(frame, table)
        by_seed, by_cluster = _by_seed(differences), np.array([])
        if self.by_item:
            clusters = differences[differences.index.get_level_values("cluster") != NONE]
            by_cluster = clusters.groupby(level="cluster", sort=False).mean().to_numpy()
            if len(by_cluster) < LEAST_ITEMS:
                raise ScaleError(f"found {len(by_cluster)} items, {LEAST_ITEMS} are needed")
        return of_units(by_seed, by_cluster, towards, size)


@dataclass(frozen=True)
class Trend(_OfArms):
    """Whether a line through the differences rises or falls, in the order of a column."""

    axis: str = "step"

    @property
    def least(self) -> Scale:
        return Scale(checkpoints=LEAST_CHECKPOINTS if self.axis == "step" else 0)

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        # The effect is from the first to the last point of the line.
        differences, size = self.differences(frame, table)
        whole = along(differences, self.axis, max(self.least.checkpoints, LEAST_POINTS))
        points = whole.shape[1]
        place = np.linspace(-0.5, 0.5, points)
        lines = pd.Series(whole.to_numpy() @ place / (place @ place), index=whole.index)
        tested = of_units(_by_seed(lines), np.array([]), towards, size)
        test = f"line over {points} values of {self.axis} in each seed, {tested.test}"
        return replace(tested, n=points, test=test)


@dataclass(frozen=True)
class Follows:
    """Whether an outcome follows a cause over checkpoints."""

    outcome: Arm
    cause: Arm

    least: ClassVar[Scale] = Scale(checkpoints=LEAST_CHECKPOINTS)

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        # The effect is the correlation of first differences.
        assert table is Table.ACQUISITION, "only there are starts of a trajectory told apart"
        x, y, cluster = _series(frame, self.cause, self.outcome)
        steps = np.array(x.columns, dtype=np.float64)
        try:
            found = checkpoint_correlation(
                x.to_numpy(), y.to_numpy(), np.log1p(steps), cluster, level=LEVEL
            )
        except ScaleError as error:
            raise ScaleError(f"{error} (x: {self.cause.name}, y: {self.outcome.name})") from error
        both = (found.differences, found.detrended)
        return Evidence(
            effect=found.differences.effect,
            interval=found.differences.interval,
            p_for=max(_one_sided(each, towards.sign) for each in both),
            p_against=max(_one_sided(each, -towards.sign) for each in both),
            n=len(steps),
            seeds=len(y),
            test=f"first differences: {found.differences.test}; beside a line over log steps: "
            f"{found.detrended.effect:.2f}, {found.detrended.test}; the larger p-value",
        )


@dataclass(frozen=True)
class AllOf:
    """Several designs at once, which are alike in what they need."""

    parts: tuple["Design", ...]

    @property
    def least(self) -> Scale:
        return self.parts[0].least

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        return all_of([part.evidence(frame, table, towards) for part in self.parts], towards)


@dataclass(frozen=True)
class EachOf:
    """A design for each value of a column, of which there have to be `fewest`."""

    design: "Design"
    column: str
    fewest: int = 2

    @property
    def least(self) -> Scale:
        return self.design.least

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        parts = [
            self.design.evidence(rows, table, towards)
            for _, rows in _apart(frame, self.column, self.fewest)
        ]
        return all_of(parts, towards)


@dataclass(frozen=True)
class Foremost:
    """Whether the trend of a column's largest value (the last layer) is ahead of all others."""

    trend: Trend
    column: str

    @property
    def least(self) -> Scale:
        return self.trend.least

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        values = sorted((value for value, _ in _apart(frame, self.column, 2)), reverse=True)
        settings = self.trend.arm.settings
        first, *others = (
            Arm(f"{self.column} {value}", {**settings, self.column: value}) for value in values
        )
        parts = tuple(replace(self.trend, arm=first, base=other) for other in others)
        return AllOf(parts).evidence(frame, table, towards)


Design: TypeAlias = Contrast | Trend | Follows | AllOf | EachOf | Foremost  # a way to test a claim


def arms_of(design: Design) -> list[Arm]:
    """The arms that a design compares, each once."""
    match design:
        case AllOf(parts):
            found = [arm for part in parts for arm in arms_of(part)]
        case EachOf(design=inner) | Foremost(trend=inner):
            found = arms_of(inner)
        case Follows(outcome, cause):
            found = [outcome, cause]
        case _:
            found = [design.arm] if design.base is None else [design.arm, design.base]
    return list({arm.name: arm for arm in found}.values())


def of_units(
    by_seed: Float[np.ndarray, "seed"],
    by_cluster: Float[np.ndarray, "cluster"],
    towards: Direction,
    size: float = 0.0,
) -> Evidence:
    """Whether a mean is on the side claimed of 0; `size` is that of what it is a difference of."""
    by_seed, by_cluster = (without_rounding(each, size) for each in (by_seed, by_cluster))
    sides = (towards, Direction.FALLS if towards is Direction.RISES else Direction.RISES)

    def flipped(values: Float[np.ndarray, "unit"]) -> list[tuple[float, str]]:
        generator = np.random.default_rng(0)
        return [sign_flips(values, generator, side, _REPLICATES) for side in sides]

    if alike := is_constant(by_seed):
        test = f"sign test over {len(by_seed)} seeds, which are all alike"
        p_values = [p for p, _ in flipped(by_seed)]
    else:
        test = f"t-test over {len(by_seed)} seeds"
        p_values = [mean_over_seeds(by_seed, side, level=LEVEL).p_value for side in sides]
    intervals = [student_interval(by_seed)]
    if len(by_cluster):
        over = flipped(by_cluster)
        p_values = [max(p, each) for p, (each, _) in zip(p_values, over, strict=True)]
        intervals.append(student_interval(by_cluster))
        test = f"{test}; signs of {len(by_cluster)} items, {over[0][1]}; the larger p-value"
    interval = hull(intervals)
    # A mean of equal values could be off by rounding, and outside its interval.
    effect = float(by_seed[0] if alike else by_seed.mean())
    check_finite(np.array([effect, *interval[:2]]), "the effect and the ends of its interval")
    return Evidence(
        effect=effect,
        interval=interval,
        p_for=p_values[0],
        p_against=p_values[1],
        n=len(by_cluster) or len(by_seed),
        seeds=len(by_seed),
        test=test,
    )


def all_of(parts: Sequence[Evidence], towards: Direction) -> Evidence:
    """Whether all of several are on the side claimed; the effect is the weakest's."""
    if len(parts) == 1:
        return parts[0]
    weakest = min(parts, key=lambda part: towards.sign * part.effect)
    return Evidence(
        effect=weakest.effect,
        interval=weakest.interval,
        p_for=max(part.p_for for part in parts),
        p_against=min(1.0, len(parts) * min(part.p_against for part in parts)),
        n=min(part.n for part in parts),
        seeds=min(part.seeds for part in parts),
        test=f"{weakest.test}; the weakest of {len(parts)}",
    )


def hull(intervals: Sequence[Interval]) -> Interval:
    """The interval that all of some lie in."""
    low, high = min(each.low for each in intervals), max(each.high for each in intervals)
    return Interval(low, high, LEVEL)


def student_interval(values: Float[np.ndarray, "unit"]) -> Interval:
    """Student's interval of a mean; without a width where all values are alike."""
    if is_constant(values):
        return Interval(float(values[0]), float(values[0]), LEVEL)
    return mean_over_seeds(values, level=LEVEL).interval


def _by_seed(values: pd.Series) -> Float[np.ndarray, "seed"]:
    found = values.groupby(level="seed", sort=False).mean().to_numpy()
    if len(found) < LEAST_SEEDS:
        raise ScaleError(f"found {len(found)} seeds, {LEAST_SEEDS} are needed")
    return found


def _apart(frame: pd.DataFrame, column: str, fewest: int) -> Iterator[tuple[float, pd.DataFrame]]:
    """The rows of each value of a column, those without one left out."""
    rows = frame[frame[column] != NONE]
    values = list(dict.fromkeys(rows[column]))
    if len(values) < fewest:
        raise ScaleError(f"found {len(values)} values of {column}, {fewest} are needed")
    for value in values:
        yield value, rows[rows[column] == value]


def _series(
    frame: pd.DataFrame, cause: Arm, outcome: Arm
) -> tuple[pd.DataFrame, pd.DataFrame, CheckpointCluster]:
    """Both measures of the same runs by step, a row for each seed (one of a shared cause)."""
    both = matched(frame, Table.ACQUISITION, [cause, outcome])
    x, y = (along(both[place], "step", LEAST_CHECKPOINTS) for place in (0, 1))
    runs = 1
    if "trajectory" in both.index.names:
        # A pretraining run of another size may have its last checkpoint alone.
        rows = both.index.to_frame(index=False)
        steps = rows[rows["trajectory"] != NONE].groupby("trajectory")["step"].nunique()
        runs = int((steps >= LEAST_CHECKPOINTS).sum())
    if runs == 1:
        alike = len(x) > 0 and bool((x == x.iloc[0]).all(axis=None))
        return x.iloc[:1] if alike else x, y, CheckpointCluster.CHECKPOINT
    if runs == len(y):
        return x, y, CheckpointCluster.SEED
    raise ScaleError(
        f"found {runs} pretraining runs for {len(y)} seeds; one for all, or one for each, is needed"
    )


def _one_sided(found: Correlation, sign: int) -> float:
    return found.p_value / 2 if found.effect * sign > 0 else 1 - found.p_value / 2
