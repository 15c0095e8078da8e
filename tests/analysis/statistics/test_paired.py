"""Paired permutation, McNemar and Holm: against enumeration, statsmodels and coverage."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference
from statsmodels.stats.multitest import multipletests

from analysis import significance
from analysis.significance import holm, mcnemar, paired_permutation
from tests.refusals import refused

N = 29


def generator(seed=0):
    return np.random.default_rng(seed)


def sign_flips(differences):
    """The two-sided p-value by trying every way to change the signs."""
    n, observed = len(differences), abs(differences.mean())
    means = [(np.array(signs) * differences).mean() for signs in product((1, -1), repeat=n)]
    # The observed mean itself may come out an ulp away when summed with signs.
    return sum(abs(mean) >= observed - 1e-12 for mean in means) / 2**n


@pytest.mark.parametrize("seed", range(3))
def test_few_items_are_permuted_exactly(seed):
    a, b = generator(seed).normal(loc=[[0.6], [0]], size=(2, 11))
    found = paired_permutation(a, b, generator())
    assert found.p_value == pytest.approx(sign_flips(a - b), rel=1e-12)
    assert found.effect == pytest.approx((a - b).mean(), rel=1e-12)
    assert found.test == "paired permutation, exact, 2048 ways"
    enough = paired_permutation(a, b, generator(), replicates=2048)
    assert (enough.p_value, enough.test) == (found.p_value, found.test)
    swapped = paired_permutation(b, a, generator())
    assert swapped.p_value == pytest.approx(found.p_value, rel=1e-12)
    assert swapped.effect == pytest.approx(-found.effect, rel=1e-12)


def test_many_items_are_permuted_at_random_to_the_same_end():
    a, b = generator(8).normal(loc=[[0.5], [0]], size=(2, 13))
    exact = paired_permutation(a, b, generator())
    drawn = paired_permutation(a, b, generator(), replicates=4999)
    assert "exact" in exact.test
    assert drawn.test == "paired permutation, 4999 random ways"
    # Four standard errors of a share of 4999.
    error = 4 * math.sqrt(exact.p_value * (1 - exact.p_value) / 4999)
    assert 0.02 < exact.p_value < 0.9
    assert drawn.p_value == pytest.approx(exact.p_value, abs=error)


def test_pairing_is_what_counts():
    a = generator(1).normal(scale=100, size=N)
    b = a - 1 + generator(2).normal(scale=0.1, size=N)
    found = paired_permutation(a, b, generator(), replicates=999)
    # One in a thousand is the least that 999 random ways and the observed one can show, twice that
    # for both sides.
    assert found.p_value == pytest.approx(2 / 1000, rel=1e-12)
    assert 0.9 < found.interval.low < found.effect < found.interval.high < 1.1
    assert found.n == N
    assert paired_permutation(a, a, generator(), replicates=99).p_value == 1


def test_no_difference_is_found_no_more_often_than_the_level():
    random, trials = generator(3), 150
    alarms = {"permutation": 0, "mcnemar": 0}
    for _ in range(trials):
        a, b = random.normal(size=(2, 9))
        alarms["permutation"] += paired_permutation(a, b, random, replicates=512).p_value <= 0.05
        alarms["mcnemar"] += mcnemar(*(random.random((2, 60)) < 0.4)).p_value <= 0.05
    # 5 % of 150 and four standard errors (1.8 points each); exact tests may stay below.
    assert max(alarms.values()) / trials < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert alarms["permutation"] > 0


def bca_by_hand(values, replicates, seed, level=0.95):
    """The BCa interval of a mean from its definition, a draw and an item at a time."""
    random, normal, n = generator(seed), stats.norm, len(values)
    draws = [values[random.choice(n, n)].mean() for _ in range(replicates)]
    below = [(draw < values.mean()) + (draw == values.mean()) / 2 for draw in draws]
    bias = normal.ppf(np.mean(below))
    left_out = np.array([np.delete(values, i).mean() for i in range(n)])
    pull = left_out.mean() - left_out
    skew = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    moved = [bias + normal.ppf(tail) for tail in ((1 - level) / 2, (1 + level) / 2)]
    return np.quantile(draws, [normal.cdf(bias + z / (1 - skew * z)) for z in moved])


def test_the_interval_of_a_mean_follows_its_definition(monkeypatch):
    values = generator(3).exponential(size=N)
    found = paired_permutation(values, np.zeros(N), generator(5), replicates=4999)
    # Both ends come from draws of their own. A 2.5 % quantile of 4999 draws has a standard error of
    # some 0.06 standard deviations of the mean (0.2 here); four of the difference is 0.07.
    expected = bca_by_hand(values, 4999, seed=6)
    assert (found.interval.low, found.interval.high) == pytest.approx(expected, abs=0.07)
    assert found.interval.level == 0.95
    # Many items are drawn in parts, from the same stream.
    monkeypatch.setattr(significance, "BATCH_VALUES", 5 * N)
    assert significance.batch_size(N) == 5
    parts = paired_permutation(values, np.zeros(N), generator(5), replicates=4999)
    assert parts.interval == pytest.approx(found.interval, rel=1e-12)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_of_a_skewed_mean_cover_the_truth(level):
    random, trials, covered = generator(1), 200, 0
    for _ in range(trials):
        items, options = random.exponential(size=40), {"level": level, "replicates": 199}
        found = paired_permutation(items, np.zeros(40), random, **options)
        covered += found.interval.low <= 1 <= found.interval.high
    # Four standard errors of a share of 200 (2.8 points at 80 %, 1.5 at 95 %), and two points that
    # any bootstrap of 40 exponential values falls short by.
    error = 4 * math.sqrt(level * (1 - level) / trials)
    assert level - error - 0.02 < covered / trials < level + error


def test_items_that_are_all_alike_have_an_interval_of_one_value():
    found = paired_permutation(np.ones(N), np.zeros(N), generator(), replicates=99)
    assert (found.interval.low, found.interval.high, found.effect) == (1, 1, 1)


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_that_of_statsmodels(seed):
    a = generator(seed).random(37) < 0.6
    b = np.where(generator(seed + 100).random(37) < 0.5, a, generator(seed + 9).random(37) < 0.3)
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = mcnemar(a, b)
    # Binomial tails from two libraries.
    assert found.p_value == pytest.approx(reference(table, exact=True).pvalue, rel=1e-10)
    assert found.effect == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    assert found.n == 37
    assert mcnemar(b, a).p_value == pytest.approx(found.p_value, rel=1e-12)
    assert f"{table[0][1]} found by the first alone and {table[1][0]} by" in found.test


def test_the_interval_of_mcnemar_by_hand():
    a = np.array([True] * 12 + [False] * 8)
    b = np.array([True] * 5 + [False] * 12 + [True] * 3)
    # 7 by the first alone, 3 by the second; with half an item more in each cell 7.5 and 3.5 of 22.
    low, high, level = mcnemar(a, b, level=0.9).interval
    p, q = 7.5 / 22, 3.5 / 22
    spread = math.sqrt((p + q - (p - q) ** 2) / 22)
    expected = (p - q - 1.6448536269514722 * spread, p - q + 1.6448536269514722 * spread)
    assert (low, high) == pytest.approx(expected, rel=1e-12)
    assert level == 0.9


def test_the_interval_of_mcnemar_covers_the_truth():
    random, trials, covered = generator(4), 800, 0
    for _ in range(trials):
        kind = random.choice(4, size=50, p=[0.4, 0.2, 0.1, 0.3])
        found = mcnemar(kind < 2, (kind == 0) | (kind == 2))
        covered += found.interval.low <= 0.1 <= found.interval.high
    # Four standard errors of a share of 800 are 0.031; Agresti and Min's errs upwards by a point.
    assert 0.919 < covered / trials < 0.99


def test_models_that_agree_on_every_item():
    everywhere = np.ones(7, dtype=bool)
    found = mcnemar(everywhere, everywhere)
    assert (found.effect, found.p_value) == (0, 1)
    assert found.interval.low < 0 < found.interval.high
    apart = mcnemar(everywhere, ~everywhere)
    assert (apart.effect, apart.interval.high) == (1, 1)
    assert apart.p_value == 2 / 2**7


@pytest.mark.parametrize(
    "p_values",
    [[0.03], [], [0.04, 0.01, 0.01, 1.0, 0.0, 0.013, 0.5], [0.5, 0.4, 0.3], [0.7, 0.6, 0.01]],
)
def test_holms_p_values_are_those_of_statsmodels(p_values):
    expected = multipletests(p_values, method="holm")[1] if p_values else []
    # One multiplication and one division each.
    assert holm(p_values) == pytest.approx(tuple(expected), rel=1e-14)


ONES = np.ones(5)


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        ("paired_permutation", (ONES, ONES * np.nan, generator()), {}, "5 of 5 pairs are not fin"),
        ("paired_permutation", (ONES[:1], ONES[:1], generator()), {}, "found 1 items"),
        ("paired_permutation", (ONES, ONES, generator()), {"replicates": 0}, "replicates is 0"),
        ("paired_permutation", (ONES, ONES, generator()), {"level": 95.0}, "level is 95.0: give"),
        ("mcnemar", (ONES[:0] > 0, ONES[:0] > 0), {}, "found 0 items: a comparison of shares"),
        ("mcnemar", (ONES > 0, ONES > 0), {"level": 1.0}, "level is 1.0"),
        ("holm", ([0.5, math.nan],), {}, "a p-value is nan: give values from 0 to 1"),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, options, message):
    with refused(message):
        getattr(significance, function)(*arguments, **options)
