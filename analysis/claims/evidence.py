"""Evidence: what a test says in favour of a claim and against it, before it is judged.

Both p-values are one-sided: a claim has a direction, and data can be beyond chance either way.
Where values come by seed and by passage (question, fact), an effect must be beyond chance over
both, since a claim is about other runs and other facts alike: the larger p-value counts, and the
interval reaches as far as the wider of both (an intersection-union test; Berger, 1982).

Over seeds it is Student's t; where all seeds have the same value, which has no spread, it is the
sign test, in which three seeds cannot come below 1/8. Over clusters signs are flipped.

Example:
    >>> import numpy as np
    >>> found = of_units(np.array([0.9, 1.0, 1.2]), np.array([]), Direction.RISES)
    >>> round(found.effect, 2), round(found.p_for, 4), found.seeds
    (1.03, 0.0036, 3)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analysis.statistics.results import Direction
from analysis.statistics.tests import (
    check_finite,
    is_constant,
    mean_over_seeds,
    sign_flips,
    without_rounding,
)
from probes.intervals import Interval

LEVEL = 0.95
"""Of intervals; claims are tested at 1 less it."""
_REPLICATES = 9999


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much data there is, or has to be.

    Attributes:
        seeds: runs that differ in their seed.
        checkpoints: of a pretraining run; 0 where a claim is not about several.
        items: passages, questions or facts; 0 where a claim is about numbers of whole runs.
    """

    seeds: int
    checkpoints: int = 0
    items: int = 0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a test found.

    Attributes:
        effect: in the unit of the claim.
        interval: where it would be with other seeds and items.
        p_for: chance of data so far in the direction claimed, if there were no effect.
        p_against: the same of the other direction.
        n: independent ones that it rests on: items, checkpoints, or seeds.
        seeds: how many.
        test: what was done, in words.
    """

    effect: float
    interval: Interval
    p_for: float
    p_against: float
    n: int
    seeds: int
    test: str


def of_units(
    by_seed: Float[np.ndarray, "seed"],
    by_cluster: Float[np.ndarray, "cluster"],
    towards: Direction,
    scale: float = 0.0,
) -> Evidence:
    """Whether a mean is on the side claimed of 0."""
    by_seed, by_cluster = (without_rounding(each, scale) for each in (by_seed, by_cluster))
    p_for, p_against, interval, test = _over_seeds(by_seed, towards)
    n = len(by_seed)
    if len(by_cluster):
        generator = np.random.default_rng(0)
        over = [
            sign_flips(by_cluster, generator, side, _REPLICATES)
            for side in (towards, opposite(towards))
        ]
        p_for, p_against = max(p_for, over[0][0]), max(p_against, over[1][0])
        interval = hull([interval, student_interval(by_cluster)])
        n = len(by_cluster)
        test = f"{test}; signs of {n} items, {over[0][1]}; the larger p-value"
    # A mean of equal values could be off by rounding, and outside its interval.
    effect = float(by_seed[0] if is_constant(by_seed) else by_seed.mean())
    check_finite(np.array([effect, *interval[:2]]), "the effect and the ends of its interval")
    return Evidence(
        effect=effect,
        interval=interval,
        p_for=p_for,
        p_against=p_against,
        n=n,
        seeds=len(by_seed),
        test=test,
    )


def all_of(parts: Sequence[Evidence], towards: Direction) -> Evidence:
    """Whether all of several things are on the side claimed; effect and
    interval are the weakest's.
    """
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


def opposite(direction: Direction) -> Direction:
    """The other direction."""
    return Direction.FALLS if direction is Direction.RISES else Direction.RISES


def hull(intervals: Sequence[Interval]) -> Interval:
    """The interval that all of some lie in."""
    return Interval(
        min(each.low for each in intervals), max(each.high for each in intervals), LEVEL
    )


def _over_seeds(
    values: Float[np.ndarray, "seed"], towards: Direction
) -> tuple[float, float, Interval, str]:
    sides = (towards, opposite(towards))
    if is_constant(values):
        generator = np.random.default_rng(0)
        p_for, p_against = (sign_flips(values, generator, side, _REPLICATES)[0] for side in sides)
        test = f"sign test over {len(values)} seeds, which are all alike"
        return p_for, p_against, student_interval(values), test
    p_for, p_against = (mean_over_seeds(values, side, level=LEVEL).p_value for side in sides)
    return p_for, p_against, student_interval(values), f"t-test over {len(values)} seeds"


def student_interval(values: Float[np.ndarray, "unit"]) -> Interval:
    """Student's interval of a mean; without a width where all values are alike."""
    if is_constant(values):
        return Interval(float(values[0]), float(values[0]), LEVEL)
    return mean_over_seeds(values, level=LEVEL).interval
