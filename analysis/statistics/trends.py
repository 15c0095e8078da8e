r"""Is there a trend, or a majority? Tests of a direction that was named beforehand.

- `series_trend`: whether one series rises (or falls) along an order: Spearman's correlation with
  it, one-sided. Points must be independent: a series that wanders seems to have a trend.
- `trend_over_seeds`: the same with several seeds. Exact, it is Page's test, which asks whether the
  order shows in more seeds than chance would have it; with t, it is a t-test of the seeds' Spearman
  correlations, which allows series to wander, as long as seeds do so independently.
- `sign_test`: whether most of some things are above (below) 0: layers that fall, encounters that
  raise. Exact binomial; the interval of the share is Clopper and Pearson's.

Of trends over groups without seeds in common (Jonckheere and Terpstra's case) there is none here:
runs of an arm share their seeds with the other arms, and Page's test makes use of that.

All p-values are one-sided, all intervals two-sided.

Source: Page (1963), "Ordered hypotheses for multiple treatments"; Clopper and Pearson (1934).

Example:
    >>> import numpy as np
    >>> falling = np.array([[5.0, 4, 3, 2], [6, 4, 5, 1], [9, 8, 6, 7]])
    >>> found = trend_over_seeds(falling, "falls")
    >>> round(found.effect, 2), round(found.p_value, 5)
    (-0.87, 0.00289)
"""

import numpy as np
from jaxtyping import Float

from analysis.bootstrap import LEVEL, check_level
from analysis.statistics.checking import check_finite, check_number, check_varied, is_constant
from analysis.statistics.choices import Direction, SeedTest, chosen
from analysis.statistics.correlations import correlation
from analysis.statistics.results import Correlation, Tested
from analysis.statistics.seeds import mean_over_seeds
from probes.intervals import Interval

LEAST_POSITIONS = 3


def series_trend(
    values: Float[np.ndarray, "position"], direction: Direction | str, *, level: float = LEVEL
) -> Correlation:
    """Whether a series rises or falls.

    Args:
        values: in their order.
        direction: "rises" or "falls".
        level: of the interval.

    Raises:
        ValueError: there are fewer than four points, a value is not finite, all are the same, or an
            option is out of range.
    """
    side = chosen(Direction, direction, "direction")
    found = correlation(values, np.arange(len(values), dtype=np.float64), level=level)
    one_sided = found.p_value / 2 if found.effect * side.sign > 0 else 1 - found.p_value / 2
    return Correlation(found.effect, found.interval, one_sided, found.n, f"{found.test}, {side}")


def trend_over_seeds(
    values: Float[np.ndarray, "seed position"],
    direction: Direction | str,
    p_value_from: SeedTest | str = SeedTest.EXACT,
    *,
    level: float = LEVEL,
) -> Tested:
    """Whether series of several seeds rise or fall.

    Args:
        values: one series a seed, in their order.
        direction: "rises" or "falls".
        p_value_from: "exact" (Page's test) or "t" (over seeds).
        level: of the interval, which is that of the t-test over seeds.

    Returns:
        The mean of the seeds' Spearman correlations with the order, from -1 to 1. Where all seeds
        have the same one, the interval is that one value.

    Raises:
        ValueError: there are fewer than two seeds or three positions, a value is not finite, a seed
            never moves, all seeds have the same correlation and t is asked for, or an option is out
            of range.
    """
    from scipy.stats import page_trend_test, rankdata

    side = chosen(Direction, direction, "direction")
    source = chosen(SeedTest, p_value_from, "p_value_from")
    _check(values, level)
    ranks = rankdata(values, axis=1)
    order = np.arange(values.shape[1], dtype=np.float64)
    each = np.array([np.corrcoef(row, order)[0, 1] for row in ranks]).round(12)
    if source is SeedTest.T:
        found = mean_over_seeds(each, side, level=level)
        p_value, test = found.p_value, f"Spearman, {found.test}"
    else:
        page = page_trend_test(ranks[:, :: side.sign], ranked=True)
        p_value, test = float(page.pvalue), f"Page, {page.method}, {len(each)} seeds, {side}"
    return Tested(float(each.mean()), _spread(each, level), p_value, len(each), test)


def sign_test(
    values: Float[np.ndarray, "item"], direction: Direction | str, *, level: float = LEVEL
) -> Tested:
    """Whether most of some values lie on one side of 0.

    Args:
        values: changes, of items that are independent; those of exactly 0 are left out.
        direction: "rises" where they should be above 0, "falls" where below.
        level: of the interval.

    Returns:
        The share that goes the way named, against a half; `n` counts those other than 0.

    Raises:
        ValueError: no value is other than 0, one is not finite, or an option is out of range.
    """
    from scipy.stats import binomtest

    side = chosen(Direction, direction, "direction")
    check_level(level)
    check_finite(values, "the changes")
    moved = values[values != 0]
    check_number(len(moved), 1, "changes other than 0", "a sign test")
    right = int((moved * side.sign > 0).sum())
    tested = binomtest(right, len(moved), alternative="greater")
    # The interval of the one-sided test would end at 1.
    ends = binomtest(right, len(moved)).proportion_ci(level)
    return Tested(
        right / len(moved),
        Interval(float(ends.low), float(ends.high), level),
        float(tested.pvalue),
        len(moved),
        f"sign test, {right} of {len(moved)} {side}",
    )


def _check(values: Float[np.ndarray, "seed position"], level: float) -> None:
    check_level(level)
    check_number(values.shape[0], 2, "seeds", "a test over seeds")
    check_number(values.shape[1], LEAST_POSITIONS, "positions", "a trend")
    check_finite(values, "the series")
    for row in values:
        check_varied(row, "a seed's series", "a trend")


def _spread(each: Float[np.ndarray, "seed"], level: float) -> Interval:
    """The t interval over seeds, which cannot leave the range of a correlation."""
    if is_constant(each):
        return Interval(float(each[0]), float(each[0]), level)
    low, high, _ = mean_over_seeds(each, level=level).interval
    return Interval(max(low, -1.0), min(high, 1.0), level)
