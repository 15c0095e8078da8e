r"""Is it more than chance? Tests of paired items and of seeds, and bootstrap intervals.

Every test returns a `Tested`. Too few data, or data that do not vary, are a `ScaleError`, never a
result. Items must be independent of each other: where they come in passages, take the mean of each
passage first. `paired_permutation` takes all \(2^n\) ways of changing places where there are no
more of them than `replicates`, else as many random ones; its interval is BCa's. That of `mcnemar`
is Agresti and Min's. `ClusterBootstrap` draws clusters with replacement, as many as there are of
each stratum; its percentiles are expanded for few clusters.

Source: Efron and Tibshirani (1993), chapters 13 to 15; McNemar (1947); Agresti and Min (2005),
"Simple improved confidence intervals for comparing matched proportions"; Hesterberg (2015), "What
Teachers Should Know About the Bootstrap", section 5.3.

Example:
    >>> import numpy as np
    >>> before, after = np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 3, 4, 5, 6, 8])
    >>> paired_permutation(after, before, np.random.default_rng(0)).p_value
    0.03125
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, sqrt

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from probes.choices import as_choice
from probes.corpus_means import Interval

REPLICATES = 9999
LEVEL = 0.95
BATCH_VALUES = 4_000_000  # most values of draws to hold at a time
ROUNDING = 1e-13  # share of the largest number within which two numbers are the same


@dataclass(frozen=True)
class Tested:
    """An effect, how sure it is, and whether it is more than chance; alike for all tests."""

    effect: float  # in the unit of what was tested
    interval: Interval  # its range with other items, seeds or checkpoints
    p_value: float  # chance of data as extreme if there were no effect
    n: int  # how many independent ones the result rests on: what they are is said in `test`
    test: str  # what was done, in words


@dataclass(frozen=True)
class Comparison(Tested):
    """Two measurements of the same items: the effect is the first less the second."""


@dataclass(frozen=True)
class Correlation(Tested):
    """How far two things rise together: the effect is from -1 to 1."""


def bounds(interval: Interval | None) -> tuple[float | int | None, float | int | None]:
    """Both ends of an interval; missing where there is none."""
    return (None, None) if interval is None else interval[:2]


class Direction(StrEnum):
    """Which way something is expected to go; a test of it is one-sided."""

    RISES = "rises"
    FALLS = "falls"

    @property
    def sign(self) -> int:
        """1 where it rises, -1 where it falls."""
        return 1 if self is Direction.RISES else -1


_SIDES = {None: "two-sided", Direction.RISES: "greater", Direction.FALLS: "less"}


class ScaleError(ValueError):
    """There is too little to test anything, or nothing that varies: no verdict, for or against."""


def check_level(level: float) -> None:
    """Refuse a level that is no share."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a share between 0 and 1, such as {LEVEL}")


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


def batch_size(n: int) -> int:
    """How many draws of n items to hold at a time."""
    return max(1, BATCH_VALUES // n)


def paired_permutation(
    a: Float[np.ndarray, "item"],
    b: Float[np.ndarray, "item"],
    generator: np.random.Generator,
    *,
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> Comparison:
    """Whether two measurements of the same items differ in their mean."""
    wide = a.astype(np.float64)
    difference = without_rounding(wide - b, float(np.abs([wide, b]).max(initial=0.0)))
    n = len(difference)
    if not np.isfinite(difference).all():
        raise ValueError(
            f"{(~np.isfinite(difference)).sum()} of {n} pairs are not finite: leave these items "
            f"out of both"
        )
    if n < 2:
        raise ValueError(f"found {n} items: an interval needs two or more")
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}: give 1 or more")
    check_level(level)
    interval = _interval_of_mean(difference, generator, level, replicates)
    p_value, done = sign_flips(difference, generator, None, replicates)
    effect = float(difference.mean())
    return Comparison(effect, interval, p_value, n, f"paired permutation, {done}")


def _interval_of_mean(
    values: Float[np.ndarray, "item"], generator: np.random.Generator, level: float, replicates: int
) -> Interval:
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # What they warn of shows in the result, and is refused below.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            (values,),
            np.mean,
            vectorized=True,
            batch=batch_size(len(values)),
            rng=generator,
            method="bca",
            confidence_level=level,
            n_resamples=replicates,
        )
    drawn, ends = found.bootstrap_distribution, found.confidence_interval
    if np.ptp(drawn) == 0:
        return Interval(float(drawn[0]), float(drawn[0]), level)
    if not np.isfinite([ends.low, ends.high]).all():
        raise ValueError(
            f"the mean is {values.mean():.4g} and from {drawn.min():.4g} to {drawn.max():.4g} on "
            f"{replicates} draws, for which no BCa interval exists: take more replicates"
        )
    return Interval(float(ends.low), float(ends.high), level)


