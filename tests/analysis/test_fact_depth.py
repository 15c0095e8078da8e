"""Fact depth: spread against loops over all ways, verdicts on made-up ranks, checkpoints on disk."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import t

import analysis
import probes
from analysis.depth import (
    checkpoint_ranks,
    compare_spread,
    depth_change,
    depth_table,
)
from analysis.significance import holm, mcnemar, paired_permutation
from tests.models import D_VOCAB, tiny_hf_model, tiny_model, tokens

N_LAYERS = 7


def effective_by_hand(layers):
    counts = [list(layers).count(layer) for layer in set(layers)]
    return math.exp(-sum(c / len(layers) * math.log(c / len(layers)) for c in counts))


def drawn(n, seed, low=0, high=N_LAYERS):
    return np.random.default_rng(seed).integers(low, high, n)


def compared(a, b, **given):
    return compare_spread(a, b, N_LAYERS, np.random.default_rng(5), **given)


def test_the_spread_test_goes_through_all_ways():
    a, b = drawn(11, 0), drawn(11, 1, 2, 5)
    seen = effective_by_hand(a) - effective_by_hand(b)
    as_large = 0
    for swap in product([False, True], repeat=11):
        one = [y if s else x for x, y, s in zip(a, b, swap, strict=True)]
        other = [x if s else y for x, y, s in zip(a, b, swap, strict=True)]
        difference = effective_by_hand(one) - effective_by_hand(other)
        # Rounding of sums in another order.
        as_large += abs(difference) >= abs(seen) - 1e-9
    found = compared(a, b)
    assert found.p_value == as_large / 2**11
    assert 2 < as_large < 2**11
    assert found.test == "paired permutation, exact, 2048 ways"


def test_random_ways_come_close_to_all_of_them():
    a, b = drawn(13, 0), drawn(13, 1, 2, 5)
    exact, random = compared(a, b), compared(a, b, replicates=4999)
    assert random.test == "paired permutation, 4999 random ways"
    # Four standard errors of a share of 4,999.
    p = exact.p_value
    assert abs(random.p_value - p) < 4 * math.sqrt(p * (1 - p) / 4999)


def test_the_interval_is_the_jackknife_over_items():
    a, b = drawn(17, 2), drawn(17, 3, 1, 4)
    without = [
        effective_by_hand(np.delete(a, i)) - effective_by_hand(np.delete(b, i)) for i in range(17)
    ]
    whole = effective_by_hand(a) - effective_by_hand(b)
    mean = sum(without) / 17
    half = t.ppf(0.95, 16) * math.sqrt(16 / 17 * sum((x - mean) ** 2 for x in without))
    tested = compared(a, b, level=0.9)
    found = tested.interval
    # float64, summed in another order.
    centre = 17 * whole - 16 * mean
    assert tested.effect == pytest.approx(centre, rel=1e-9)
    assert found.low == pytest.approx(centre - half, rel=1e-9)
    # There are no more layers to differ by.
    assert found.high == pytest.approx(min(centre + half, N_LAYERS - 1), rel=1e-9)


def test_the_spread_test_keeps_its_level():
    """Items drawn alike for both: at 5 %, 200 tests are expected to give 10 false alarms."""
    draw = np.random.default_rng(9)
    alarms = 0
    for _ in range(200):
        pair = draw.integers(0, N_LAYERS, (2, 12)) % draw.integers(3, N_LAYERS)
        alarms += compared(pair[0], pair[1], replicates=199).p_value <= 0.05
    # Of a binomial of 200 and 5 %, more than 20 come up once in a thousand.
    assert alarms <= 20


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1], [2], "found 1 items: a test over items needs two or more"),
        ([1, -1], [2, 3], "layers run from -1 to 3: give 0 to 6, and leave out items that have"),
        ([1, 2], [2, 7], "layers run from 1 to 7: give 0 to 6"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        compared(np.array(a), np.array(b))


def ranks_of(first_layers):
    """Ranks of targets that come up at some layer and stay; -1 for never."""
    rank = torch.full((N_LAYERS, len(first_layers)), 73)
    for item, layer in enumerate(first_layers):
        if layer >= 0:
            rank[layer:, item] = 4
    return rank


def change(before, after, **given):
    options = {"k": 5, "d_vocab": D_VOCAB, "seed": 3} | given
    return depth_change(ranks_of(before), ranks_of(after), **options)


def test_earlier_and_no_more_layers():
    found = change([5] * 19, [3] * 19)
    assert (found.depth, found.spread) == ("earlier", "not shown")
    assert found.tests["first_layer"].effect == -2.0
    assert found.tests["effective_layers"].p_value == 1.0
    assert change([3] * 19, [5] * 19).depth == "later"


def test_more_layers_around_the_same_one():
    before, after = [3] * 21, [0, 1, 2, 3, 4, 5, 6] * 3
    found = change(before, after)
    assert (found.depth, found.spread) == ("not shown", "more layers")
    assert found.tests["first_layer"].effect == 0
    assert found.tests["effective_layers"].effect == pytest.approx(6.0)
    assert change(after, before).spread == "fewer layers"


def test_items_that_one_side_does_not_find_count_for_finding_alone():
    before = [-1] * 10 + [4] * 9 + [-1] * 4
    after = [0] * 10 + [4] * 9 + [-1] * 4
    found = change(before, after, names=("start", "A"))
    assert found.found_in_both == 9
    assert (found.depth, found.spread) == ("not shown", "not shown")
    assert found.tests["found"].effect == pytest.approx(10 / 23)
    # Ten of ten one way: 2 / 2^10, and Holm's factor of four tests at most.
    assert 2 / 2**10 <= found.tests["found"].p_value <= 8 / 2**10


def test_p_values_are_adjusted_together():
    before, after = drawn(23, 4, -1), drawn(23, 5, -1, 5)
    found = change(before.tolist(), after.tolist())
    both = (before >= 0) & (after >= 0)
    draw = np.random.default_rng(0)
    areas = [1 - np.log1p(ranks_of(x).numpy()) / math.log(D_VOCAB) for x in (before, after)]
    alone = [
        mcnemar(after >= 0, before >= 0).p_value,
        paired_permutation(after[both].astype(float), before[both].astype(float), draw).p_value,
        compared(after[both], before[both]).p_value,
        paired_permutation(areas[1].mean(axis=0), areas[0].mean(axis=0), draw).p_value,
    ]
    adjusted = [test.p_value for test in found.tests.values()]
    # Other random ways of the same tests.
    assert adjusted == pytest.approx(holm(alone), abs=0.05)
    assert list(found.tests) == ["found", "first_layer", "effective_layers", "rank_area"]


def test_too_few_found_in_both():
    found = change([-1] * 12 + [3], [2] * 13)
    assert list(found.tests) == ["found", "rank_area"]
    assert (found.depth, found.spread) == ("not shown", "not shown")


def test_ranks_of_other_items_are_refused():
    with pytest.raises(ValueError, match=r"ranks are \[7, 3\] in A and \[7, 2\] in B; read the"):
        depth_change(
            ranks_of([1, 2, 3]), ranks_of([1, 2]), k=5, d_vocab=101, seed=0, names=("A", "B")
        )
    with pytest.raises(ValueError, match=r"level is 1\.5"):
        change([1, 2], [1, 2], level=1.5)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two checkpoints of a tiny model, the second moved."""
    folder = tmp_path_factory.mktemp("depth")
    for name, size in (("one", 0.0), ("two", 0.2)):
        model = tiny_model("llama")
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in model.hf_model.parameters():
                weight += size * torch.randn(weight.shape, generator=generator)
        model.hf_model.save_pretrained(folder / name)
        model.tokenizer.save_pretrained(folder / name)
    return {name: folder / name for name in ("one", "two")}


