r"""Are two things the same, for all that matters? Equivalence, by two one-sided tests.

A large p-value does not say that there is no difference: with few items nothing is found. Here the
null hypothesis is a difference at the margin or beyond, on either side, and a small p-value says
that it is smaller. The margin is for the user to name before looking, in the units of the data.

At a level of 0.95 both one-sided tests are at 0.05, and the interval is the 90 % one: it lies
within the margins where the test finds equivalence.

- `equivalent_means`: of two separate sets of items (Welch's t).
- `equivalent_pairs`: of two measurements of the same items or seeds (paired t).
- `equivalent_shares`: of two separate sets of answers, right or wrong (Agresti and Caffo).
- `equivalent_answers`: of two models that answer the same questions (Agresti and Min).

Source: Schuirmann (1987), "A comparison of the two one-sided tests procedure and the power approach
for assessing the equivalence of average bioavailability"; Agresti and Caffo (2000); Agresti and
Min (2005).

Example:
    >>> import numpy as np
    >>> found = equivalent_pairs(np.array([1.0, 2, 3, 4]), np.array([1.1, 1.9, 3.1, 4.0]), 0.5)
    >>> found.equivalent, round(found.effect, 3), round(found.p_value, 4)
    (True, -0.025, 0.0011)
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from analysis.bootstrap import LEVEL, check_level
from analysis.statistics.checking import check_finite, check_number, check_varied
from analysis.statistics.paired import discordant, matched_difference
from analysis.statistics.results import Equivalence
from probes.intervals import Interval


def equivalent_means(
    a: Float[np.ndarray, "item"],
    b: Float[np.ndarray, "other_item"],
    margin: float,
    *,
    level: float = LEVEL,
) -> Equivalence:
    """Whether the means of two separate sets of items are the same within a margin.

    Args:
        a: one set.
        b: the other.
        margin: least difference that would matter, in their units.
        level: 1 less the level of the test.

    Raises:
        ValueError: a set has fewer than two items or all the same, a value is not finite, or an
            option is out of range.
    """
    from scipy.stats import ttest_ind
    from statsmodels.stats.weightstats import ttost_ind

    _check_options(margin, level)
    for values, name in ((a, "the first"), (b, "the second")):
        _check_sample(values, name)
    x, y = a.astype(np.float64), b.astype(np.float64)
    p_value, *_ = ttost_ind(x, y, -margin, margin, usevar="unequal")
    ends = ttest_ind(x, y, equal_var=False).confidence_interval(2 * level - 1)
    interval = Interval(float(ends.low), float(ends.high), 2 * level - 1)
    test = f"two one-sided Welch t-tests, {len(x)} and {len(y)} items"
    effect = float(x.mean() - y.mean())
    return Equivalence(effect, interval, float(p_value), len(x) + len(y), test, margin)


def equivalent_pairs(
    a: Float[np.ndarray, "item"],
    b: Float[np.ndarray, "item"],
    margin: float,
    *,
    level: float = LEVEL,
) -> Equivalence:
    """Whether two measurements of the same items have the same mean within a margin.

    Args:
        a: one measurement of each item or seed.
        b: another, in the same order.
        margin: least difference that would matter, in their units.
        level: 1 less the level of the test.

    Raises:
        ValueError: there are fewer than two items, all differences are the same, a value is not
            finite, or an option is out of range.
    """
    from scipy.stats import ttest_1samp
    from statsmodels.stats.weightstats import ttost_paired

    _check_options(margin, level)
    difference = a.astype(np.float64) - b
    _check_sample(difference, "the differences")
    p_value, *_ = ttost_paired(difference, np.zeros(len(difference)), -margin, margin)
    ends = ttest_1samp(difference, 0.0).confidence_interval(2 * level - 1)
    interval = Interval(float(ends.low), float(ends.high), 2 * level - 1)
    test = f"two one-sided paired t-tests, {len(difference)} items"
    effect = float(difference.mean())
    return Equivalence(effect, interval, float(p_value), len(difference), test, margin)


def equivalent_shares(
    right_a: Bool[np.ndarray, "item"],
    right_b: Bool[np.ndarray, "other_item"],
    margin: float,
    *,
    level: float = LEVEL,
) -> Equivalence:
    """Whether two separate sets of items have the same share of right ones within a margin.

    Args:
        right_a: whether each of one set is right.
        right_b: whether each of the other is.
        margin: least difference of shares that would matter.
        level: 1 less the level of the test.

    Raises:
        ValueError: a set is empty, or an option is out of range.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep, tost_proportions_2indep

    _check_options(margin, level)
    for right, name in ((right_a, "first"), (right_b, "second")):
        check_number(len(right), 1, f"items in the {name} set", "a share")
    counts = (int(right_a.sum()), len(right_a), int(right_b.sum()), len(right_b))
    method = "agresti-caffo"
    tested = tost_proportions_2indep(*counts, -margin, margin, method=method)
    # Its alpha is that of a two-sided interval.
    low, high = confint_proportions_2indep(*counts, method=method, alpha=2 * (1 - level))
    return Equivalence(
        float(right_a.mean() - right_b.mean()),
        Interval(float(low), float(high), 2 * level - 1),
        float(tested.pvalue),
        len(right_a) + len(right_b),
        f"two one-sided tests of shares, {counts[0]} of {counts[1]} and {counts[2]} of {counts[3]}",
        margin,
    )


def equivalent_answers(
    right_a: Bool[np.ndarray, "item"],
    right_b: Bool[np.ndarray, "item"],
    margin: float,
    *,
    level: float = LEVEL,
) -> Equivalence:
    """Whether two models answer the same share of the same questions within a margin.

    Args:
        right_a: whether the first is right on each.
        right_b: whether the second is.
        margin: least difference of shares that would matter.
        level: 1 less the level of the test.

    Raises:
        ValueError: there are no items, or an option is out of range.
    """
    from scipy.stats import norm

    _check_options(margin, level)
    n, only_a, only_b = discordant(right_a, right_b)
    centre, spread = matched_difference(n, only_a, only_b)
    half = float(norm.ppf(level)) * spread
    return Equivalence(
        (only_a - only_b) / n,
        Interval(max(centre - half, -1.0), min(centre + half, 1.0), 2 * level - 1),
        float(norm.sf((margin - abs(centre)) / spread)),
        n,
        f"two one-sided tests of matched shares, {only_a} right in the first alone and {only_b} in "
        f"the second",
        margin,
    )


def _check_options(margin: float, level: float) -> None:
    check_level(level)
    if level <= 0.5:
        raise ValueError(f"level is {level}: an equivalence test needs more than 0.5, such as 0.95")
    if not 0 < margin < math.inf:
        raise ValueError(
            f"margin is {margin}: give the least difference that would matter, above 0"
        )


def _check_sample(values: Float[np.ndarray, "item"], what: str) -> None:
    check_number(len(values), 2, "items", "a t-test")
    check_finite(values, what)
    check_varied(values, what, "a t-test")
