r"""Do two measurements of the same items differ? Tests for results that come item by item.

- `paired_permutation`: whether two measurements of the same items differ in their mean. Under the
  null hypothesis they could change places within any item. All \(2^n\) ways are taken where there
  are no more of them than `replicates`, else as many random ones.
- `mcnemar`: whether two models find the same items equally often. Of the items that one alone
  finds, half should be the first one's (exact binomial); the interval is Agresti and Min's.

Both are two-sided. Items must be independent of each other: where they come in passages, take the
mean of each passage first. Intervals of one set of items are in `analysis.bootstrap`.

Source: Efron and Tibshirani (1993), chapter 15; McNemar (1947); Agresti and Min (2005),
"Simple improved confidence intervals for comparing matched proportions".

Example:
    >>> import numpy as np
    >>> before, after = np.array([1.0, 2, 3, 4, 5, 6]), np.array([2.0, 3, 4, 5, 6, 8])
    >>> paired_permutation(after, before, np.random.default_rng(0)).p_value
    0.03125
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from analysis.bootstrap import LEVEL, REPLICATES, batch_size, bootstrap_interval, check_level
from analysis.statistics.checking import check_number, without_rounding
from analysis.statistics.choices import Direction
from analysis.statistics.results import Comparison
from probes.intervals import Interval


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
    """The p-value of a mean difference when signs could be the other way, and what was done.

    Args:
        differences: of two measurements of each item.
        generator: source of the permutations.
        direction: which way the mean is expected to lie from 0; None for either.
        replicates: most permutations to take.
    """
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
    """How many items there are, how many the first alone finds, and how many the second alone.

    Raises:
        ValueError: there are none.
    """
    check_number(len(found_a), 1, "items", "a comparison of shares")
    return len(found_a), int((found_a & ~found_b).sum()), int((found_b & ~found_a).sum())


def matched_difference(n: int, only_a: int, only_b: int) -> tuple[float, float]:
    """Agresti and Min's difference of two shares of the same items, and its standard error.

    It is the ordinary one after adding half an item to each of the four cells, so that neither is
    0 where the models never differ.

    Args:
        n: items.
        only_a: found by the first alone.
        only_b: found by the second alone.
    """
    centre = (only_a - only_b) / (n + 2)
    spread = math.sqrt(only_a + only_b + 1 - (only_a - only_b) ** 2 / (n + 2)) / (n + 2)
    return centre, spread
