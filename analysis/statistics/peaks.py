r"""Is the one in the middle best? A test of one position against every other.

That the middle of a trajectory is best says two things at least: it is better than the start, and
better than the end. A test that only finds the positions to differ, or that puts all orders on a
par, takes a rise that levels off for a peak. So each of the others is tested against the peak,
seed by seed or item by item, one-sided, and the largest p-value counts: all must be beaten
(an intersection-union test, which needs no adjustment).

The effect is the peak's mean less the best of the other means. Its interval goes from the least of
the lower ends of the differences to the least of the upper ends, the latter widened for their
number; it covers the truth at least as often as it says.

With signs that change, n seeds have \(2^n\) ways: three cannot come below 1/8, five below 1/32. So
`SeedTest.EXACT` is for passages or questions, `SeedTest.T` for a few seeds.

Source: Berger (1982), "Multiparameter hypothesis testing and acceptance sampling".

Example:
    >>> import numpy as np
    >>> seeds = np.array([[1.0, 3.0, 2.0], [1.5, 3.2, 2.0], [0.8, 3.1, 1.5]])
    >>> found = peak_test(seeds, 1, p_value_from="t")
    >>> round(found.effect, 2), found.p_value < 0.05
    (1.27, True)
"""

import numpy as np
from jaxtyping import Float

from analysis.bootstrap import LEVEL, REPLICATES, check_level
from analysis.statistics.checking import check_finite, check_number
from analysis.statistics.choices import Direction, SeedTest, chosen
from analysis.statistics.paired import sign_flips
from analysis.statistics.results import Tested
from analysis.statistics.seeds import mean_over_seeds
from probes.intervals import Interval


def peak_test(
    values: Float[np.ndarray, "unit position"],
    peak: int,
    p_value_from: SeedTest | str = SeedTest.T,
    *,
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Tested:
    """Whether one position is better than every other.

    Args:
        values: one row a seed, passage or question; larger is better.
        peak: the position that should be best, from 0, named before looking.
        p_value_from: "t" (paired t-tests) or "exact" (signs of paired differences).
        level: of the interval, which is made of paired t intervals.
        replicates: most ways to take of changing signs.
        seed: of random ways, where there are more.

    Raises:
        ValueError: there are fewer than two units or positions, the peak is none of them, a value
            is not finite, the peak is above another by the same in every unit, or an option is out
            of range.
    """
    source = chosen(SeedTest, p_value_from, "p_value_from")
    _check(values, peak, level, replicates)
    above = values[:, [peak]] - np.delete(values, peak, axis=1)
    one_sided = [mean_over_seeds(column, Direction.RISES, level=level) for column in above.T]
    wider = 1 - (1 - level) / above.shape[1]
    upper = [mean_over_seeds(column, level=wider).interval.high for column in above.T]
    p_values = [found.p_value for found in one_sided]
    test = f"paired t-tests against {above.shape[1]} others, the largest p-value"
    if source is SeedTest.EXACT:
        generator = np.random.default_rng(seed)
        flips = [sign_flips(d, generator, Direction.RISES, replicates) for d in above.T]
        p_values = [p for p, _ in flips]
        test = (
            f"paired permutations against {len(flips)} others, {flips[0][1]}, the largest p-value"
        )
    return Tested(
        min(found.effect for found in one_sided),
        Interval(min(found.interval.low for found in one_sided), min(upper), level),
        max(p_values),
        len(values),
        test,
    )


def _check(
    values: Float[np.ndarray, "unit position"], peak: int, level: float, replicates: int
) -> None:
    check_level(level)
    check_number(values.shape[0], 2, "units", "a paired test")
    check_number(values.shape[1], 2, "positions", "a peak")
    check_finite(values, "the positions")
    if not 0 <= peak < values.shape[1]:
        raise ValueError(
            f"peak is {peak}: give a position from 0 to {values.shape[1] - 1}, of those in values"
        )
    if replicates < 1:
        raise ValueError(f"replicates is {replicates}: give 1 or more")
