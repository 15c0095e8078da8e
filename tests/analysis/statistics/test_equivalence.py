"""Equivalence: against one-sided tests of SciPy and statsmodels, and errors at the margin."""

import math

import numpy as np
import pytest
from scipy import stats

ITEMS, OTHERS = 19, 31


def samples(seed=1):
    random = np.random.default_rng(seed)
    return random.normal(size=ITEMS), random.normal(loc=0.2, scale=2, size=OTHERS)


def test_means_are_tested_by_two_welch_tests():
    from analysis.statistics import equivalent_means

    a, b = samples()
    found = equivalent_means(a, b, 1.1, level=0.9)
    tails = [
        stats.ttest_ind(a + 1.1, b, equal_var=False, alternative="greater").pvalue,
        stats.ttest_ind(a - 1.1, b, equal_var=False, alternative="less").pvalue,
    ]
    # Two libraries' degrees of freedom.
    assert found.p_value == pytest.approx(max(tails), rel=1e-10)
    ends = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.8)
    assert tuple(found.interval) == pytest.approx((*ends, 0.8), rel=1e-12)
    assert found.effect == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    assert (found.n, found.margin) == (ITEMS + OTHERS, 1.1)


def test_pairs_are_tested_by_two_paired_tests():
    from analysis.statistics import equivalent_pairs

    a = samples()[0]
    b = a + 0.1 + 0.3 * np.random.default_rng(2).normal(size=ITEMS)
    found = equivalent_pairs(a, b, 0.25)
    tails = [
        stats.ttest_rel(a + 0.25, b, alternative="greater").pvalue,
        stats.ttest_rel(a - 0.25, b, alternative="less").pvalue,
    ]
    assert found.p_value == pytest.approx(max(tails), rel=1e-10)
    ends = stats.t.interval(0.9, ITEMS - 1, loc=(a - b).mean(), scale=stats.sem(a - b))
    assert found.interval[:2] == pytest.approx(ends, rel=1e-12)
    assert found.interval.level == pytest.approx(0.9, rel=1e-12)
    assert equivalent_pairs(b, a, 0.25).p_value == pytest.approx(found.p_value, rel=1e-10)


def test_shares_are_tested_with_agresti_and_caffos_by_hand():
    from analysis.statistics import equivalent_shares

    a, b = np.arange(47) < 30, np.arange(59) < 35
    found = equivalent_shares(a, b, 0.2)
    # One right and one wrong answer more in each set.
    p, q = 31 / 49, 36 / 61
    spread = math.sqrt(p * (1 - p) / 49 + q * (1 - q) / 61)
    half = 1.6448536269514722 * spread
    assert found.interval[:2] == pytest.approx((p - q - half, p - q + half), rel=1e-12)
    assert found.p_value == pytest.approx(stats.norm.sf((0.2 - (p - q)) / spread), rel=1e-10)
    assert found.effect == pytest.approx(30 / 47 - 35 / 59, rel=1e-12)
    assert "30 of 47 and 35 of 59" in found.test


def test_answers_to_the_same_questions_by_hand():
    from analysis.statistics import equivalent_answers

    a = np.array([True] * 52 + [False] * 8)
    b = np.array([True] * 45 + [False] * 12 + [True] * 3)
    # 7 by the first alone, 3 by the second; with half an item more in each cell 7.5 and 3.5 of 62.
    p, q = 7.5 / 62, 3.5 / 62
    spread = math.sqrt((p + q - (p - q) ** 2) / 62)
    found = equivalent_answers(a, b, 0.2)
    assert found.p_value == pytest.approx(stats.norm.sf((0.2 - (p - q)) / spread), rel=1e-10)
    half = 1.6448536269514722 * spread
    assert found.interval[:2] == pytest.approx((p - q - half, p - q + half), rel=1e-12)
    assert found.effect == pytest.approx(4 / 60, rel=1e-12)
    swapped = equivalent_answers(b, a, 0.2)
    assert swapped.p_value == pytest.approx(found.p_value, rel=1e-12)
    # Models that never differ are the same within any margin that so many items can show.
    assert equivalent_answers(a, a, 0.1).equivalent
    assert not equivalent_answers(a, a, 0.01).equivalent


@pytest.mark.parametrize("seed", range(4))
def test_equivalent_is_to_have_the_interval_within_the_margins(seed):
    from analysis import statistics

    a, b = samples(seed)
    found = [
        check(x, y, margin)
        for margin in np.linspace(0.05, 2.0, 14).tolist()
        for check, x, y in (
            (statistics.equivalent_means, a, b),
            (statistics.equivalent_pairs, a, b[:ITEMS]),
            (statistics.equivalent_shares, a > 0, b > 0),
            (statistics.equivalent_answers, a > 0, b[:ITEMS] > 0),
        )
    ]
    for one in found:
        inside = -one.margin < one.interval.low and one.interval.high < one.margin
        assert one.equivalent == inside
    assert {one.equivalent for one in found} == {True, False}


@pytest.mark.parametrize("check", ["means", "pairs", "shares", "answers"])
def test_at_the_margin_equivalence_is_found_no_more_often_than_the_level(check):
    from analysis import statistics

    random, trials, alarms, covered = np.random.default_rng(3), 250, 0, 0
    test = getattr(statistics, f"equivalent_{check}")
    for _ in range(trials):
        if check in ("means", "pairs"):
            # Equal means lie 0.5 from where they should be; b is noisier.
            a, b, margin = random.normal(size=80) + 0.5, 1.5 * random.normal(size=80), 0.5
        else:
            # Shares of 0.7 and 0.5.
            a, b, margin = random.random(150) < 0.7, random.random(150) < 0.5, 0.2
        found = test(a, b, margin)
        alarms += found.equivalent
        covered += found.interval.low <= margin <= found.interval.high
    # Four standard errors of a share of 250, and a point that shares' normal approximation may cost.
    error = 4 * math.sqrt(0.05 * 0.95 / trials) + 0.01
    assert 0 < alarms / trials < 0.05 + error
    assert covered / trials == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / trials) + 0.01)


A, B = samples()
TRUE = np.ones(5, dtype=bool)


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        ("equivalent_means", (A, B, 0.0), {}, "margin is 0.0: give the least difference"),
        ("equivalent_means", (A, B, math.inf), {}, "margin is inf: give the least difference"),
        ("equivalent_means", (A, B[:1], 1.0), {}, "found 1 items: a t-test needs 2 or more"),
        ("equivalent_means", (A, B * 0, 1.0), {}, "all 31 values of the second are "),
        ("equivalent_means", (A * np.nan, B, 1.0), {}, "19 of 19 values of the first are not"),
        ("equivalent_pairs", (A, A, 1.0), {}, "all 19 values of the differences are 0: a t-test"),
        (
            "equivalent_pairs",
            (A, A, 1.0),
            {"level": 0.5},
            "level is 0.5: an equivalence test needs",
        ),
        ("equivalent_pairs", (A, A, 1.0), {"level": 95.0}, "level is 95.0: give a share"),
        (
            "equivalent_shares",
            (TRUE, TRUE[:0], 0.1),
            {},
            "found 0 items in the second set: a share",
        ),
        ("equivalent_answers", (TRUE[:0], TRUE[:0], 0.1), {}, "found 0 items: a comparison of"),
        ("equivalent_answers", (TRUE, TRUE, -0.1), {}, "margin is -0.1: give the least"),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, options, message):
    from analysis import statistics

    with pytest.raises(ValueError, match=message) as raised:
        getattr(statistics, function)(*arguments, **options)
    assert "\n" not in str(raised.value)
