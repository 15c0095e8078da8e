"""Forgetting curves: planted parameters, SciPy's line, the released fit, and coverage."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from analysis.encounters import net_gain, retainability
from analysis.forgetting_curve import fit_forgetting_curve, log_spaced_offsets
from analysis.significance import ClusterBootstrap
from tests.reference import official_metrics
from tests.refusals import refused

SLOPE, INTERCEPT = -0.23, 0.83
THRESHOLD = 10 ** (INTERCEPT / -SLOPE)


def planted_probes(generator, offsets, *, n_passages=29, per_passage=5, spread=0.1):
    """Probes whose lines differ, by passage and by probe, from the planted one: R and passages."""
    x = np.log10(offsets)
    passages = np.repeat(np.arange(n_passages), per_passage)
    of_passage = generator.normal(0, spread, (n_passages, 2))[passages]
    of_probe = generator.normal(0, spread / 2, (len(passages), 2))
    lines = np.array([INTERCEPT, SLOPE]) + of_passage + of_probe
    noise = generator.normal(0, 0.05, (len(passages), len(x)))
    return lines[:, :1] + lines[:, 1:] * x + noise, passages


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
def test_a_planted_line_is_found(kind):
    offsets = log_spaced_offsets(997)
    found = fit_forgetting_curve(kind(offsets), kind(INTERCEPT + SLOPE * np.log10(offsets)))
    # Least squares of a line through points on it.
    assert found.slope == pytest.approx(SLOPE, rel=1e-10)
    assert found.intercept == pytest.approx(INTERCEPT, rel=1e-10)
    assert found.threshold == pytest.approx(THRESHOLD, rel=1e-9)
    assert found.extrapolated
    assert found.r_squared == pytest.approx(1)
    assert found.interval is None
    assert found.threshold_interval is None
    assert (found.n_probes, found.n_clusters) == (1, 1)


def test_the_line_is_scipys():
    offsets = [1, 2, 5, 11, 23, 47]
    curve = np.random.default_rng(0).normal(0.5, 0.2, 6)
    found = fit_forgetting_curve(offsets, curve)
    expected = stats.linregress(np.log10(offsets), curve)
    assert found.slope == pytest.approx(expected.slope, rel=1e-12)
    assert found.intercept == pytest.approx(expected.intercept, rel=1e-12)
    assert found.r_squared == pytest.approx(expected.rvalue**2, rel=1e-10)
    assert found.residual_error == pytest.approx(expected.stderr, rel=1e-12)


def test_offset_zero_is_left_out_and_the_unit_moves_only_the_threshold():
    offsets = np.array([0, 1, 3, 7, 19, 53])
    curve = np.array([1.0, 0.8, 0.7, 0.55, 0.4, 0.35])
    found = fit_forgetting_curve(offsets, curve)
    assert found.offsets.tolist() == [1, 3, 7, 19, 53]
    assert found.slope == fit_forgetting_curve(offsets[1:], curve[1:]).slope
    tokens = fit_forgetting_curve(offsets * 4096, curve)
    assert tokens.slope == pytest.approx(found.slope, rel=1e-10)
    assert tokens.threshold == pytest.approx(4096 * found.threshold, rel=1e-9)


def test_a_curve_that_does_not_fall_never_reaches_zero():
    assert fit_forgetting_curve([1, 10, 100], np.array([0.5, 0.6, 0.7])).threshold == np.inf
    flat = fit_forgetting_curve([1, 10, 100], np.array([0.5, 0.5, 0.5]))
    assert np.isnan(flat.r_squared)
    # So slow a fall that the crossing is beyond any number.
    slow = fit_forgetting_curve([1, 10, 100], 0.9 - 1e-4 * np.arange(3))
    assert slow.threshold == np.inf


def test_the_official_fit_is_the_released_script():
    generator = np.random.default_rng(1)
    steps = np.arange(83)
    curve = 0.9 - 0.3 * np.log10(np.maximum(steps, 1)) + generator.normal(0, 0.05, 83)
    curve[17] = -1.0
    for sign in (1, -1):
        # The script turns a negative curve first and drops -1 afterwards.
        given = sign * curve
        given[17] = -1.0 if sign == 1 else 1.0
        found = fit_forgetting_curve(steps, given, compat="official")
        expected = official_metrics.trend_line((100 * given).tolist())
        assert len(found.offsets) == 81
        # Eighty doubles, summed in another order, through percentages and back.
        assert found.slope == pytest.approx(expected["slope"], rel=1e-10)
        assert np.log10(found.threshold) == pytest.approx(expected["x_intercept"], rel=1e-10)
        assert found.residual_error == pytest.approx(expected["one_sigma"], rel=1e-10)
        assert found.r_squared == pytest.approx(expected["r_squared"], rel=1e-10)
    plain = fit_forgetting_curve(steps, curve)
    assert len(plain.offsets) == 82
    assert fit_forgetting_curve(steps, -curve).slope == pytest.approx(-plain.slope)


def test_probes_become_their_mean_and_weights_their_weighted_mean():
    generator = np.random.default_rng(2)
    offsets = np.array([1, 2, 5, 13, 31])
    values, passages = planted_probes(generator, offsets, n_passages=7, per_passage=3)
    values[[4, 11]] = np.nan
    kept = ~np.isnan(values[:, 0])
    found = fit_forgetting_curve(offsets, values, passages=passages)
    np.testing.assert_allclose(found.retainability, values[kept].mean(axis=0), rtol=1e-13)
    assert (found.n_probes, found.n_clusters) == (19, 7)
    gains = generator.gamma(2, 1, 21)
    gains[[4, 11]] = -1.0  # not kept, so not looked at
    gains[6:9] = 0.0  # a whole passage that counts nothing
    weighted = fit_forgetting_curve(offsets, values, passages=pd.Series(passages), weights=gains)
    expected = np.average(values[kept], axis=0, weights=gains[kept])
    np.testing.assert_allclose(weighted.retainability, expected, rtol=1e-13)
    assert (weighted.n_probes, weighted.n_clusters) == (16, 6)
    shaped = fit_forgetting_curve(
        offsets,
        values.reshape(7, 3, 5),
        passages=passages.reshape(7, 3),
        weights=gains.reshape(7, 3),
    )
    assert (shaped.slope, shaped.interval) == (weighted.slope, weighted.interval)


def test_weighted_by_net_gain_it_is_the_share_of_the_pooled_gain():
    log = np.random.default_rng(3).normal(-4, 1, (17, 31)) + np.linspace(2, 0, 31)
    log[:, 0] -= 3
    offsets = [1, 2, 5, 13]
    shares = retainability(log, [0], offsets, window=3)
    gains = net_gain(log, [0], window=3)
    found = fit_forgetting_curve(offsets, shares, weights=gains)
    best = 1 + log[:, 1:4].argmax(axis=1)
    later = np.stack([log[np.arange(17), best + t] - log[:, 0] for t in offsets], axis=1)
    kept = gains > 0
    pooled = later[kept].sum(axis=0) / gains[kept].sum()
    np.testing.assert_allclose(found.retainability, pooled, rtol=1e-12)


def test_intervals_draw_passages_and_not_probes():
    offsets = np.array([1, 3, 11, 37])
    values, passages = planted_probes(np.random.default_rng(4), offsets, per_passage=1)
    once = fit_forgetting_curve(offsets, values, passages=passages)
    many = fit_forgetting_curve(
        offsets, values.repeat(13, axis=0), passages=passages.repeat(13).tolist()
    )
    assert many.interval[:2] == pytest.approx(once.interval[:2], rel=1e-10)
    assert many.threshold_interval[:2] == pytest.approx(once.threshold_interval[:2], rel=1e-9)
    # Taken for independent, the copies seem to say more than they do.
    naive = fit_forgetting_curve(offsets, values.repeat(13, axis=0))
    assert naive.interval.width < once.interval.width / 3


def test_intervals_cover_the_truth_at_their_level():
    generator, trials = np.random.default_rng(5), 200
    offsets = np.array([1, 3, 11, 37, 113])
    covered = np.zeros(2)
    for trial in range(trials):
        values, passages = planted_probes(generator, offsets, n_passages=19, per_passage=3)
        bootstrap = ClusterBootstrap(replicates=500, seed=trial)
        found = fit_forgetting_curve(offsets, values, passages=passages, bootstrap=bootstrap)
        covered += (
            found.interval.low <= SLOPE <= found.interval.high,
            found.threshold_interval.low <= THRESHOLD <= found.threshold_interval.high,
        )
    # 95 %, less four standard errors of a share of 200 (1.5 points each).
    assert (covered / trials >= 0.89).all()
    assert (covered < trials).all()


def test_a_threshold_that_may_never_come_has_no_upper_end():
    offsets = np.array([1, 3, 11, 37])
    x = np.log10(offsets)
    slopes = np.array([-0.3, -0.2, -0.1, 0.1, 0.2])
    found = fit_forgetting_curve(offsets, 0.8 + slopes[:, None] * x)
    assert found.threshold_interval.low > 1
    assert found.threshold_interval.high == np.inf


def test_curves_that_cross_zero_or_rise_have_fits_too():
    offsets = np.array([1, 5, 25, 125, 625])
    for curve in ([0.9, 0.4, 0.1, -0.3, -0.6], [0.1, 0.2, 0.4, 0.8, 1.6], [-0.1] * 5, [0.0] * 5):
        found = fit_forgetting_curve(offsets, np.array(curve))
        for fit in found.fits.values():
            assert np.isfinite(fit.predict(found.offsets)).all()


def test_offsets_are_spread_over_decades():
    offsets = log_spaced_offsets(1050, per_decade=20)
    assert (offsets[0], offsets[-1]) == (1, 1050)
    assert (np.diff(offsets) > 0).all()
    counts = np.histogram(offsets, [10, 100, 1000])[0]
    assert counts.tolist() == [20, 20]
    assert log_spaced_offsets(2).tolist() == [1, 2]


T, Y = [1, 2, 5, 11], np.array([[0.9, 0.7, 0.5, 0.4], [0.8, 0.7, 0.6, 0.3]])
BAD = {
    "few": (([1, 2], Y[:, :2]), {}, "at least 3 offsets above 0, found 2"),
    "zero does not count": (([0, 1, 2], Y[:, :3]), {}, "at least 3 offsets above 0, found 2"),
    "order": (([1, 5, 2, 11], Y), {}, "found 1, 5, 2, 11"),
    "repeated": (([1, 2, 2, 11], Y), {}, "rising"),
    "negative": (([-1, 2, 5, 11], Y), {}, "at least 0, found -1"),
    "length": (([1, 2, 5], Y), {}, "found 4 for 3 offsets"),
    "no probe": ((T, np.full((3, 4), np.nan)), {}, "all 3 NaN"),
    "some NaN": ((T, np.where(Y == 0.3, np.nan, Y)), {}, "found 1 of 2"),
    "infinite": ((T, np.where(Y == 0.3, np.inf, Y)), {}, "found 1 of 2"),
    "nan curve": ((T, np.array([0.9, np.nan, 0.5, 0.4])), {}, "found 1 of 1"),
    "passages": ((T, Y), {"passages": ["a"]}, r"found \[1\] for probes \[2\]"),
    "weights": ((T, Y), {"weights": np.ones(3)}, r"found \[3\] for probes \[2\]"),
    "negative weight": ((T, Y), {"weights": np.array([1.0, -1.0])}, "found -1 to 1"),
    "no weight": ((T, Y), {"weights": np.zeros(2)}, "not all 0"),
    "official probes": ((T, Y), {"compat": "official"}, r"fits one curve, found \[2, 4\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case):
    arguments, keywords, message = BAD[case]
    with refused(message):
        fit_forgetting_curve(*arguments, **keywords)


def test_offsets_that_reach_nowhere_are_refused():
    with pytest.raises(ValueError, match="found 1 and 20"):
        log_spaced_offsets(1)
