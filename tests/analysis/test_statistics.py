"""Bootstrap, permutation, McNemar and Holm: against enumeration, statsmodels and coverage."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

N = 29


def generator(seed=0):
    return np.random.default_rng(seed)


def by_hand(statistic, items, replicates, seed, method, level=0.95):
    """The three intervals from their definitions, a draw and an item at a time."""
    random, normal, n = generator(seed), stats.norm, len(items)
    draws = [statistic(items[random.choice(n, n)]) for _ in range(replicates)]
    estimate, tail = statistic(items), (1 - level) / 2
    tails = [tail, 1 - tail]
    if method == "bca":
        below = [(draw < estimate) + (draw == estimate) / 2 for draw in draws]
        bias = normal.ppf(np.mean(below))
        left_out = np.array([statistic(np.delete(items, i, axis=0)) for i in range(n)])
        pull = left_out.mean() - left_out
        skew = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
        moved = [bias + normal.ppf(tail) for tail in tails]
        tails = [normal.cdf(bias + z / (1 - skew * z)) for z in moved]
    low, high = np.quantile(draws, tails)
    return (2 * estimate - high, 2 * estimate - low) if method == "basic" else (low, high)


def correlation(pairs):
    return np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1]


@pytest.mark.parametrize("method", ["bca", "percentile", "basic"])
def test_intervals_follow_their_definitions(method):
    from analysis.bootstrap import bootstrap_interval

    x = generator(3).exponential(size=N)
    pairs = np.stack([x, x + generator(4).normal(size=N)], axis=1)
    found = bootstrap_interval(correlation, pairs, generator(5), method=method, replicates=4999)
    low, high = by_hand(correlation, pairs, 4999, seed=6, method=method)
    # Both ends come from draws of their own. A 2.5 % quantile of 4999 draws has a standard error of
    # some 0.06 standard deviations of the statistic (0.1 here); four of the difference is 0.035.
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.035)
    assert found.effect == pytest.approx(correlation(pairs), rel=1e-12)
    assert found.n == N
    assert found.interval.level == 0.95
    assert found.method == f"{method} bootstrap, 4999 draws"


def test_the_three_methods_differ_where_the_statistic_is_skewed():
    from analysis.bootstrap import bootstrap_interval

    items = generator(3).exponential(size=N)
    ends = {
        method: bootstrap_interval(np.var, items, generator(5), method=method, replicates=999)
        for method in ("bca", "percentile", "basic")
    }
    assert (
        ends["basic"].interval.high < ends["percentile"].interval.high < ends["bca"].interval.high
    )


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_of_a_skewed_mean_cover_the_truth(level):
    from analysis.bootstrap import bootstrap_interval

    random, trials, covered = generator(1), 300, 0
    for _ in range(trials):
        items = random.exponential(size=40)
        found = bootstrap_interval(np.mean, items, random, level=level, replicates=199)
        covered += found.interval.low <= 1 <= found.interval.high
    # Four standard errors of a share of 300 (2.3 points at 80 %, 1.3 at 95 %), and two points that
    # any bootstrap of 40 exponential values falls short by.
    error = 4 * math.sqrt(level * (1 - level) / trials)
    assert level - error - 0.02 < covered / trials < level + error


def test_items_stay_together_and_the_same_generator_gives_the_same_interval():
    from analysis.bootstrap import bootstrap_interval

    items = np.arange(3 * 5 * N).reshape(N, 3, 5)
    seen = []

    def statistic(drawn):
        seen.append(drawn)
        return float(drawn.mean())

    one, two = (bootstrap_interval(statistic, items, generator(2), replicates=50) for _ in "ab")
    assert one == two
    other = bootstrap_interval(statistic, items, generator(3), replicates=50)
    assert other.interval != one.interval
    rows = {item.tobytes() for item in items}
    assert all(row.tobytes() in rows for drawn in seen for row in drawn)
    # The items, 50 draws of as many, and all but each in turn; and once more.
    assert sorted({len(drawn) for drawn in seen}) == [N - 1, N]


@pytest.mark.parametrize("method", ["bca", "percentile", "basic"])
def test_items_that_are_all_alike_have_an_interval_of_one_value(method):
    from analysis.bootstrap import bootstrap_interval

    found = bootstrap_interval(np.mean, np.ones(N), generator(), method=method, replicates=99)
    assert (found.interval.low, found.interval.high, found.effect) == (1, 1, 1)


def test_many_items_are_drawn_in_parts(monkeypatch):
    from analysis import bootstrap

    whole = bootstrap.bootstrap_interval(np.mean, np.arange(N * 1.0), generator(), replicates=99)
    monkeypatch.setattr(bootstrap, "BATCH_VALUES", 5 * N)
    assert bootstrap.batch_size(N) == 5
    parts = bootstrap.bootstrap_interval(np.mean, np.arange(N * 1.0), generator(), replicates=99)
    assert parts.effect == whole.effect
    # The same draws, taken from the same stream.
    assert parts.interval == pytest.approx(whole.interval, rel=1e-12)


def sign_flips(differences):
    """The two-sided p-value by trying every way to change the signs."""
    n, observed = len(differences), abs(differences.mean())
    means = [(np.array(signs) * differences).mean() for signs in product((1, -1), repeat=n)]
    # The observed mean itself may come out an ulp away when summed with signs.
    return sum(abs(mean) >= observed - 1e-12 for mean in means) / 2**n


@pytest.mark.parametrize("seed", range(3))
def test_few_items_are_permuted_exactly(seed):
    from analysis.statistics import paired_permutation

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
    from analysis.statistics import paired_permutation

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
    from analysis.statistics import paired_permutation

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
    from analysis.statistics import mcnemar, paired_permutation

    random, trials = generator(3), 300
    alarms = {"permutation": 0, "mcnemar": 0}
    for _ in range(trials):
        a, b = random.normal(size=(2, 9))
        alarms["permutation"] += paired_permutation(a, b, random, replicates=512).p_value <= 0.05
        alarms["mcnemar"] += mcnemar(*(random.random((2, 60)) < 0.4)).p_value <= 0.05
    # 5 % of 300 and four standard errors (1.3 points each); exact tests may stay below.
    assert max(alarms.values()) / trials < 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert alarms["permutation"] > 0


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_that_of_statsmodels(seed):
    from statsmodels.stats.contingency_tables import mcnemar as reference

    from analysis.statistics import mcnemar

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
    from analysis.statistics import mcnemar

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
    from analysis.statistics import mcnemar

    random, trials, covered = generator(4), 800, 0
    for _ in range(trials):
        kind = random.choice(4, size=50, p=[0.4, 0.2, 0.1, 0.3])
        found = mcnemar(kind < 2, (kind == 0) | (kind == 2))
        covered += found.interval.low <= 0.1 <= found.interval.high
    # Four standard errors of a share of 800 are 0.031; Agresti and Min's errs upwards by a point.
    assert 0.919 < covered / trials < 0.99


def test_models_that_agree_on_every_item():
    from analysis.statistics import mcnemar

    everywhere = np.ones(7, dtype=bool)
    found = mcnemar(everywhere, everywhere)
    assert (found.effect, found.p_value) == (0, 1)
    assert found.interval.low < 0 < found.interval.high
    apart = mcnemar(everywhere, ~everywhere)
    assert (apart.effect, apart.interval.high) == (1, 1)
    assert apart.p_value == 2 / 2**7


@pytest.mark.parametrize(
    "p_values",
    [
        [0.03],
        [],
        [0.04, 0.01, 0.01, 1.0, 0.0, 0.013, 0.5],
        [0.5, 0.4, 0.3],
        [0.01, 0.02, 0.021],
        [0.7, 0.6, 0.01],
    ],
)
def test_holm_is_that_of_statsmodels(p_values):
    from statsmodels.stats.multitest import multipletests

    from analysis.statistics import holm

    expected = multipletests(p_values, method="holm")[1] if p_values else []
    # One multiplication each.
    assert holm(p_values) == pytest.approx(tuple(expected), rel=1e-14)


ONES = np.ones(5)


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        (
            "bootstrap_interval",
            (np.mean, ONES, generator()),
            {"method": "bcs"},
            "method is 'bcs': choose from bca, percentile, basic",
        ),
        ("bootstrap_interval", (np.mean, ONES[:1], generator()), {}, "found 1 items: an interval"),
        (
            "bootstrap_interval",
            (np.mean, ONES, generator()),
            {"replicates": 0},
            "replicates is 0: give 1 or more",
        ),
        (
            "bootstrap_interval",
            (np.mean, ONES, generator()),
            {"level": 95.0},
            "level is 95.0: give a share between 0 and 1, such as 0.95",
        ),
        (
            "bootstrap_interval",
            (
                lambda x: float(x.mean()) if len(set(x.tolist())) == 3 else math.nan,
                np.arange(3.0),
                generator(),
            ),
            {"replicates": 99},
            r"the statistic is 1 on all items and not finite on \d+ of 99 draws",
        ),
        (
            "bootstrap_interval",
            (lambda x: float(len(set(x.tolist()))), np.arange(23.0), generator()),
            {"replicates": 99},
            "the statistic is 23 and from .* on draws, for which no BCa interval exists: choose 'b",
        ),
        (
            "paired_permutation",
            (ONES, ONES * np.nan, generator()),
            {},
            "5 of 5 pairs are not finite",
        ),
        ("paired_permutation", (ONES[:1], ONES[:1], generator()), {}, "found 1 items"),
        ("mcnemar", (ONES[:0] > 0, ONES[:0] > 0), {}, "found 0 items: give one or more"),
        ("mcnemar", (ONES > 0, ONES > 0), {"level": 1.0}, "level is 1.0"),
        ("holm", ([0.5, math.nan],), {}, "a p-value is nan: give values from 0 to 1"),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, options, message):
    from analysis import statistics

    with pytest.raises(ValueError, match=message) as raised:
        getattr(statistics, function)(*arguments, **options)
    assert "\n" not in str(raised.value)
