r"""Do two measurements of the same items differ? Tests for results that come item by item.

- `paired_permutation`: whether two measurements of the same items differ in their mean. Under the
  null hypothesis they could change places within any item. All \(2^n\) ways are taken where there
  are no more of them than `replicates`, else as many random ones.
- `mcnemar`: whether two models find the same items equally often. Of the items that one alone
  finds, half should be the first one's (exact binomial); the interval is Agresti and Min's.

Both are two-sided. Items must be independent of each other: where they come in passages, take the
mean of each passage first. Intervals of one set of items are in `analysis.statistics.bootstrap`.

Source: Efron and Tibshirani (1993), chapter 15; McNemar (1947); Agresti and Min (2005),
"Simple improved confidence intervals for comparing matched proportions".

Example:
    >>> import numpy as np
    >>> before, after = np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 3, 4, 5, 6, 8])
    >>> paired_permutation(after, before, np.random.default_rng(0)).p_value
    0.03125
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Shaped

from analysis.statistics.bootstrap import (
    LEVEL,
    REPLICATES,
    batch_size,
    bootstrap_interval,
    check_level,
)
from analysis.statistics.results import Comparison, Direction, Tested, chosen
from probes.intervals import Interval

ROUNDING = 1e-13
"""Share of the largest number within which two numbers are the same."""


class ScaleError(ValueError):
    """There is too little to test anything, or nothing that varies: no verdict, for or against."""


def check_number(found: int, least: int, what: str, purpose: str) -> None:
    """Refuse too few data."""
    if found < least:
        raise ScaleError(f"found {found} {what}: {purpose} needs {least} or more")


def check_finite(values: Shaped[np.ndarray, "..."], what: str) -> None:
    """Refuse what is missing or infinite."""
    if not (finite := np.isfinite(values)).all():
        raise ScaleError(
            f"{(~finite).sum()} of {values.size} values of {what} are not finite: leave these out "
            f"of everything that is tested with them"
        )


def check_varied(values: Shaped[np.ndarray, "point"], what: str, tested: str) -> None:
    """Refuse values that differ by rounding alone, whose spread says nothing."""
    if is_constant(values):
        raise ScaleError(
            f"all {len(values)} values of {what} are {values[0]:.6g}: {tested} needs a spread"
        )


def is_constant(values: Shaped[np.ndarray, "point"]) -> bool:
    """Whether values differ by no more than rounding."""
    wide = values.astype(np.float64)
    return bool(np.ptp(wide) <= ROUNDING * np.abs(wide).max(initial=0.0))


def without_rounding(
    values: Float[np.ndarray, "point"], scale: float
) -> Float[np.ndarray, "point"]:
    """Values made the same where they differ by the rounding of larger numbers alone."""
    if not len(values) or not np.isfinite(values).all():
        return values
    least = ROUNDING * scale
    order = np.argsort(values, kind="stable")
    groups = np.concatenate([[0], np.cumsum(np.diff(values[order]) > least)])
    found = np.empty_like(values)
    # Of a group of one the value itself: a mean could round it.
    found[order] = values[order][np.searchsorted(groups, groups)]
    return np.where(np.abs(found) <= least, 0.0, found)


def paired_permutation(
    a: Float[np.ndarray, "item"],
    b: Float[np.ndarray, "item"],
    generator: np.random.Generator,
    *,
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> Comparison:
    """Whether two measurements of the same items differ in their mean.

    Args:
        a: one measurement of each item.
        b: another, in the same order.
        generator: source of the permutations and of the bootstrap.
        level: of the interval of the mean difference (BCa bootstrap over items).
        replicates: most permutations to take, and draws of the bootstrap.

    Raises:
        ValueError: an option is out of range, there are fewer than two items, or a value is not
            finite.
    """
    wide = a.astype(np.float64)
    difference = without_rounding(wide - b, float(np.abs([wide, b]).max(initial=0.0)))
    if not np.isfinite(difference).all():
        raise ValueError(
            f"{(~np.isfinite(difference)).sum()} of {len(difference)} pairs are not finite: leave "
            f"these items out of both"
        )
    estimate = bootstrap_interval(
        np.mean, difference, generator, level=level, replicates=replicates
    )
    p_value, done = sign_flips(difference, generator, None, replicates)
    return Comparison(
        estimate.effect,
        estimate.interval,
        p_value,
        estimate.n,
        f"paired permutation, {done}",
    )


def sign_flips(
    differences: Float[np.ndarray, "item"],
    generator: np.random.Generator,
    direction: Direction | None,
    replicates: int,
) -> tuple[float, str]:
    """The p-value of a mean difference when signs could be the other way, and what was done."""
    from scipy.stats import permutation_test

    sides = {None: "two-sided", Direction.RISES: "greater", Direction.FALLS: "less"}
    # To change places within an item is to change the sign of its difference.
    tested = permutation_test(
        (differences, -differences),
        lambda x, y, axis: (x - y).mean(axis=axis) / 2,
        permutation_type="samples",
        alternative=sides[direction],
        vectorized=True,
        n_resamples=replicates,
        batch=batch_size(len(differences)),
        rng=generator,
    )
    ways = 2 ** len(differences)
    done = f"exact, {ways} ways" if ways <= replicates else f"{replicates} random ways"
    return float(tested.pvalue), done


def mcnemar(
    found_a: Bool[np.ndarray, "item"], found_b: Bool[np.ndarray, "item"], *, level: float = LEVEL
) -> Comparison:
    """Whether two models find the same items equally often.

    Args:
        found_a: whether the first finds each item.
        found_b: whether the second does.
        level: of the interval of the difference in shares.

    Raises:
        ValueError: there are no items, or `level` is out of range.
    """
    from scipy.stats import binomtest, norm

    check_level(level)
    n, only_a, only_b = discordant(found_a, found_b)
    apart = only_a + only_b
    centre, spread = matched_difference(n, only_a, only_b)
    half = float(norm.ppf((1 + level) / 2)) * spread
    return Comparison(
        (only_a - only_b) / n,
        Interval(max(centre - half, -1.0), min(centre + half, 1.0), level),
        float(binomtest(only_a, apart).pvalue) if apart else 1.0,
        n,
        f"McNemar, exact, {only_a} found by the first alone and {only_b} by the second",
    )


def discordant(
    found_a: Bool[np.ndarray, "item"], found_b: Bool[np.ndarray, "item"]
) -> tuple[int, int, int]:
    """How many items there are, how many the first alone finds, and how many the second alone."""
    check_number(len(found_a), 1, "items", "a comparison of shares")
    return len(found_a), int((found_a & ~found_b).sum()), int((found_b & ~found_a).sum())


def matched_difference(n: int, only_a: int, only_b: int) -> tuple[float, float]:
    """Agresti and Min's difference of two shares of the same items, and its standard error."""
    centre = (only_a - only_b) / (n + 2)
    spread = math.sqrt(only_a + only_b + 1 - (only_a - only_b) ** 2 / (n + 2)) / (n + 2)
    return centre, spread


