"""The shapes of forgetting: planted ones, and SciPy's least squares."""

import numpy as np
import pytest
from scipy import optimize

from analysis.forgetting_curve import (
    DecayModel,
    fit_decay_models,
    fit_forgetting_curve,
    log_spaced_offsets,
)

PLANTED = {
    "log_linear": lambda t: 0.9 - 0.21 * np.log10(t),
    "power": lambda t: 0.9 * t**-0.31,
    "exponential": lambda t: 0.9 * np.exp(-t / 71),
}


@pytest.mark.parametrize("shape", PLANTED)
def test_the_planted_shape_is_told_from_the_others(shape):
    offsets = log_spaced_offsets(499, per_decade=11)
    noise = np.random.default_rng(6).normal(0, 0.01, len(offsets))
    found = fit_forgetting_curve(offsets, PLANTED[shape](offsets) + noise)
    assert found.best_by_aic == DecayModel(shape)


@pytest.mark.parametrize(
    ("shape", "scale", "rate"), [("power", 0.9, 0.31), ("exponential", 0.9, 1 / 71)]
)
def test_planted_rates_are_found(shape, scale, rate):
    offsets = np.array([3.0, 7.0, 20.0, 55.0, 148.0])
    found = fit_decay_models(offsets, PLANTED[shape](offsets))[shape]
    # The search stops where the squares no longer change, at the root of the precision.
    assert (found.scale, found.rate) == pytest.approx((scale, rate), rel=1e-6)
    np.testing.assert_allclose(found.predict(offsets), PLANTED[shape](offsets), rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_fits_are_scipys_least_squares(seed):
    generator = np.random.default_rng(seed)
    offsets = np.array([1.0, 2.0, 5.0, 11.0, 23.0, 47.0, 101.0])
    curve = 0.8 - 0.25 * np.log10(offsets) + generator.normal(0, 0.1, 7)
    functions = {
        "log_linear": lambda t, b, a: b - a * np.log10(t),
        "power": lambda t, c, a: c * t**-a,
        "exponential": lambda t, c, k: c * np.exp(-k * t),
    }
    for model, found in fit_decay_models(offsets, curve).items():
        expected, _ = optimize.curve_fit(functions[model], offsets, curve, p0=(0.8, 0.05))
        squares = np.square(curve - functions[model](offsets, *expected)).sum()
        own = np.square(curve - found.predict(offsets)).sum()
        # At the minimum squares are flat: equal to far better than the parameters.
        assert own == pytest.approx(squares, rel=1e-6)
        assert found.aic == pytest.approx(7 * np.log(squares / 7) + 6, abs=1e-4)
