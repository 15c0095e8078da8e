r"""How far a statistic of some items would move with other items: bootstrap intervals.

Items are drawn with replacement, as many as there are, and the statistic taken anew; an interval is
read off these draws in one of three ways (`BootstrapMethod`). Items must be independent of each
other. `probes.intervals` has the jackknife, which does better for entropies and what is made of
them.

Source: Efron and Tibshirani (1993), chapters 13 and 14; Davison and Hinkley (1997), section 5.2.

Example:
    >>> import numpy as np
    >>> shares = np.repeat([0.0, 1.0], [13, 7])
    >>> found = bootstrap_interval(np.mean, shares, np.random.default_rng(0))
    >>> found.effect, found.interval.low < 0.35 < found.interval.high
    (0.35, True)
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from probes.intervals import Interval

REPLICATES = 9999
LEVEL = 0.95
BATCH_VALUES = 4_000_000
"""Most values to hold at a time."""


class BootstrapMethod(StrEnum):
    """How an interval is read off the bootstrap distribution."""

    BCA = "bca"
    """Percentiles corrected for bias and for skew: for means, shares, differences."""
    PERCENTILE = "percentile"
    """The percentiles themselves."""
    BASIC = "basic"
    """The percentiles reflected about the estimate: for statistics that a draw makes smaller, such
    as an entropy, where BCa does not exist when no draw comes out larger."""


@dataclass(frozen=True)
class Estimate:
    """A statistic of some items and how sure it is.

    Attributes:
        effect: the statistic of the items themselves, in its own units.
        interval: where it would be with other items.
        n: number of items.
        method: how the interval was made.
    """

    effect: float
    interval: Interval
    n: int
    method: str


def bootstrap_interval(
    statistic: Callable[[Any], float],
    items: Shaped[np.ndarray, "item *rest"],
    generator: np.random.Generator,
    *,
    method: BootstrapMethod | str = BootstrapMethod.BCA,
    level: float = LEVEL,
    replicates: int = REPLICATES,
) -> Estimate:
    """A statistic of some items, with a bootstrap interval over items.

    Args:
        statistic: takes an array like `items` and returns one number.
        items: one entry an item along the first axis; what belongs to an item stays together.
        generator: source of the draws.
        method: "bca", "percentile" or "basic". Where the statistic is the same on every draw, as
            when all items are alike, the interval is that one value.
        level: share of intervals that should cover the truth.
        replicates: how many draws.

    Raises:
        ValueError: an option is out of range, there are fewer than two items, the statistic is not
            finite on a draw, or BCa does not exist for it.
    """
    _check_bootstrap(len(items), method, level, replicates)
    effect = float(statistic(items))
    drawn, low, high = _bootstrapped(
        lambda index: float(statistic(items[index.astype(np.int64)])),
        len(items),
        generator,
        {"method": str(method), "confidence_level": level, "n_resamples": replicates},
    )
    if not (np.isfinite(drawn).all() and math.isfinite(effect)):
        raise ValueError(
            f"the statistic is {effect:.4g} on all items and not finite on "
            f"{(~np.isfinite(drawn)).sum()} of {replicates} draws: give one that always is"
        )
    if np.ptp(drawn) == 0:
        low = high = float(drawn[0])
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"the statistic is {effect:.4g} and from {drawn.min():.4g} to {drawn.max():.4g} on "
            f"draws, for which no BCa interval exists: choose {BootstrapMethod.BASIC.value!r}"
        )
    done = f"{method} bootstrap, {replicates} draws"
    return Estimate(effect, Interval(low, high, level), len(items), done)


def _bootstrapped(
    statistic: Callable[[Any], float],
    n: int,
    generator: np.random.Generator,
    options: dict[str, Any],
) -> tuple[Float[np.ndarray, "replicate"], float, float]:
    """The statistic of indices on every draw, and the ends of the interval, NaN where none is."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # What they warn of shows in the result, and the caller refuses it by name.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            (np.arange(n),),
            statistic,
            vectorized=False,
            batch=batch_size(n),
            rng=generator,
            **options,
        )
    ends = found.confidence_interval
    return found.bootstrap_distribution, float(ends.low), float(ends.high)


def batch_size(n: int) -> int:
    """How many draws of n items to hold at a time."""
    return max(1, BATCH_VALUES // n)


def _check_bootstrap(n: int, method: str, level: float, replicates: int) -> None:
    if method not in list(BootstrapMethod):
        raise ValueError(f"method is {method!r}: choose from {', '.join(BootstrapMethod)}")
    if n < 2:
        raise ValueError(f"found {n} items: an interval needs two or more")
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}: give 1 or more")
    check_level(level)


def check_level(level: float) -> None:
    """Refuse a level that is no share."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a share between 0 and 1, such as {LEVEL}")


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
