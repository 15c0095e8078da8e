"""Bootstrap over items: against the definitions, and coverage."""

import math

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
    from analysis.statistics.bootstrap import bootstrap_interval

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
    from analysis.statistics.bootstrap import bootstrap_interval

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
    from analysis.statistics.bootstrap import bootstrap_interval

    random, trials, covered = generator(1), 200, 0
    for _ in range(trials):
        items = random.exponential(size=40)
        found = bootstrap_interval(np.mean, items, random, level=level, replicates=199)
        covered += found.interval.low <= 1 <= found.interval.high
    # Four standard errors of a share of 200 (2.8 points at 80 %, 1.5 at 95 %), and two points that
    # any bootstrap of 40 exponential values falls short by.
    error = 4 * math.sqrt(level * (1 - level) / trials)
    assert level - error - 0.02 < covered / trials < level + error


def test_items_stay_together_and_the_same_generator_gives_the_same_interval():
    from analysis.statistics.bootstrap import bootstrap_interval

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
    from analysis.statistics.bootstrap import bootstrap_interval

    found = bootstrap_interval(np.mean, np.ones(N), generator(), method=method, replicates=99)
    assert (found.interval.low, found.interval.high, found.effect) == (1, 1, 1)


def test_many_items_are_drawn_in_parts(monkeypatch):
    from analysis.statistics import bootstrap

    whole = bootstrap.bootstrap_interval(np.mean, np.arange(N * 1.0), generator(), replicates=99)
    monkeypatch.setattr(bootstrap, "BATCH_VALUES", 5 * N)
    assert bootstrap.batch_size(N) == 5
    parts = bootstrap.bootstrap_interval(np.mean, np.arange(N * 1.0), generator(), replicates=99)
    assert parts.effect == whole.effect
    # The same draws, taken from the same stream.
    assert parts.interval == pytest.approx(whole.interval, rel=1e-12)


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
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, options, message):
    from analysis import statistics

    with pytest.raises(ValueError, match=message) as raised:
        getattr(statistics, function)(*arguments, **options)
    assert "\n" not in str(raised.value)
