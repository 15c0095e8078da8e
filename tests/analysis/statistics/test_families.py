"""Holm and Benjamini-Hochberg: against statsmodels, and false alarms in simulations."""

import math

import numpy as np
import pytest
from scipy import stats

P_VALUES = [
    [0.03],
    [],
    [0.04, 0.01, 0.01, 1.0, 0.0, 0.013, 0.5],
    [0.5, 0.4, 0.3],
    [0.01, 0.02, 0.021],
    [0.7, 0.6, 0.01],
]


@pytest.mark.parametrize("p_values", P_VALUES)
@pytest.mark.parametrize(("ours", "theirs"), [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")])
def test_adjusted_p_values_are_those_of_statsmodels(p_values, ours, theirs):
    from statsmodels.stats.multitest import multipletests

    from analysis.statistics import tests as families

    expected = multipletests(p_values, method=theirs)[1] if p_values else []
    # One multiplication and one division each.
    assert getattr(families, ours)(p_values) == pytest.approx(tuple(expected), rel=1e-14)


def test_false_alarms_stay_below_the_level_in_simulated_families():
    from analysis.statistics import benjamini_hochberg, holm

    random, trials = np.random.default_rng(1), 400
    # Of seven tests four are of nothing, and all share a part of their noise.
    effects = np.array([0, 0, 0, 0, 3, 3, 4])
    noise = math.sqrt(0.5) * (random.normal(size=(trials, 7)) + random.normal(size=(trials, 1)))
    p_values = 2 * stats.norm.sf(abs(effects + noise))
    alarms, shares, powers = [], [], []
    for row in p_values.tolist():
        kept, discovered = np.array(holm(row)) < 0.05, np.array(benjamini_hochberg(row)) < 0.05
        alarms.append(kept[:4].any())
        shares.append(discovered[:4].sum() / max(discovered.sum(), 1))
        powers.append((kept[4:].mean(), discovered[4:].mean()))
    # 5 % and four standard errors of a share of 400; the second is a mean of shares, so has less.
    bound = 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert 0 < np.mean(alarms) < bound
    assert np.mean(shares) < bound
    assert (p_values[:, :4] < 0.05).any(axis=1).mean() > bound
    holm_power, discovery_power = np.mean(powers, axis=0)
    assert 0.5 < holm_power < discovery_power


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("holm", ([0.5, math.nan],), "a p-value is nan: give values from 0 to 1"),
        ("benjamini_hochberg", ([1.5],), "a p-value is 1.5: give values from 0 to 1"),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, message):
    from analysis import statistics

    with pytest.raises(ValueError, match=message) as raised:
        getattr(statistics, function)(*arguments)
    assert "\n" not in str(raised.value)
