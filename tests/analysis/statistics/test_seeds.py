"""A mean over seeds: against SciPy's t-test, and what is refused."""

import math

import numpy as np
import pytest
from scipy import stats

from analysis import significance
from analysis.significance import mean_over_seeds
from tests.refusals import refused

VALUES = np.random.default_rng(4).normal(size=5)


@pytest.mark.parametrize("direction", [None, "rises", "falls"])
def test_the_mean_over_seeds_is_a_t_test(direction):
    values = np.random.default_rng(1).normal(loc=1.0, size=5)
    found = mean_over_seeds(values, direction, level=0.9)
    t = values.mean() / (values.std(ddof=1) / math.sqrt(5))
    tails = {None: 2 * stats.t.sf(abs(t), 4), "rises": stats.t.sf(t, 4), "falls": stats.t.cdf(t, 4)}
    assert found.p_value == pytest.approx(tails[direction], rel=1e-12)
    expected = stats.t.interval(0.9, 4, loc=values.mean(), scale=stats.sem(values))
    assert tuple(found.interval) == pytest.approx((*expected, 0.9), rel=1e-12)
    assert (found.effect, found.n) == (pytest.approx(values.mean(), rel=1e-12), 5)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((VALUES[:1],), {}, "found 1 seeds: a test over seeds needs 2 or more"),
        ((np.ones(3) / 3,), {}, "all 3 values of seeds are 0.333333: a t-test n"),
        ((VALUES * np.nan,), {}, "5 of 5 values of seeds are not finite"),
        ((VALUES, "up"), {}, "direction must be one of rises, falls, found 'up'"),
        ((VALUES,), {"level": 0.0}, "level is 0.0: give a share"),
    ],
)
def test_bad_input_is_answered_in_one_line(arguments, options, message):
    with refused(message):
        significance.mean_over_seeds(*arguments, **options)