def test_ranks_of_checkpoints_are_those_of_the_lens(checkpoints):
    items = [
        (tokens(1, 5 + i % 3, seed=i)[0].tolist(), tokens(1, 2, seed=50 + i)[0].tolist())
        for i in range(13)
    ]
    ranks = checkpoint_ranks(checkpoints, items)
    assert list(ranks) == ["one", "two"]
    for name, path in checkpoints.items():
        lens = analysis.lens(probes.load_model(str(path)), *map(list, zip(*items, strict=True)))
        assert torch.equal(ranks[name], lens.rank)
    assert not torch.equal(ranks["one"], ranks["two"])
    table = depth_table(ranks, k=30, d_vocab=D_VOCAB).set_index("checkpoint")
    lens = analysis.lens(
        probes.load_model(str(checkpoints["two"])), *map(list, zip(*items, strict=True))
    )
    expected = lens.localization(30)
    assert table.loc["two", "share_found"] == expected.share_found
    assert table.loc["two", "mean_first_layer"] == expected.mean_first_layer
    assert table.loc["two", "effective_layers"] == expected.effective_layers


def test_a_table_of_nothing_found():
    (row,) = depth_table({"0": ranks_of([-1] * 3)}, k=5, d_vocab=D_VOCAB).to_dict("records")
    assert (row["items"], row["share_found"]) == (3, 0.0)
    assert all(math.isnan(row[name]) for name in ("mean_first_layer", "effective_layers", "low"))


def test_checkpoints_with_other_tokenizers_are_refused(checkpoints):
    class Shifted:
        eos_token_id = bos_token_id = None

        def convert_ids_to_tokens(self, token):
            return f"w{token - 4}"

        def decode(self, ids, **_given):
            return " ".join(map(self.convert_ids_to_tokens, ids))

        def __len__(self):
            return D_VOCAB

        def __call__(self, texts, **_given):
            rows = [texts] if isinstance(texts, str) else texts
            ids = [[int(word[1:]) + 4 for word in text.split()] for text in rows]
            return {"input_ids": ids[0] if isinstance(texts, str) else ids}

    other = probes.load_model(tiny_hf_model("llama"), tokenizer=Shifted())
    with pytest.raises(ValueError, match="other splits the items into other tokens than one; "):
        checkpoint_ranks({"one": checkpoints["one"], "other": other}, [("w1 w2", " w3")])
