r"""How far a statistic of passages would move with other passages: bootstrap intervals.

Clusters (passages, questions) are drawn with replacement, as many as there are of each stratum, and
the statistic taken anew; the interval has its percentiles, expanded for few clusters. Clusters must
be independent of each other. `probes.corpus_means` has the jackknife, which does better for
entropies and what is made of them; tests of pairs of items are in `analysis.statistics.tests`.

Source: Efron and Tibshirani (1993), chapter 13; Hesterberg (2015), "What Teachers Should Know About
the Bootstrap", section 5.3, for the expanded percentiles.
"""

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from jaxtyping import Float, Int

from probes.corpus_means import Interval


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
