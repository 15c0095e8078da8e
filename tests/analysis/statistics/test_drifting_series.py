"""Series that drift: against SciPy and statsmodels; walks and trends are not taken for a link."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.api import OLS, add_constant

from analysis import correlations
from analysis.correlations import checkpoint_correlation, first_differences, series_correlation
from analysis.significance import ScaleError
from tests.refusals import refused

N = 11
CLOCK = np.arange(N)


def series(seed, n=N, link=0.0):
    random = np.random.default_rng(seed)
    x = np.cumsum(random.normal(size=n)) - np.arange(n)
    return x, link * x + np.cumsum(random.normal(size=n))


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_each_correlation_is_what_it_says(kind):
    x, y = series(1)
    found = series_correlation(x, y, CLOCK, kind)
    reference = getattr(stats, f"{kind}r")
    assert found.levels.effect == pytest.approx(reference(x, y).statistic, abs=1e-12)
    differences = reference(np.diff(x), np.diff(y))
    assert found.differences.effect == pytest.approx(differences.statistic, abs=1e-12)
    assert (found.levels.n, found.differences.n, found.detrended.n) == (N, N - 1, N)
    left = [v - np.polyval(np.polyfit(CLOCK, v, 1), CLOCK) for v in (x, y)]
    # Two least-squares solvers.
    assert found.detrended.effect == pytest.approx(reference(*left).statistic, abs=1e-11)
    assert "given 1 covariate" in found.detrended.test
    assert "covariate" not in found.differences.test
    assert found.p_value >= max(found.differences.p_value, found.detrended.p_value)


def test_gaps_are_held_fixed_where_they_differ():
    clock = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])
    x, y = series(2, len(clock))
    gaps = add_constant(np.diff(clock).astype(float))
    dx, dy = (OLS(np.diff(v), gaps).fit().resid for v in (x, y))
    found = series_correlation(x, y, clock, "pearson").differences
    # Two least-squares solvers.
    assert found.effect == pytest.approx(stats.pearsonr(dx, dy).statistic, abs=1e-11)
    fit = OLS(np.diff(y), np.column_stack([np.diff(x), gaps])).fit()
    assert found.p_value == pytest.approx(fit.pvalues[0], rel=1e-8)
    # What grows along the clock alone has no differences of its own.
    moved = first_differences(x + 5.0 * clock, clock)
    assert moved == pytest.approx(first_differences(x, clock), abs=1e-9)
    assert first_differences(x, CLOCK[: len(x)]) == pytest.approx(np.diff(x), rel=1e-12)
    # A logarithmic clock is even.
    assert first_differences(x, np.log(clock)) == pytest.approx(np.diff(x), rel=1e-12)


def drifts(random, wander, n):
    """Noise about a line, and a walk of so many steps' size."""
    return (
        random.normal(size=n)
        + wander * np.cumsum(random.normal(size=n))
        + random.normal() * np.arange(n)
    )


@pytest.mark.parametrize("wander", [0.0, 0.7, 100.0])
def test_what_merely_drifts_is_found_no_more_often_than_the_level(wander):
    random, trials, n = np.random.default_rng(3), 300, 9
    found = [
        series_correlation(
            drifts(random, wander, n), drifts(random, wander, n), np.arange(n), "pearson"
        )
        for _ in range(trials)
    ]
    # Four standard errors of a share of 300.
    bound = 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert np.mean([one.p_value <= 0.05 for one in found]) < bound
    # Which the levels do not keep.
    assert np.mean([one.levels.p_value <= 0.05 for one in found]) > 2 * bound


def test_what_follows_is_found():
    random, clock, found = np.random.default_rng(4), np.arange(12), []
    for _ in range(40):
        x = np.cumsum(random.normal(size=12))
        found.append(series_correlation(x, 0.3 * random.normal(size=12) - x, clock))
    assert np.mean([one.p_value <= 0.05 for one in found]) > 0.8
    assert all(one.direction == -1 for one in found)


def test_signs_that_differ_support_nothing():
    # They rise and fall together over the long run, and against each other from step to step.
    swing, zigzag = np.sin(np.arange(12) / 2), np.resize([1.0, -1.0], 12)
    found = series_correlation(3 * swing + zigzag, 3 * swing - zigzag, np.arange(12), "pearson")
    assert found.differences.effect < 0 < found.detrended.effect
    assert (found.direction, found.p_value) == (0, 1.0)
    assert found.differences.p_value < 0.05


