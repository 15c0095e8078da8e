r"""Is it more than chance: tests for results that come item by item.

- `paired_permutation`: whether two measurements of the same items differ in their mean. Under the
  null hypothesis they could change places within any item. All \(2^n\) ways are taken where there
  are no more of them than `replicates`, else as many random ones.
- `mcnemar`: whether two models find the same items equally often. Of the items that one alone
  finds, half should be the first one's (exact binomial); the interval is Agresti and Min's.
- `holm`: p-values of several tests, made larger so that the chance of any false alarm among them
  stays below the level.

All tests are two-sided. Items must be independent of each other. Intervals of one set of items are
in `analysis.bootstrap`.

Source: Efron and Tibshirani (1993), chapter 15; McNemar (1947); Agresti and Min (2005),
"Simple improved confidence intervals for comparing matched proportions"; Holm (1979).

Example:
    >>> import numpy as np
    >>> before, after = np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 3, 4, 5, 6, 8])
    >>> paired_permutation(after, before, np.random.default_rng(0)).p_value
    0.03125
    >>> holm([0.01, 0.04])
    (0.02, 0.04)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from analysis.bootstrap import (
    LEVEL,
    REPLICATES,
    BootstrapMethod,
    Estimate,
    batch_size,
    bootstrap_interval,
    check_level,
)
from probes.intervals import Interval

__all__ = [
    "BootstrapMethod",
    "Comparison",
    "Estimate",
    "bootstrap_interval",
    "holm",
    "mcnemar",
    "paired_permutation",
]


@dataclass(frozen=True)
class Comparison:
    """Two measurements of the same items against each other.

    Attributes:
        effect: the first less the second: difference in means, or in shares.
        interval: confidence interval of the effect.
        p_value: chance of an effect as large, either way, if there were none.
        n: number of items.
        test: what was done, in words.
    """

    effect: float
    interval: Interval
    p_value: float
    n: int
    test: str


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
    from scipy.stats import permutation_test

    difference = a.astype(np.float64) - b
    if not np.isfinite(difference).all():
        raise ValueError(
            f"{(~np.isfinite(difference)).sum()} of {len(difference)} pairs are not finite: leave "
            f"these items out of both"
        )
    estimate = bootstrap_interval(
        np.mean, difference, generator, level=level, replicates=replicates
    )
    # To change places within an item is to change the sign of its difference.
    tested = permutation_test(
        (difference, -difference),
        lambda x, y, axis: (x - y).mean(axis=axis) / 2,
        permutation_type="samples",
        vectorized=True,
        n_resamples=replicates,
        batch=batch_size(len(difference)),
        rng=generator,
    )
    ways = 2 ** len(difference)
    done = f"exact, {ways} ways" if ways <= replicates else f"{replicates} random ways"
    return Comparison(
        estimate.effect,
        estimate.interval,
        float(tested.pvalue),
        estimate.n,
        f"paired permutation, {done}",
    )


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

    n = len(found_a)
    if not n:
        raise ValueError("found 0 items: give one or more")
    check_level(level)
    only_a, only_b = int((found_a & ~found_b).sum()), int((found_b & ~found_a).sum())
    apart = only_a + only_b
    # Agresti and Min: half an item more in each of the four cells.
    centre = (only_a - only_b) / (n + 2)
    spread = math.sqrt(apart + 1 - (only_a - only_b) ** 2 / (n + 2)) / (n + 2)
    half = float(norm.ppf((1 + level) / 2)) * spread
    return Comparison(
        (only_a - only_b) / n,
        Interval(max(centre - half, -1.0), min(centre + half, 1.0), level),
        float(binomtest(only_a, apart).pvalue) if apart else 1.0,
        n,
        f"McNemar, exact, {only_a} found by the first alone and {only_b} by the second",
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values of a family of tests, adjusted by Holm's step-down method, in the order given.

    Raises:
        ValueError: one is not between 0 and 1.
    """
    wrong = [p for p in p_values if not 0 <= p <= 1]
    if wrong:
        raise ValueError(f"a p-value is {wrong[0]}: give values from 0 to 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for done, test in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - done) * p_values[test]))
        adjusted[test] = largest
    return tuple(adjusted)
