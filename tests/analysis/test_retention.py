"""Retention: intervals, differences and what is kept, against SciPy, nested loops and by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.remix_measures import (
    item_means,
    kept_share,
    retention_difference,
    retention_of,
    share_interval,
)
from tests.refusals import refused

ITEMS = 41


def answers(seed, share=0.4, *, items=ITEMS, names=None):
    """Right or wrong, drawn; the items come in another order in every seed."""
    draw = np.random.default_rng(seed)
    values = pd.Series((draw.random(items) < share).astype(float), index=names or range(items))
    return values.sample(frac=1, random_state=seed)


def test_interval_of_one_seed_is_wilsons():
    for right in (0, 1, 13, 40, 41):
        means = np.repeat([1.0, 0.0], [right, ITEMS - right])
        expected = stats.binomtest(right, ITEMS).proportion_ci(0.9, method="wilson")
        found = share_interval(means, ITEMS, level=0.9)
        # Both evaluate the same closed form; ends at 0 and 1 are only as exact as its rounding.
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_counts_the_answers_that_tell_something():
    same = np.repeat([1.0, 0.0], [13, 28])
    # Three seeds that are right about the same items tell no more than one.
    assert share_interval(same, 3 * ITEMS) == share_interval(same, ITEMS)
    # Seeds that are right about different items tell as much as independent answers, at most.
    apart = np.full(ITEMS, 1 / 3)
    apart[0] += 1e-3
    expected = stats.binomtest(ITEMS, 3 * ITEMS).proportion_ci(method="wilson")
    found = share_interval(apart, 3 * ITEMS)
    # The one item that was moved shifts the mean by 1e-3 / 41.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=3e-5)
    between = np.repeat([1.0, 2 / 3, 1 / 3, 0.0], [5, 7, 11, 18])
    low, high = share_interval(between, 3 * ITEMS)[:2]
    mean = between.mean()
    assert low < mean < high
    assert high - low < share_interval(np.repeat([1.0, 0.0], [17, 24]), ITEMS).high


def test_intervals_cover_their_share():
    draw = np.random.default_rng(5)
    covered = 0
    for _ in range(400):
        # Items are easy or hard for all seeds alike, so that answers of an item go together.
        ease = draw.beta(0.6, 1.4, ITEMS)
        right = draw.random((3, ITEMS)) < ease
        low, high, _ = share_interval(right.mean(axis=0), right.size)
        covered += low < 0.3 < high
    # 95 of 100 are wanted; the standard error of a share of 400 is 1.1 points.
    assert 0.92 < covered / 400 < 0.985


def test_mean_deviation_and_items_are_those_of_loops():
    found = {seed: answers(seed) for seed in (3, 5, 11)}
    result = retention_of(found)
    by_seed = []
    for seed in (3, 5, 11):
        total = 0.0
        for item in range(ITEMS):
            total += found[seed][item]
        by_seed.append(total / ITEMS)
    assert [*result.by_seed.values()] == pytest.approx(by_seed)
    assert result.mean == pytest.approx(sum(by_seed) / 3)
    squares = sum((value - result.mean) ** 2 for value in by_seed)
    assert result.deviation == pytest.approx(math.sqrt(squares / 2))
    means = item_means(found)
    assert result.items == len(means) == ITEMS
    for item in range(ITEMS):
        assert means[item] == pytest.approx(sum(found[seed][item] for seed in found) / 3)
    assert retention_of({3: found[3]}).deviation is None


def test_seeds_with_items_of_their_own_are_more_items():
    found = {seed: answers(seed, names=[f"{seed}-{i}" for i in range(ITEMS)]) for seed in (0, 1)}
    assert retention_of(found).items == 2 * ITEMS


def test_log_probabilities_have_an_interval_over_items():
    draw = np.random.default_rng(2)
    scores = pd.Series(draw.normal(-3, 1, 211))
    low, high, _ = retention_of({0: scores}, shares=False).interval
    half = stats.t.ppf(0.975, 210) * scores.std(ddof=1) / math.sqrt(211)
    # The bootstrap is as wide as the t interval but for its 2,000 draws and the skew of a draw.
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.03)


def test_one_seed_is_tested_as_mcnemar_does():
    ours, theirs = answers(1, 0.7), answers(2, 0.3)
    found = retention_difference({0: ours}, {0: theirs})
    only_ours = sum(ours[i] > theirs[i] for i in range(ITEMS))
    apart = sum(ours[i] != theirs[i] for i in range(ITEMS))
    assert found.effect == pytest.approx(sum(ours[i] - theirs[i] for i in range(ITEMS)) / ITEMS)
    assert found.items.p_value == pytest.approx(stats.binomtest(int(only_ours), apart).pvalue)
    assert found.items.test.startswith("McNemar")
    assert (found.seed_interval, found.seed_p_value) == (None, None)


def test_several_seeds_are_tested_over_items_and_over_seeds():
    ours = {seed: answers(seed, 0.5, items=11) for seed in (0, 1, 2, 7)}
    theirs = {seed: answers(seed + 50, 0.35, items=11) for seed in (2, 0, 1)}
    found = retention_difference(ours, theirs)
    shared = (0, 1, 2)
    difference = [sum(ours[s][i] - theirs[s][i] for s in shared) / 3 for i in range(11)]
    assert found.effect == pytest.approx(np.mean(difference))
    # All 2^11 ways to change signs, by hand.
    signs = np.array(np.meshgrid(*[[1, -1]] * 11)).reshape(11, -1)
    means = np.abs((signs * np.array(difference)[:, None]).mean(axis=0))
    expected = (means >= abs(np.mean(difference)) - 1e-9).mean()
    assert found.items.p_value == pytest.approx(expected)
    effects = [np.mean([ours[s][i] - theirs[s][i] for i in range(11)]) for s in shared]
    assert [found.by_seed[s] for s in shared] == pytest.approx(effects)
    tested = stats.ttest_rel([ours[s].mean() for s in shared], [theirs[s].mean() for s in shared])
    assert found.seed_p_value == pytest.approx(tested.pvalue)
    ends = tested.confidence_interval()
    assert found.seed_interval[:2] == pytest.approx((ends.low, ends.high))


def test_seeds_that_all_do_the_same_have_no_test():
    ours = {seed: pd.Series(np.ones(ITEMS)) for seed in range(3)}
    theirs = {seed: pd.Series(np.zeros(ITEMS)) for seed in range(3)}
    found = retention_difference(ours, theirs)
    assert found.effect == 1.0
    assert found.items.interval[:2] == (1.0, 1.0)
    assert found.items.p_value < 0.001
    assert found.seed_interval[:2] == (1.0, 1.0)
    assert found.seed_p_value is None
    assert retention_difference(ours, ours).items.p_value == 1.0


def test_kept_is_of_what_was_right_before():
    before = {0: pd.Series([1.0, 1, 0, 0, 1]), 1: pd.Series([0.0, 1, 1, 0, 0])}
    after = {0: pd.Series([1.0, 0, 1, 0, 0])[::-1], 1: pd.Series([1.0, 0, 1, 0, 0])}
    # Right before: 0, 1, 4 of seed 0 and 1, 2 of seed 1; of them, 0 and 2 are right later.
    assert kept_share(before, after) == pytest.approx(2 / 5)
    assert kept_share({0: pd.Series([0.0])}, {0: pd.Series([1.0])}) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({}, {}, r"common seeds, found \[\] and \[\]"),
        ({0: answers(0)}, {1: answers(0)}, r"common seeds, found \[0\] and \[1\]"),
        ({0: answers(0)}, {0: answers(0, items=37)}, "seed 0 asked for other items"),
        ({0: answers(0, items=1)}, {0: answers(0, items=1)}, "found 1 items to compare"),
        (
            {0: pd.Series([1.0, 0], index=["a", "a"])},
            {0: pd.Series([1.0], index=["a"])},
            "twice|once",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, theirs, message):
    with refused(message):
        retention_difference(ours, theirs)


def test_nothing_has_no_retention():
    with pytest.raises(ValueError, match="at least one seed, found none"):
        retention_of({})
    with pytest.raises(ValueError, match="found 0 with 0 names in seed 4"):
        retention_of({4: pd.Series(dtype=float)})
