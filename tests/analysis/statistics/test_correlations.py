"""Correlations: against SciPy, statsmodels and recursion formulas, and coverage of intervals."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from analysis import correlations
from analysis.correlations import correlation
from tests.refusals import refused

N = 17


def sample(seed, n=N, slope=0.7, columns=0):
    random = np.random.default_rng(seed)
    given = random.normal(size=(n, columns))
    x = random.normal(size=n) + given.sum(axis=1)
    return x, slope * x + random.normal(size=n) - 2 * given.sum(axis=1), given


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_pearson_is_that_of_scipy(level):
    x, y, _ = sample(1)
    found, expected = correlation(x, y, "pearson", level=level), stats.pearsonr(x, y)
    # Twelve digits of the correlation are kept.
    assert found.effect == pytest.approx(expected.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    ends = expected.confidence_interval(level)
    assert tuple(found.interval) == pytest.approx((ends.low, ends.high, level), abs=1e-11)
    assert found.n == N
    assert found.test == "Pearson, 17 points, t of 15 degrees"


def test_spearman_is_that_of_scipy_with_bonett_and_wrights_interval():
    x, y, _ = sample(2)
    y[3] = y[5]
    found, expected = correlation(x, np.exp(3 * y)), stats.spearmanr(x, y).statistic
    assert found.effect == pytest.approx(expected, abs=1e-12)
    half = 1.959963984540054 * math.sqrt((1 + expected**2 / 2) / (N - 3))
    ends = [math.tanh(math.atanh(expected) + side * half) for side in (-1, 1)]
    assert found.interval[:2] == pytest.approx(ends, rel=1e-9)
    assert found.test == "Spearman, 17 points, 9999 random orders"


@pytest.mark.parametrize("n", [5, 7])
def test_few_points_are_put_in_every_order(n):
    x, y, _ = sample(6, n)
    y[1] = y[2]
    found = correlation(x, y)
    others = stats.rankdata(y)
    every = [np.corrcoef(order, others)[0, 1] for order in permutations(range(n))]
    # Ties make both tails differ, and SciPy doubles the smaller one.
    one = min(
        np.mean(np.array(every) >= found.effect - 1e-9),
        np.mean(np.array(every) <= found.effect + 1e-9),
    )
    assert found.p_value == pytest.approx(min(1, 2 * one), rel=1e-12)
    assert found.test.endswith("all orders")


def test_more_points_are_put_in_random_orders_to_the_same_end():
    x, y, _ = sample(11, 9, slope=0.6)
    found, others = correlation(x, y), stats.rankdata(y) - 5.0
    every = np.array(list(permutations(range(9))), dtype=np.float64) @ others / 60
    exact = (abs(every) >= abs(found.effect) - 1e-9).mean()
    assert 0.02 < exact < 0.9
    # Four standard errors of a share of 9999, doubled since it is one tail that is counted.
    error = 8 * math.sqrt(exact / 2 / 9999)
    assert found.p_value == pytest.approx(exact, abs=error)


def test_perfect_ranks_have_an_interval_that_ends_at_one():
    rising = np.arange(5.0)
    found, falling = correlation(rising, rising**3), correlation(rising, -rising)
    assert (found.effect, falling.effect) == (1, -1)
    # Of 120 orders two are as strong.
    assert found.p_value == pytest.approx(2 / 120, rel=1e-12)
    assert 0 < found.interval.low < found.interval.high == 1
    assert falling.interval[:2] == (-1, -found.interval.low)
    line = correlation(rising, 2 * rising, "pearson")
    assert (line.effect, line.p_value, line.interval[:2]) == (1, 0, (1, 1))


@pytest.mark.parametrize(
    ("kind", "level"), [("pearson", 0.8), ("pearson", 0.95), ("spearman", 0.8)]
)
def test_intervals_cover_the_truth_at_their_level(kind, level):
    random, trials, covered, rho = np.random.default_rng(5), 300, 0, 0.6
    # Spearman's correlation of two normal variables.
    truth = rho if kind == "pearson" else 6 / math.pi * math.asin(rho / 2)
    for _ in range(trials):
        x, noise = random.normal(size=(2, 30))
        found = correlation(x, rho * x + math.sqrt(1 - rho**2) * noise, kind, level=level)
        covered += found.interval.low <= truth <= found.interval.high
    # Four standard errors of a share of 300; Fisher's is an approximation, by a point at most.
    error = 4 * math.sqrt(level * (1 - level) / trials) + 0.01
    assert covered / trials == pytest.approx(level, abs=error)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_nothing_is_found_no_more_often_than_the_level(kind):
    random, trials, alarms = np.random.default_rng(6), 200, 0
    for _ in range(trials):
        x, y = random.normal(size=(2, 6))
        alarms += correlation(x, y, kind).p_value <= 0.05
    # Four standard errors of a share of 200, and half a point that t is off for ranks.
    assert 0 < alarms / trials < 0.055 + 4 * math.sqrt(0.05 * 0.95 / trials)


X, ONES = np.arange(7.0), np.ones(7)
NOISE = np.sin(X * X)


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        ("correlation", (X[:3], X[:3]), {}, "found 3 points: an interval of a correlation needs 4"),
        ("correlation", (X, ONES), {}, "all 7 values of y are 1: a correlation needs a spread"),
        ("correlation", (X * np.nan, X), {}, "7 of 7 values of x are not finite"),
        (
            "correlation",
            (X, X, "kendall"),
            {},
            "kind must be one of pearson, spearman, found 'kendall'",
        ),
        ("correlation", (X, X), {"level": 95.0}, "level is 95.0: give a share between 0 and 1"),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, options, message):
    with refused(message):
        getattr(correlations, function)(*arguments, **options)
