r"""Cluster bootstrap: intervals for means over probes that come in passages.

The probes of one passage rise and fall together, so it is passages that are drawn with replacement,
never probes. Where a design fixes how many passages of each sort there are (70 paraphrased, 60
shown once), draws stay within a sort, called a stratum.

The interval is the expanded percentile one: the quantiles of the replicates at \(\alpha'\) and
\(1 - \alpha'\), with \(\alpha' = \Phi(\sqrt{n / (n - s)}\, t_{\alpha / 2, n - s})\) for n clusters
in s strata. For a mean over few clusters it is as wide as the t interval, where the plain
percentile interval is too narrow; it never leaves the range of the statistic, and a monotone
function of the statistic has the function of the interval.

Source: Hesterberg (2015), "What Teachers Should Know About the Bootstrap", section 5 (expanded
percentile); Davison and Hinkley (1997), section 3.8 (clusters).

Example:
    >>> import numpy as np
    >>> means = np.array([[1.0], [2.0], [3.0], [6.0]])
    >>> low, high, level = ClusterBootstrap().mean_interval(means[:, 0])
    >>> low < 3.0 < high, level
    (True, 0.95)
"""

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from jaxtyping import Float, Int

from probes.intervals import Interval


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
