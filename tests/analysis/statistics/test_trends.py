"""Seeds, trends, signs and peaks: against enumeration and SciPy, and false alarms."""

import math
from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

SEEDS, POSITIONS = 3, 5


def falling(seed=4, slope=1.0):
    noise = np.random.default_rng(seed).normal(size=(SEEDS, POSITIONS))
    return 1.5 * noise - slope * np.arange(POSITIONS)


@pytest.mark.parametrize("direction", [None, "rises", "falls"])
def test_the_mean_over_seeds_is_a_t_test(direction):
    from analysis.statistics import mean_over_seeds

    values = np.random.default_rng(1).normal(loc=1.0, size=5)
    found = mean_over_seeds(values, direction, level=0.9)
    t = values.mean() / (values.std(ddof=1) / math.sqrt(5))
    tails = {None: 2 * stats.t.sf(abs(t), 4), "rises": stats.t.sf(t, 4), "falls": stats.t.cdf(t, 4)}
    assert found.p_value == pytest.approx(tails[direction], rel=1e-12)
    expected = stats.t.interval(0.9, 4, loc=values.mean(), scale=stats.sem(values))
    assert tuple(found.interval) == pytest.approx((*expected, 0.9), rel=1e-12)
    assert (found.effect, found.n) == (pytest.approx(values.mean(), rel=1e-12), 5)


def test_a_trend_over_seeds_is_pages_test_by_every_order():
    from analysis.statistics import trend_over_seeds

    values = falling()
    found = trend_over_seeds(values, "falls")
    order = np.arange(1, POSITIONS + 1)
    ranks = stats.rankdata(values, axis=1)
    observed = (ranks * order[::-1]).sum()
    # The sum of each seed, over every order, and of three seeds by convolution.
    one = np.bincount([int(np.dot(each, order)) for each in permutations(range(1, POSITIONS + 1))])
    three = np.convolve(np.convolve(one, one), one)
    expected = three[int(observed) :].sum() / math.factorial(POSITIONS) ** 3
    assert found.p_value == pytest.approx(expected, rel=1e-12)
    rhos = [stats.spearmanr(row, order).statistic for row in values]
    assert found.effect == pytest.approx(np.mean(rhos), abs=1e-11)
    assert found.test == "Page, exact, 3 seeds, falls"
    assert trend_over_seeds(values, "rises").p_value > 0.9
    other = trend_over_seeds(values, "falls", "t")
    assert other.p_value == pytest.approx(
        stats.ttest_1samp(rhos, 0, alternative="less").pvalue, rel=1e-9
    )
    assert other.interval == found.interval


def test_seeds_that_agree_wholly_have_an_interval_of_one_value():
    from analysis.statistics import trend_over_seeds

    found = trend_over_seeds(np.cumsum(np.ones((SEEDS, POSITIONS)), axis=1), "rises")
    assert (found.effect, *found.interval[:2]) == (1, 1, 1)
    assert found.p_value == pytest.approx(1 / math.factorial(POSITIONS) ** 3, rel=1e-9)


def test_a_series_has_a_trend_one_sided():
    from analysis.statistics import correlation, series_trend

    values = falling(3)[0]
    both = correlation(values, np.arange(5.0))
    falls, rises = series_trend(values, "falls"), series_trend(values, "rises")
    assert both.effect < 0
    assert falls.p_value == pytest.approx(both.p_value / 2, rel=1e-12)
    assert rises.p_value == pytest.approx(1 - both.p_value / 2, rel=1e-12)
    assert falls.interval == rises.interval == both.interval
    assert falls.test == "Spearman, 5 points, all orders, falls"


def test_most_go_one_way():
    from analysis.statistics import sign_test

    found = sign_test(np.array([-1.0, -2, 0, -3, 4, -5, -6, 0, -7]), "falls", level=0.9)
    # Six of seven: one or none the other way, of 128 ways.
    assert found.p_value == pytest.approx(8 / 128, rel=1e-12)
    assert (found.effect, found.n, found.test) == (6 / 7, 7, "sign test, 6 of 7 falls")
    ends = (stats.beta.ppf(0.05, 6, 2), stats.beta.ppf(0.95, 7, 1))
    assert found.interval[:2] == pytest.approx(ends, rel=1e-6)
    assert sign_test(np.array([1.0, 2, -1]), "falls").p_value == pytest.approx(7 / 8, rel=1e-12)


def peaked(seed, units=7, height=1.0):
    values = np.random.default_rng(seed).normal(size=(units, 3))
    values[:, 1] += height
    return values


def test_a_peak_is_tested_against_every_other_position():
    from analysis.statistics import peak_test

    values = peaked(2)
    above = [values[:, 1] - values[:, other] for other in (0, 2)]
    found = peak_test(values, 1, level=0.9)
    assert found.effect == pytest.approx(min(d.mean() for d in above), rel=1e-12)
    expected = max(stats.ttest_1samp(d, 0, alternative="greater").pvalue for d in above)
    assert found.p_value == pytest.approx(expected, rel=1e-12)
    low = min(stats.ttest_1samp(d, 0).confidence_interval(0.9).low for d in above)
    # The two upper ends share the error.
    high = min(stats.ttest_1samp(d, 0).confidence_interval(0.95).high for d in above)
    assert tuple(found.interval) == pytest.approx((low, high, 0.9), rel=1e-12)
    assert found.n == 7


