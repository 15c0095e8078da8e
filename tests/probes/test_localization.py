"""Where targets become readable: against nested loops, SciPy and cases worked out by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from probes import localization
from probes.localization import (
    effective_layers,
    effective_layers_interval,
    first_layer,
    layer_histogram,
    localize,
    rank_area,
    settling_layer,
    share_found,
)

LAYERS, ITEMS, D_VOCAB, K = 7, 53, 101, 11


@pytest.fixture
def rank():
    generator = torch.Generator().manual_seed(3)
    rank = torch.randint(0, D_VOCAB, (LAYERS, ITEMS), generator=generator)
    rank[:, 0] = K  # just outside the top at every layer
    rank[:, 1] = K - 1  # just inside
    rank[-2:, 2:13] = 0  # some that settle
    return rank


def by_loops(rank, k):
    """First and settling layers, a layer and an item at a time."""
    first, settled = [], []
    for item in range(rank.shape[1]):
        found = [int(rank[layer, item]) < k for layer in range(rank.shape[0])]
        first.append(found.index(True) if True in found else -1)
        layer = len(found)
        while layer > 0 and found[layer - 1]:
            layer -= 1
        settled.append(layer if layer < len(found) else -1)
    return first, settled


def test_first_and_settling_layers_equal_nested_loops(rank):
    first, settled = by_loops(rank, K)
    assert first_layer(rank, K).tolist() == first
    assert settling_layer(rank, K).tolist() == settled
    assert first[:2] == settled[:2] == [-1, 0]
    assert len({*first}) > 3
    assert len({*settled}) > 2


def test_the_histogram_counts_only_items_that_have_a_layer():
    layers = torch.tensor([4, -1, 0, 4, -1, 2, 4])
    assert layer_histogram(layers, 5).tolist() == [0.2, 0, 0.2, 0, 0.6]
    assert share_found(layers) == 5 / 7


def test_nothing_found_is_zeros_and_not_a_division_by_zero():
    result = localize(torch.full((LAYERS, ITEMS), D_VOCAB - 1), K, D_VOCAB)
    assert result.first_layer.tolist() == result.settling_layer.tolist() == [-1] * ITEMS
    for histogram in (
        result.first_histogram,
        result.settling_histogram,
        result.occurrence_histogram,
    ):
        assert histogram.tolist() == [0.0] * LAYERS
    assert result.share_found == result.share_settled == result.effective_layers == 0
    assert result.mean_first_layer is None
    assert result.rank_area.tolist() == [0.0] * ITEMS


def test_on_top_everywhere_is_the_other_end():
    result = localize(torch.zeros(LAYERS, ITEMS, dtype=torch.long), 1, D_VOCAB)
    assert result.first_histogram.tolist() == [1.0] + [0.0] * (LAYERS - 1)
    assert result.share_found == result.share_settled == result.effective_layers == 1
    assert result.mean_first_layer == 0
    assert result.rank_area.tolist() == [1.0] * ITEMS
    # Every layer is an occurrence; sevenths are inexact in float64.
    assert result.occurrence_histogram.tolist() == pytest.approx([1 / LAYERS] * LAYERS, rel=1e-15)


def test_the_parts_agree_with_loops_and_scipy(rank):
    result = localize(rank, K, D_VOCAB)
    first, settled = by_loops(rank, K)
    found = [layer for layer in first if layer >= 0]
    counts = np.bincount(found, minlength=LAYERS)
    # float64 throughout; sums of a few dozen terms in another order.
    close = {"rtol": 1e-13, "atol": 1e-15}
    np.testing.assert_allclose(result.first_histogram, counts / len(found), **close)
    settling = np.bincount([layer for layer in settled if layer >= 0], minlength=LAYERS)
    np.testing.assert_allclose(result.settling_histogram, settling / settling.sum(), **close)
    occurrences = (rank.numpy() < K).sum(axis=1)
    np.testing.assert_allclose(
        result.occurrence_histogram, occurrences / occurrences.sum(), **close
    )
    assert result.share_found == pytest.approx(len(found) / ITEMS, rel=1e-15)
    assert result.share_settled == pytest.approx(sum(x >= 0 for x in settled) / ITEMS, rel=1e-15)
    assert result.mean_first_layer == pytest.approx(sum(found) / len(found), rel=1e-13)
    assert result.effective_layers == pytest.approx(math.exp(stats.entropy(counts)), rel=1e-13)
    assert result.k == K


def test_rank_area_equals_nested_loops(rank):
    expected = [
        sum(1 - math.log(1 + int(rank[layer, item])) / math.log(D_VOCAB) for layer in range(LAYERS))
        / LAYERS
        for item in range(ITEMS)
    ]
    # float64 logarithms from two libraries, each right to an ulp or two.
    np.testing.assert_allclose(rank_area(rank, D_VOCAB), expected, rtol=1e-12, atol=1e-14)


def test_an_even_histogram_has_as_many_layers_as_it_spreads_over():
    # exp of a logarithm, and float32 shares: 6e-8 an entry.
    assert effective_layers(torch.full((LAYERS,), 1 / LAYERS)) == pytest.approx(LAYERS, rel=1e-6)
    assert effective_layers(torch.tensor([0, 1.0, 0])) == 1


def leave_one_out(layers):
    """Entropy of all items, and without each in turn."""
    left_out = [np.delete(layers, item) for item in range(len(layers))]
    return [stats.entropy(np.bincount(some)) for some in (layers, *left_out)]


def test_the_interval_of_the_effective_layers_leaves_each_item_out():
    layers = np.random.default_rng(1).integers(0, 5, size=17)
    whole, *without = leave_one_out(layers)
    error = math.sqrt(16 / 17 * sum((x - np.mean(without)) ** 2 for x in without))
    centre, half = 17 * whole - 16 * np.mean(without), stats.t.ppf(0.95, 16) * error
    found = effective_layers_interval(torch.tensor([*layers, -1, -1]), LAYERS, level=0.9)
    # float64, sums in another order.
    assert found.low == pytest.approx(math.exp(centre - half), rel=1e-10)
    assert found.high == pytest.approx(min(math.exp(centre + half), LAYERS), rel=1e-10)
    assert found.level == 0.9


def test_the_interval_of_the_effective_layers_covers_the_truth():
    shares = torch.tensor([0.02] * 5 + [0.15] * 6, dtype=torch.float64)
    truth, trials, covered, below = effective_layers(shares), 400, 0, 0
    generator = torch.Generator().manual_seed(5)
    for _ in range(trials):
        layers = torch.multinomial(shares, 64, replacement=True, generator=generator)
        low, high, _ = effective_layers_interval(layers, 11)
        covered += low <= truth <= high
        below += effective_layers(layer_histogram(layers, 11)) < truth
    # Four standard errors of a share of 400 are 0.044; percentiles of a bootstrap cover 0.41.
    assert covered / trials > 0.95 - 0.044
    assert below / trials > 0.7  # the estimate alone is too low most of the time


def test_the_interval_of_the_effective_layers_stays_within_the_model():
    assert effective_layers_interval(torch.tensor([3] * 7 + [-1]), LAYERS)[:2] == (1, 1)
    assert effective_layers_interval(torch.arange(LAYERS), LAYERS).high == LAYERS
    for layers in ([-1, -1, 4], [-1, -1]):
        assert effective_layers_interval(torch.tensor(layers), LAYERS) is None


NO_RANKS = torch.zeros(0, 5, dtype=torch.long)
SOME_RANKS = torch.tensor([[3, 7]])


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("localize", (SOME_RANKS, 101, 101), "k is 101, but there are 101 tokens: give a k below"),
        ("localize", (SOME_RANKS, 0, 101), "k is 0: give 1 or more"),
        ("localize", (SOME_RANKS, 5, 7), "ranks run up to 7 in a vocabulary of 7: give d_vocab"),
        ("first_layer", (NO_RANKS, 5), r"shape \[0, 5\]: give one or more layers and items"),
        ("settling_layer", (SOME_RANKS - 4, 5), "a rank is -1: give 0 for the top"),
        ("occurrence_histogram", (SOME_RANKS, -1), "k is -1: give 1 or more"),
        ("rank_area", (torch.tensor([[0]]), 1), "in a vocabulary of 1: give d_vocab"),
        ("layer_histogram", (torch.tensor([3, 7]), 7), "layers run from 3 to 7: give -1 to 6"),
        ("layer_histogram", (torch.tensor([-2]), 7), "layers run from -2 to -2: give -1"),
        ("share_found", (torch.zeros(0, dtype=torch.long),), "there are no items: give"),
        ("effective_layers", (torch.tensor([2.0, 3.0]),), "its sum 5: give shares that are not"),
        (
            "effective_layers",
            (torch.tensor([-1.0, 2.0]),),
            "lowest value is -1 and its sum 1: give",
        ),
    ],
)
def test_bad_input_is_answered_in_one_line(function, arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        getattr(localization, function)(*arguments)
    assert "\n" not in str(raised.value)