def sign_flips(
    differences: Float[np.ndarray, "item"],
    generator: np.random.Generator,
    direction: Direction | None,
    replicates: int,
) -> tuple[float, str]:
    """The p-value of a mean difference when signs could be the other way, and what was done."""
    from scipy.stats import permutation_test

    # To change places within an item is to change the sign of its difference.
    tested = permutation_test(
        (differences, -differences),
        lambda x, y, axis: (x - y).mean(axis=axis) / 2,
        permutation_type="samples",
        alternative=_SIDES[direction],
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
    """Whether two models find the same items equally often."""
    from scipy.stats import binomtest, norm

    check_level(level)
    n = len(found_a)
    check_number(n, 1, "items", "a comparison of shares")
    only_a, only_b = int((found_a & ~found_b).sum()), int((found_b & ~found_a).sum())
    # Agresti and Min's difference of two shares of the same items, and its standard error.
    apart, more = only_a + only_b, only_a - only_b
    centre, spread = more / (n + 2), math.sqrt(apart + 1 - more**2 / (n + 2)) / (n + 2)
    half = float(norm.ppf((1 + level) / 2)) * spread
    return Comparison(
        more / n,
        Interval(max(centre - half, -1.0), min(centre + half, 1.0), level),
        float(binomtest(only_a, apart).pvalue) if apart else 1.0,
        n,
        f"McNemar, exact, {only_a} found by the first alone and {only_b} by the second",
    )


def mean_over_seeds(
    values: Float[np.ndarray, "seed"],
    direction: Direction | str | None = None,
    *,
    level: float = LEVEL,
) -> Tested:
    """Whether the mean of one number for each seed is other than 0."""
    from scipy.stats import ttest_1samp

    check_level(level)
    check_number(len(values), 2, "seeds", "a test over seeds")
    check_finite(values, "seeds")
    check_varied(values, "seeds", "a t-test")
    wide = values.astype(np.float64)
    side = _SIDES[None if direction is None else as_choice(Direction, direction, "direction")]
    ends = ttest_1samp(wide, 0.0).confidence_interval(level)
    return Tested(
        float(wide.mean()),
        Interval(float(ends.low), float(ends.high), level),
        float(ttest_1samp(wide, 0.0, alternative=side).pvalue),
        len(wide),
        f"t-test over {len(wide)} seeds, {side}",
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values of a family of tests, adjusted by Holm's step-down method, in the order given."""
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"a p-value is {wrong[0]}: give values from 0 to 1")
    # statsmodels has it too, but collects garbage at every call: a sixth of a second each.
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, test in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[test]))
        adjusted[test] = largest
    return tuple(adjusted)


@dataclass(frozen=True)
class ClusterBootstrap:
    """How intervals over passages are made: share of them that should cover the truth, and draws.

    Raises:
        ValueError: the level is not between 0 and 1, or there are fewer than 100 replicates.
    """

    level: float = 0.95
    replicates: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must be between 0 and 1, found {self.level}; 0.95 is usual")
        if self.replicates < 100:
            raise ValueError(
                f"replicates must be at least 100 for the ends of an interval, found "
                f"{self.replicates}; 2000 is usual"
            )

    def resampled_sums(
        self,
        values: Float[np.ndarray, "cluster value"],
        strata: Int[np.ndarray, "cluster"] | None = None,
    ) -> Float[np.ndarray, "replicate value"]:
        """Sums of values over clusters drawn with replacement, each stratum as large as it is.

        Args:
            values: one row per cluster; one draw serves all columns, so they stay paired.
            strata: the stratum of every cluster; None for one.
        """
        generator = np.random.default_rng(self.seed)
        strata = np.zeros(len(values), dtype=np.int64) if strata is None else strata
        sums = np.zeros((self.replicates, values.shape[1]))
        for stratum in np.unique(strata):
            members = values[strata == stratum]
            share = np.full(len(members), 1 / len(members))
            sums += generator.multinomial(len(members), share, size=self.replicates) @ members
        return sums

    def interval(
        self,
        resampled: Float[np.ndarray, "replicate"],
        n_clusters: int,
        strata: Int[np.ndarray, "cluster"] | None = None,
    ) -> Interval | None:
        """Expanded percentile interval of a statistic from its replicates; they may be infinite.

        Returns:
            None where a stratum has one cluster, which says nothing about spread.
        """
        from scipy.stats import norm, t

        sizes = [n_clusters] if strata is None else np.unique(strata, return_counts=True)[1]
        if min(sizes) < 2:
            return None
        freedom = n_clusters - len(sizes)
        quantile = sqrt(n_clusters / freedom) * t.ppf((1 - self.level) / 2, freedom)
        # Order statistics: interpolating next to an infinite replicate would give NaN.
        ordered = np.sort(resampled)
        rank = max(ceil(norm.cdf(quantile) * len(ordered)), 1)
        return Interval(float(ordered[rank - 1]), float(ordered[-rank]), self.level)

    def mean_interval(self, means: Float[np.ndarray, "cluster"]) -> Interval | None:
        """Interval of the mean of one value per cluster; None from fewer than two clusters."""
        sums = self.resampled_sums(means[:, None])
        return self.interval(sums[:, 0] / len(means), len(means))


DEFAULT_BOOTSTRAP = ClusterBootstrap()