def mean_over_seeds(
    values: Float[np.ndarray, "seed"],
    direction: Direction | str | None = None,
    *,
    level: float = LEVEL,
) -> Tested:
    """Whether the mean of one number for each seed is other than 0.

    Args:
        values: such as an arm's effect less another's, of each seed.
        direction: which side of 0 it is expected on ("rises": above); None for either.
        level: of the interval, which is two-sided.

    Raises:
        ValueError: there are fewer than two seeds, a value is not finite, all are the same (their
            spread then says nothing), or an option is out of range.
    """
    from scipy.stats import ttest_1samp

    check_level(level)
    check_number(len(values), 2, "seeds", "a test over seeds")
    check_finite(values, "seeds")
    check_varied(values, "seeds", "a t-test")
    wide = values.astype(np.float64)
    side = None if direction is None else chosen(Direction, direction, "direction")
    sides = {None: "two-sided", Direction.RISES: "greater", Direction.FALLS: "less"}
    ends = ttest_1samp(wide, 0.0).confidence_interval(level)
    return Tested(
        float(wide.mean()),
        Interval(float(ends.low), float(ends.high), level),
        float(ttest_1samp(wide, 0.0, alternative=sides[side]).pvalue),
        len(wide),
        f"t-test over {len(wide)} seeds, {sides[side]}",
    )


Result = TypeVar("Result", bound=Tested)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values of a family of tests, adjusted by Holm's step-down method, in the order given.

    Raises:
        ValueError: one is not between 0 and 1.
    """
    # statsmodels has it too, but collects garbage at every call: a sixth of a second each.
    _check(p_values)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, test in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[test]))
        adjusted[test] = largest
    return tuple(adjusted)


def benjamini_hochberg(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values of a family of tests, adjusted for the false discovery rate, in the order given.

    Raises:
        ValueError: one is not between 0 and 1.
    """
    from scipy.stats import false_discovery_control

    _check(p_values)
    if not p_values:
        return ()
    return tuple(float(p) for p in false_discovery_control(list(p_values)))


def _check(p_values: Sequence[float]) -> None:
    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"a p-value is {wrong[0]}: give values from 0 to 1")
