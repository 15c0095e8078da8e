"""Clusters: against loops over their members, the t interval, and coverage of nested data."""

import math

import numpy as np
import pytest
from scipy import stats


def nested(random, clusters=13, spread=1.0):
    """Items of clusters of 3 to 7, which share most of what moves them; mixed in their order."""
    sizes = random.integers(3, 8, size=clusters)
    names = np.repeat(np.arange(clusters), sizes)
    values = spread * random.normal(size=clusters)[names] + 0.3 * random.normal(size=len(names))
    order = random.permutation(len(names))
    return values[order], names[order]


def test_draws_are_whole_clusters_and_the_interval_is_the_expanded_percentile_one():
    from analysis.cluster_bootstrap import ClusterBootstrap
    from analysis.statistics import cluster_interval

    values, names = nested(np.random.default_rng(1))
    table, seen = np.stack([values, names], axis=1), []

    def statistic(drawn):
        seen.append(drawn)
        return float(np.median(drawn[:, 0]))

    bootstrap = ClusterBootstrap(replicates=400, seed=2, level=0.9)
    found = cluster_interval(statistic, table, [f"passage {name}" for name in names], bootstrap)
    assert len(seen) == 401
    whole = {name: np.sort(values[names == name]) for name in set(names)}
    for drawn in seen[1:]:
        times = 0
        for name in set(drawn[:, 1]):
            mine = np.sort(drawn[drawn[:, 1] == name][:, 0])
            count = len(mine) // len(whole[name])
            assert mine.tolist() == np.repeat(whole[name], count).tolist()
            times += count
        assert times == 13
    medians = np.sort([np.median(drawn[:, 0]) for drawn in seen[1:]])
    tail = stats.norm.cdf(math.sqrt(13 / 12) * stats.t.ppf(0.05, 12))
    rank = math.ceil(tail * 400)
    assert tuple(found.interval) == (medians[rank - 1], medians[-rank], 0.9)
    assert found.effect == np.median(values)
    assert (found.n, found.method) == (
        13,
        "expanded percentile bootstrap over clusters, 400 draws",
    )


def test_the_jackknife_leaves_blocks_out_one_at_a_time():
    from analysis.statistics import block_jackknife

    values, names = nested(np.random.default_rng(3))
    found = block_jackknife(lambda v: float(np.exp(v).mean()), values, names, level=0.9)
    without = [
        np.mean([math.exp(v) for v, name in zip(values, names, strict=True) if name != left_out])
        for left_out in range(13)
    ]
    pseudo = [13 * np.exp(values).mean() - 12 * one for one in without]
    expected = stats.t.interval(0.9, 12, loc=np.mean(pseudo), scale=stats.sem(pseudo))
    assert found.interval[:2] == pytest.approx(expected, rel=1e-10)
    assert (found.n, found.method) == (13, "jackknife, 13 blocks left out in turn")


def test_intervals_over_clusters_cover_the_truth_and_those_over_items_do_not():
    from analysis.bootstrap import bootstrap_interval
    from analysis.cluster_bootstrap import ClusterBootstrap
    from analysis.statistics import block_jackknife, cluster_interval

    random, trials, covered = np.random.default_rng(4), 120, np.zeros(3)
    for trial in range(trials):
        values, names = nested(random)
        found = [
            cluster_interval(np.mean, values, names, ClusterBootstrap(0.9, 199, trial)),
            block_jackknife(np.mean, values, names, level=0.9),
            bootstrap_interval(
                np.mean, values, random, level=0.9, replicates=99, method="percentile"
            ),
        ]
        covered += [one.interval.low <= 0 <= one.interval.high for one in found]
    # Four standard errors of a share of 120 (2.7 points each), and two points that few clusters of
    # different sizes cost.
    error = 4 * math.sqrt(0.9 * 0.1 / trials) + 0.02
    assert covered[:2] / trials == pytest.approx([0.9, 0.9], abs=error)
    assert covered[2] / trials < 0.9 - 2 * error


def never(values):
    return math.nan


@pytest.mark.parametrize("function", ["cluster_interval", "block_jackknife"])
@pytest.mark.parametrize(
    ("statistic", "names", "message"),
    [
        (np.mean, "aabb", "found 4 clusters named for 5 items: name one each"),
        (np.mean, "aaaaa", "found 1 clusters: an interval needs 2 or more"),
        (never, "aabbc", "the statistic is nan on all items and not finite on"),
    ],
)
def test_bad_input_is_answered_in_one_line(function, statistic, names, message):
    from analysis import statistics

    with pytest.raises(ValueError, match=message) as raised:
        getattr(statistics, function)(statistic, np.arange(5.0), list(names))
    assert "\n" not in str(raised.value)


def test_a_level_that_is_no_share_is_refused():
    from analysis.statistics import block_jackknife

    with pytest.raises(ValueError, match=r"level is 95\.0: give a share"):
        block_jackknife(np.mean, np.arange(5.0), list("aabbc"), level=95.0)
