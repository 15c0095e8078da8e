r"""Intervals for statistics of a corpus, from blocks of documents.

**Jackknife.** With G blocks and \(\theta_{(g)}\) the statistic without block g, the standard error
is \(\sqrt{\frac{G-1}{G} \sum_g (\theta_{(g)} - \bar\theta)^2}\), and the interval is
\(G\theta - (G-1)\bar\theta \pm t_{G-1}\) times it. Its centre is not \(\theta\): the entropy of
means over few documents is too low, since chance makes them uneven, and the jackknife takes that
bias off. Without the correction an interval can miss the truth nearly always.

**Bootstrap.** Blocks are drawn with replacement, the statistic taken anew, and the quantiles
reflected about it (the basic bootstrap), which takes the same bias off.

Documents must be independent of each other; the tokens of one need not be. With as many blocks as
documents, documents themselves are left out or drawn.

Source: Quenouille (1956); Tukey (1958); Kott (2001), "The Delete-a-Group Jackknife"; Davison and
Hinkley (1997), section 5.2.

Example:
    >>> jackknife_interval(2.0, [1.9, 2.1, 2.0]).low < 2.0
    True
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.choices import IntervalMethod
from probes.masked_means import BlockedMean


class Interval(NamedTuple):
    """A confidence interval, in the units of what it is about."""

    low: float
    high: float
    level: float = 0.95

    @property
    def centre(self) -> float:
        """The middle: the estimate less its bias."""
        return (self.low + self.high) / 2

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low


def estimate_of(value: float, interval: Interval | None) -> float:
    """The number that an interval of this module is of, and that lies within it."""
    return value if interval is None else interval.centre


def jackknife_interval(
    estimate: float, without_block: Sequence[float], level: float = 0.95
) -> Interval | None:
    """Interval of a statistic from its values without each block."""
    from scipy.stats import t

    count = len(without_block)
    if count < 2:
        return None
    values = np.asarray(without_block, dtype=np.float64)
    error = np.sqrt((count - 1) / count * np.square(values - values.mean()).sum())
    centre = count * estimate - (count - 1) * values.mean()
    half = t.ppf((1 + level) / 2, count - 1) * error
    return Interval(float(centre - half), float(centre + half), level)


def bootstrap_interval(
    estimate: float, resampled: Sequence[float], level: float = 0.95
) -> Interval | None:
    """Interval of a statistic from its values on resampled blocks."""
    if not len(resampled):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(resampled, dtype=np.float64), [tail, 1 - tail])
    return Interval(float(2 * estimate - high), float(2 * estimate - low), level)


def resampling_counts(n_blocks: int, replicates: int, seed: int) -> np.ndarray:
    """How often each block is drawn in each replicate, `[replicate block]`."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=replicates)


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