def over_seeds(seeds=3, checkpoints=8, seed=5):
    random = np.random.default_rng(seed)
    x = np.cumsum(random.normal(size=(seeds, checkpoints)), axis=1)
    return x, x + 0.5 * random.normal(size=(seeds, checkpoints)), np.arange(checkpoints)


def test_seeds_that_share_checkpoints_are_averaged_and_add_no_number():
    x, y, clock = over_seeds(seeds=5)
    found = checkpoint_correlation(x[:1], y, clock)
    means = [sum(row[i] for row in y) / 5 for i in range(8)]
    assert found == series_correlation(x[0], np.array(means), clock)
    assert found.levels.n == 8


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_seeds_with_checkpoints_of_their_own_are_what_is_counted(kind):
    x, y, clock = over_seeds()
    found = checkpoint_correlation(x, y, clock, "seed", kind).differences
    each = [
        series_correlation(a, b, clock, kind).differences.effect for a, b in zip(x, y, strict=True)
    ]
    tested = stats.ttest_1samp(np.arctanh(each), 0)
    assert found.effect == pytest.approx(np.tanh(np.arctanh(each).mean()), rel=1e-12)
    assert found.p_value == pytest.approx(tested.pvalue, rel=1e-12)
    ends = np.tanh(tested.confidence_interval(0.95))
    assert found.interval[:2] == pytest.approx(tuple(ends), rel=1e-12)
    assert found.n == 3
    assert found.test == f"{kind.title()} of 7 points, t-test over 3 seeds, two-sided"


def test_walks_of_several_seeds_are_found_no_more_often_than_the_level():
    random, trials, alarms = np.random.default_rng(6), 60, np.zeros(2)
    for _ in range(trials):
        x, y = np.cumsum(random.normal(size=(2, 3, 8)), axis=2)
        alarms += [
            checkpoint_correlation(x, y, np.arange(8), cluster, "pearson").p_value <= 0.05
            for cluster in ("seed", "checkpoint")
        ]
    # Four standard errors of a share of 60.
    assert (alarms / trials < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)).all()


@pytest.mark.parametrize(("seeds", "checkpoints"), [(2, 8), (3, 7), (1, 40)])
def test_too_few_checkpoints_or_seeds_are_not_tested(seeds, checkpoints):
    x, y, clock = over_seeds(seeds, checkpoints)
    message = (
        f"not tested at this scale: found {checkpoints} checkpoints and {seeds} seeds, a "
        "correlation over checkpoints needs 8 and 3"
    )
    with pytest.raises(ScaleError, match=message):
        checkpoint_correlation(x, y, clock)


X, Y = series(7)
TABLE = np.stack([Y, Y + 1, X])


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("series_correlation", (X[:5], Y[:5], CLOCK[:5]), "found 5 points: a correlation of ser"),
        ("series_correlation", (X, Y, CLOCK[::-1]), "the clock does not rise at 10 of 10 steps"),
        ("series_correlation", (X, Y, np.full(N, np.nan)), "11 of 11 values of the clock are not"),
        ("series_correlation", (X, Y, CLOCK, "cosine"), "kind must be one of pearson"),
        ("series_correlation", (X, 3.0 * CLOCK, CLOCK), "all 10 values of the steps of y are 3"),
        ("series_correlation", (X, 3.0 * CLOCK**2, CLOCK**2), "y follows wholly from what is held"),
        (
            "first_differences",
            (X[:2], CLOCK[:2]),
            "found 2 points: a series of differences needs 3",
        ),
        ("checkpoint_correlation", (X[None], TABLE, CLOCK, "seed"), "one row of x for 3 seeds"),
        (
            "checkpoint_correlation",
            (X[None], TABLE, CLOCK, "run"),
            "cluster must be one of checkpoint",
        ),
        (
            "checkpoint_correlation",
            (X[None], TABLE * np.nan, CLOCK),
            "33 of 33 values of y are not",
        ),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, message):
    with refused(message):
        getattr(correlations, function)(*arguments)