def test_a_peak_by_every_way_to_change_signs():
    from analysis.statistics import peak_test

    values = peaked(3)
    shares = []
    for other in (0, 2):
        d = values[:, 1] - values[:, other]
        ways = [np.dot(signs, d) for signs in product((1, -1), repeat=7)]
        shares.append(np.mean(np.array(ways) >= d.sum() - 1e-12))
    found = peak_test(values, 1, "exact")
    assert found.p_value == pytest.approx(max(shares), rel=1e-12)
    assert (
        found.test == "paired permutations against 2 others, exact, 128 ways, the largest p-value"
    )
    drawn = peak_test(values, 1, "exact", replicates=99)
    assert "99 random ways" in drawn.test
    assert drawn == peak_test(values, 1, "exact", replicates=99)


@pytest.mark.parametrize("p_value_from", ["t", "exact"])
def test_a_rise_that_levels_off_is_no_peak(p_value_from):
    from analysis.statistics import peak_test

    random, trials, alarms, covered = np.random.default_rng(5), 200, 0, 0
    for _ in range(trials):
        values = random.normal(size=(6, 3)) + np.array([-5, 0, 0])
        found = peak_test(values, 1, p_value_from, level=0.9)
        alarms += found.p_value <= 0.05
        covered += found.interval.low <= 0 <= found.interval.high
    # Four standard errors of a share of 200; the interval may cover more than it says.
    assert alarms / trials < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert covered / trials > 0.9 - 4 * math.sqrt(0.9 * 0.1 / trials)


@pytest.mark.parametrize("p_value_from", ["t", "exact"])
def test_no_trend_is_found_no_more_often_than_the_level(p_value_from):
    from analysis.statistics import trend_over_seeds

    random, trials, alarms = np.random.default_rng(6), 200, 0
    for _ in range(trials):
        values = random.normal(size=(SEEDS, POSITIONS))
        if p_value_from == "t":
            # Even where series wander.
            values = np.cumsum(values, axis=1)
        alarms += trend_over_seeds(values, "rises", p_value_from).p_value <= 0.05
    # Four standard errors of a share of 200; and a t-test of three bounded numbers errs by 2 points.
    assert alarms / trials < 0.07 + 4 * math.sqrt(0.05 * 0.95 / trials)


TABLE = falling()


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        (
            "mean_over_seeds",
            (TABLE[0, :1],),
            {},
            "found 1 seeds: a test over seeds needs 2 or more",
        ),
        (
            "mean_over_seeds",
            (np.ones(3) / 3,),
            {},
            "all 3 values of seeds are 0.333333: a t-test n",
        ),
        ("mean_over_seeds", (TABLE[0] * np.nan,), {}, "5 of 5 values of seeds are not finite"),
        ("mean_over_seeds", (TABLE[0], "up"), {}, "direction is 'up': choose from rises, falls"),
        ("mean_over_seeds", (TABLE[0],), {"level": 0.0}, "level is 0.0: give a share"),
        ("trend_over_seeds", (TABLE[:1], "falls"), {}, "found 1 seeds: a test over seeds needs 2"),
        ("trend_over_seeds", (TABLE[:, :2], "falls"), {}, "found 2 positions: a trend needs 3 or"),
        ("trend_over_seeds", (TABLE * 0, "falls"), {}, "all 5 values of a seed's series are "),
        (
            "trend_over_seeds",
            (TABLE, "falls", "z"),
            {},
            "p_value_from is 'z': choose from exact, t",
        ),
        (
            "trend_over_seeds",
            (np.cumsum(TABLE**2, axis=1), "rises", "t"),
            {},
            "all 3 values of seeds are 1: a t-test needs a spread",
        ),
        (
            "trend_over_seeds",
            (TABLE * np.inf, "falls"),
            {},
            "15 of 15 values of the series are not",
        ),
        ("series_trend", (TABLE[0, :3], "falls"), {}, "found 3 points: an interval"),
        ("series_trend", (TABLE[0], "sinks"), {}, "direction is 'sinks': choose from rises, falls"),
        (
            "sign_test",
            (np.zeros(4), "rises"),
            {},
            "found 0 changes other than 0: a sign test needs",
        ),
        ("sign_test", (TABLE[0] * np.nan, "rises"), {}, "5 of 5 values of the changes are not"),
        ("peak_test", (TABLE, 5), {}, "peak is 5: give a position from 0 to 4"),
        ("peak_test", (TABLE[:1], 1), {}, "found 1 units: a paired test needs 2 or more"),
        ("peak_test", (TABLE[:, :1], 0), {}, "found 1 positions: a peak needs 2 or more"),
        ("peak_test", (TABLE * np.nan, 1), {}, "15 of 15 values of the positions are not finite"),
        ("peak_test", (TABLE, 1), {"replicates": 0}, "replicates is 0: give 1 or more"),
        ("peak_test", (TABLE, 1, "page"), {}, "p_value_from is 'page': choose from exact, t"),
        ("peak_test", (np.eye(3)[[1, 1]], 1), {}, "all 2 values of seeds are 1: a t-test needs"),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, options, message):
    from analysis import statistics

    with pytest.raises(ValueError, match=message) as raised:
        getattr(statistics, function)(*arguments, **options)
    assert "\n" not in str(raised.value)
