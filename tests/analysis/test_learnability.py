"""The learnability threshold: planted hinges, a search by brute force, and coverage."""

import numpy as np
import pytest
import torch
from scipy import optimize

from analysis.encounters import learnability_threshold
from analysis.significance import ClusterBootstrap
from tests.refusals import refused

SPACINGS = np.array([10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0])


def hinge(threshold, slope):
    return np.maximum(-slope * (np.log10(threshold) - np.log10(SPACINGS)), 0.0)


@pytest.mark.parametrize("threshold", [31.0, 100.0, 420.0, 2999.0])
@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_a_planted_hinge_is_found(kind, threshold):
    found = learnability_threshold(kind(SPACINGS), kind(hinge(threshold, -0.7)))
    # Least squares of lines through points on them.
    assert found.threshold == pytest.approx(threshold, rel=1e-9)
    assert found.slope == pytest.approx(-0.7, rel=1e-9)
    assert found.bracketed
    assert found.interval is None
    assert found.gain_intervals == (None,) * 6


@pytest.mark.parametrize("seed", range(7))
def test_it_is_the_best_of_all_hinges(seed):
    generator = np.random.default_rng(seed)
    gains = hinge(200.0, -0.5) + generator.normal(0, 0.15, 6)
    found = learnability_threshold(SPACINGS, gains)
    x = np.log10(SPACINGS)

    def squares(place):
        shape = np.maximum(place - x, 0.0)
        height = max(shape @ gains / max(shape @ shape, 1e-300), 0.0)
        return np.square(gains - height * shape).sum()

    places = np.linspace(1, 5, 4001)
    start = places[np.argmin([squares(place) for place in places])]
    refined = optimize.minimize_scalar(
        squares, bounds=(start - 1e-3, start + 1e-3), method="bounded"
    )
    # The search stops within 1e-5 of the place, and never below the minimum.
    assert squares(np.log10(found.threshold)) <= refined.fun + 1e-12
    assert np.log10(found.threshold) == pytest.approx(refined.x, abs=2e-5)


def test_where_the_threshold_lies_outside_what_was_tried():
    none = learnability_threshold(SPACINGS, -hinge(300.0, -0.5))
    assert (none.threshold, none.slope, none.bracketed) == (10.0, 0.0, False)
    beyond = learnability_threshold(SPACINGS, hinge(20000.0, -0.5))
    assert beyond.threshold == pytest.approx(20000, rel=1e-9)
    assert not beyond.bracketed
    rising = learnability_threshold(SPACINGS, np.linspace(0.5, 0.9, 6))
    assert (rising.threshold, rising.bracketed) == (np.inf, False)


def test_the_interval_comes_from_passages_paired_or_not():
    generator = np.random.default_rng(0)
    level = generator.gamma(4, 0.25, 23)
    gains = hinge(200.0, -0.5)[:, None] * level + generator.normal(0, 0.02, (6, 23))
    found = learnability_threshold(SPACINGS, gains)
    assert found.interval.low < found.threshold < found.interval.high
    np.testing.assert_allclose(found.gains, gains.mean(axis=1), rtol=1e-13)
    for interval, gain in zip(found.gain_intervals, found.gains, strict=True):
        assert interval.low < gain < interval.high
    # Passages that gain more do so at every interval, which leaves the threshold where it is; only
    # a design that pairs them knows that.
    apart = learnability_threshold(SPACINGS, gains, paired=False)
    assert apart.threshold == found.threshold
    assert apart.interval.width > 2 * found.interval.width
    assert learnability_threshold(SPACINGS, gains[:, :1]).interval is None


def test_intervals_cover_the_truth_at_their_level():
    generator, trials, covered = np.random.default_rng(1), 150, np.zeros(2)
    for trial in range(trials):
        gains = hinge(200.0, -0.5)[:, None] + generator.normal(0, 0.2, (6, 19))
        bootstrap = ClusterBootstrap(replicates=300, seed=trial)
        for design, paired in enumerate((True, False)):
            found = learnability_threshold(SPACINGS, gains, paired=paired, bootstrap=bootstrap)
            covered[design] += found.interval.low <= 200.0 <= found.interval.high
    # 95 %, less four standard errors of a share of 150 (1.8 points each).
    assert (covered / trials >= 0.88).all()


def test_accumulated_gains_vanish_where_the_forgetting_curve_says():
    # Every encounter adds one nat; t updates after the last, 1 - log10(t) / 2 of all there was is
    # left, and nothing from 100 on.
    def run(spacing):
        log = [-8.0]
        for _ in range(5):
            held = log[-1] + 8 + 1
            log += [-8 + held * max(1 - np.log10(t) / 2, 0) for t in range(1, spacing + 1)]
        return np.array(log)

    spacings = [50, 70, 90, 110, 150, 300]
    gains = [run(s)[5 * s] - run(s)[0] for s in spacings]
    assert gains[0] > gains[1] > gains[2] > 0
    assert gains[3:] == [0.0, 0.0, 0.0]
    found = learnability_threshold(spacings, np.array(gains))
    assert found.bracketed
    # Gains add up to more than a line below the threshold, which pulls the bend a little down.
    assert 90 < found.threshold < 110


BAD = {
    "few": (
        ([10, 20], np.ones(2)),
        "at least 3 injection intervals, rising and above 0, found 10, 20",
    ),
    "order": (([10, 40, 20], np.ones(3)), "found 10, 40, 20"),
    "zero": (([0, 10, 20], np.ones(3)), "above 0"),
    "rows": (([10, 20, 40], np.ones((5, 3))), r"found \[5, 3\]"),
    "axes": (([10, 20, 40], np.ones((3, 2, 2))), r"found \[3, 2, 2\]"),
    "nan": (([10, 20, 40], np.array([1.0, np.nan, 0.0])), "gains must be finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_gains_are_refused_in_one_line(case):
    arguments, message = BAD[case]
    with refused(message):
        learnability_threshold(*arguments)
