r"""Intervals for statistics of a corpus, by the block jackknife.

With G blocks of documents and :math:`\theta_{(g)}` the statistic without block g, the standard
error is :math:`\sqrt{\frac{G-1}{G} \sum_g (\theta_{(g)} - \bar\theta)^2}`, and the interval is
:math:`\theta \pm t_{G-1}` times it. Documents must be independent of each other; tokens need not.

Source: Tukey (1958); Kott (2001), "The Delete-a-Group Jackknife".

Example:
    >>> jackknife_interval(2.0, [1.9, 2.1, 2.0]).low < 2.0
    True
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A confidence interval, in the units of what it is about."""

    low: float
    high: float
    level: float = 0.95


def jackknife_interval(
    estimate: float, without_block: Sequence[float], level: float = 0.95
) -> Interval | None:
    """Interval of a statistic from its values without each block.

    Args:
        estimate: the statistic on all documents.
        without_block: the statistic without one block, for every block.
        level: share of intervals that should cover the truth.

    Returns:
        The interval; None from fewer than two blocks, which say nothing about spread.
    """
    from scipy.stats import t

    count = len(without_block)
    if count < 2:
        return None
    values = np.asarray(without_block, dtype=np.float64)
    error = np.sqrt((count - 1) / count * np.square(values - values.mean()).sum())
    half = float(t.ppf((1 + level) / 2, count - 1) * error)
    return Interval(estimate - half, estimate + half, level)
