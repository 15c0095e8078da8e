"""Resampling: an interval for any statistic of blocked means.

Example:
    >>> Resampling(IntervalMethod.BOOTSTRAP, blocks=100).replicates
    1000
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.choices import IntervalMethod
from probes.intervals import Interval, bootstrap_interval, jackknife_interval, resampling_counts
from probes.streaming import BlockedMean

Statistic = Callable[[Tensor], float]


@dataclass(frozen=True)
class Resampling:
    """How intervals are made, and of how many blocks of documents."""

    method: IntervalMethod = IntervalMethod.JACKKNIFE
    # Ten blocks: a t quantile of 2.26 instead of 1.96, for ten copies of the sums.
    blocks: int = 10
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.blocks < 2:
            raise ValueError(f"blocks must be at least 2 for an interval, found {self.blocks}")

    def interval(self, means: BlockedMean, statistic: Statistic) -> Interval | None:
        """Interval of a statistic of the means; None from fewer than two blocks of documents."""
        touched = means.touched_blocks()
        if len(touched) < 2:
            return None
        if self.method is IntervalMethod.JACKKNIFE:
            return jackknife(means, statistic)
        estimate = statistic(means.mean())
        drawn = resampling_counts(len(touched), self.replicates, self.seed)
        found = [
            statistic(means.mean(_placed(torch.from_numpy(counts), touched, len(means.weights))))
            for counts in drawn
        ]
        return bootstrap_interval(estimate, found)


def jackknife(means: BlockedMean, statistic: Statistic) -> Interval | None:
    """Interval of a statistic of the means, each block of documents left out in turn."""
    without = []
    for block in means.touched_blocks():
        kept = torch.ones_like(means.weights)
        kept[block] = 0.0
        if (kept * means.weights).sum() > 0:
            without.append(statistic(means.mean(kept)))
    return jackknife_interval(statistic(means.mean()), without) if without else None


def _placed(
    counts: Int[Tensor, "touched"], touched: list[int], n_blocks: int
) -> Float[Tensor, "block"]:
    weights = torch.zeros(n_blocks, dtype=torch.float64)
    weights[touched] = counts.double()
    return weights
