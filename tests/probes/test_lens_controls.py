"""Control targets: nobody keeps their own, counts are right, frequencies are near."""

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from probes import localization as lens_controls
from probes.localization import frequency_matched, shuffled_targets, token_counts

D_VOCAB = 101


def generator(seed=0):
    return np.random.default_rng(seed)


def kept(own, given):
    return sum(a == b for a, b in zip(own, given, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_no_item_keeps_a_target_equal_to_its_own(seed):
    sizes = generator(seed).integers(1, 6, size=11)
    own = [(value, 7) for value, size in enumerate(sizes.tolist()) for _ in range(size)]
    given = shuffled_targets(own, generator(seed))
    assert kept(own, given) == 0
    assert Counter(given) == Counter(own)


@pytest.mark.parametrize(
    ("values", "least"),
    [("aab", 1), ("aabb", 0), ("aaaab", 3), ("aaaabbb", 1), ("aaaaabcde", 1), ("aaabbbc", 0)],
)
def test_where_one_target_is_most_of_them_as_few_as_possible_stay(values, least):
    own = [(ord(value),) for value in values]
    assert min(kept(own, order) for order in permutations(own)) == least
    for seed in range(50):
        assert kept(own, shuffled_targets(own, generator(seed))) == least


def test_the_shuffle_is_random_and_repeats():
    own = [(n,) for n in range(5)]
    source = generator()
    seen = Counter(tuple(shuffled_targets(own, source)) for _ in range(8800))
    # All 44 derangements of five, nearly alike: 200 each, by chance give or take 14, and repairing
    # favours some by up to a fifth; swaps from the given order alone favour some by a half.
    assert len(seen) == 44
    assert min(seen.values()) > 0.68 * 200
    assert max(seen.values()) < 1.4 * 200
    assert shuffled_targets(own, generator(3)) == shuffled_targets(own, generator(3))


def test_counts_leave_out_pads_and_equal_a_loop():
    ids = generator().integers(0, 13, size=(3, 7, 5))
    mask = generator(1).integers(0, 2, size=(3, 7, 5))
    batches = [
        {"input_ids": i.tolist(), "attention_mask": m.tolist()}
        for i, m in zip(ids, mask, strict=True)
    ]
    expected = Counter(int(i) for i, m in zip(ids.ravel(), mask.ravel(), strict=True) if m)
    counts = token_counts(iter(batches), D_VOCAB)
    assert counts.tolist() == [expected[token] for token in range(D_VOCAB)]


@pytest.fixture
def counts():
    """Zipfian counts in a shuffled order, with many tokens that never occur."""
    values = (5000 / np.arange(1, D_VOCAB + 1)).astype(int)
    values[61:] = 0
    return torch.from_numpy(generator(2).permutation(values))


def test_matched_tokens_are_among_the_nearest_and_neither_own_nor_special(counts):
    special = {3, 17, int(counts.argmax())}
    targets = [(token, 5, 9) for token in range(D_VOCAB)]
    drawn = Counter()
    for seed in range(30):
        controls = frequency_matched(targets, counts, generator(seed), special_ids=special, pool=4)
        for (own, *_), control in zip(targets, controls, strict=True):
            (token,) = control
            others = sorted(
                abs(math.log1p(int(counts[t])) - math.log1p(int(counts[own])))
                for t in range(D_VOCAB)
                if t not in special and t != own
            )
            gap = abs(math.log1p(int(counts[token])) - math.log1p(int(counts[own])))
            # Two float64 logarithms from two libraries.
            assert gap <= others[3] + 1e-12
            assert token not in special
            assert token != own
            drawn[own, token] += 1
    # Four or more to draw from: in 30 draws each item meets more than one.
    assert all(sum(own == item for own, _ in drawn) > 1 for item in range(D_VOCAB))


def test_tokens_that_never_occur_are_matched_by_any_of_their_kind(counts):
    absent = [token for token in range(D_VOCAB) if not counts[token]]
    controls = frequency_matched([(absent[0],)] * 700, counts, generator(), pool=2)
    # Each of 39 others has 700 draws of odds 1/39 each; to miss one has odds of 39 e^-18.
    assert {control[0] for control in controls} == set(absent[1:])


def test_targets_of_the_same_items_give_the_same_controls(counts):
    targets = [(token,) for token in range(0, D_VOCAB, 3)]
    one, two = (frequency_matched(targets, counts, generator(7), pool=3) for _ in range(2))
    assert one == two
    gaps = [
        abs(math.log1p(int(counts[own[0]])) - math.log1p(int(counts[control[0]])))
        for own, control in zip(targets, one, strict=True)
    ]
    assert np.median(gaps) < math.log(1.5)


FLAT = torch.ones(7, dtype=torch.long)


@pytest.mark.parametrize(
    ("function", "arguments", "options", "message"),
    [
        ("shuffled_targets", ([(1,), (1,)], generator()), {}, "2 targets, 1 different; give items"),
        ("shuffled_targets", ([], generator()), {}, "0 targets, 0 different"),
        ("token_counts", ([], 7), {}, "there were no tokens to count"),
        ("token_counts", ([{"input_ids": [[1, 7]]}], 7), {}, "from 1 to 7, but there are 7 tokens"),
        ("frequency_matched", ([(1,), ()], FLAT, generator()), {}, "a target has no tokens"),
        ("frequency_matched", ([(9,)], FLAT, generator()), {}, "from 9 to 9, but there are 7"),
        ("frequency_matched", ([(1,)], FLAT, generator()), {}, "pool is 20, and 7 of 7 tokens"),
        (
            "frequency_matched",
            ([(1,)], FLAT, generator()),
            {"pool": 5, "special_ids": (2, 3)},
            "pool is 5, and 5 of 7 tokens may be drawn: give 1 or more and fewer",
        ),
        (
            "frequency_matched",
            ([(1,)], FLAT, generator()),
            {"special_ids": (-1,)},
            "from -1 to -1, but there are 7",
        ),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        getattr(lens_controls, function)(*arguments, **options)
    assert "\n" not in str(raised.value)
