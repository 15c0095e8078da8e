"""The jackknife against SciPy, and its coverage."""

import numpy as np
import pytest
from scipy import stats

from probes.corpus_means import jackknife_interval


def leave_one_out_means(sample):
    return [(sample.sum() - value) / (len(sample) - 1) for value in sample]


def test_for_a_mean_the_jackknife_is_the_t_interval():
    sample = np.random.default_rng(0).normal(size=11)
    found = jackknife_interval(sample.mean(), leave_one_out_means(sample), level=0.9)
    expected = stats.t.interval(0.9, 10, loc=sample.mean(), scale=stats.sem(sample))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-12)
    assert found.level == 0.9


def test_intervals_cover_the_truth_at_their_level():
    generator = np.random.default_rng(1)
    trials, covered = 2000, 0
    for _ in range(trials):
        sample = generator.normal(loc=3.0, size=10)
        low, high, _ = jackknife_interval(sample.mean(), leave_one_out_means(sample))
        covered += low <= 3.0 <= high
    # 95 % of 2000, give or take four standard errors of a share (0.5 points each).
    assert covered / trials == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_blocks_give_no_interval(values):
    assert jackknife_interval(1.0, values) is None
