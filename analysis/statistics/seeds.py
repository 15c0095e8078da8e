r"""Would other seeds do the same? A t-test of one number for each seed.

Tests over items hold for the runs that were made: another seed is another run. One number for each
seed (an effect, the difference of two arms, a correlation) and Student's t say whether other seeds
would show the same. Three seeds leave the interval wide: t is 4.3 where normal values have 2.

Example:
    >>> import numpy as np
    >>> found = mean_over_seeds(np.array([1.0, 2.0, 3.0]))
    >>> found.effect, round(found.interval.low, 2), round(found.p_value, 3)
    (2.0, -0.48, 0.074)
"""

import numpy as np
from jaxtyping import Float

from analysis.bootstrap import LEVEL, check_level
from analysis.statistics.checking import check_finite, check_number, check_varied
from analysis.statistics.choices import Direction, chosen
from analysis.statistics.results import Tested
from probes.intervals import Interval


def mean_over_seeds(
    values: Float[np.ndarray, "seed"],
    direction: Direction | str | None = None,
    *,
    level: float = LEVEL,
) -> Tested:
    """Whether the mean of one number for each seed is other than 0.

    Args:
        values: such as an arm's effect less another's, of each seed.
        direction: which side of 0 it is expected on ("rises": above); None for either.
        level: of the interval, which is two-sided.

    Raises:
        ValueError: there are fewer than two seeds, a value is not finite, all are the same (their
            spread then says nothing), or an option is out of range.
    """
    from scipy.stats import ttest_1samp

    check_level(level)
    check_number(len(values), 2, "seeds", "a test over seeds")
    check_finite(values, "seeds")
    check_varied(values, "seeds", "a t-test")
    wide = values.astype(np.float64)
    side = None if direction is None else chosen(Direction, direction, "direction")
    sides = {None: "two-sided", Direction.RISES: "greater", Direction.FALLS: "less"}
    ends = ttest_1samp(wide, 0.0).confidence_interval(level)
    return Tested(
        float(wide.mean()),
        Interval(float(ends.low), float(ends.high), level),
        float(ttest_1samp(wide, 0.0, alternative=sides[side]).pvalue),
        len(wide),
        f"t-test over {len(wide)} seeds, {sides[side]}",
    )
