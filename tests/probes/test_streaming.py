"""Accumulators against NumPy, whole and merged."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import probes
from probes.corpus_means import BlockedMean, RunningMean, RunningMoments, spread


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    for rows, length in ((3, 5), (2, 7), (1, 11)):
        values = torch.randn(rows, length, 13, generator=generator)
        mask = torch.rand(rows, length, generator=generator) > 0.3
        yield values, mask


def kept_values():
    return np.concatenate([values[mask].double().numpy() for values, mask in batches()])


def test_running_mean_is_numpys_mean_over_unmasked_positions():
    reducer = RunningMean()
    for values, mask in batches():
        reducer.update(values, mask)
    assert_close(reducer.result().numpy(), kept_values().mean(axis=0), rtol=1e-14, atol=1e-15)


def test_running_moments_are_numpys_mean_and_unbiased_variance():
    reducer = RunningMoments()
    for values, mask in batches():
        reducer.update(values, mask)
    mean, variance = reducer.result()
    assert_close(mean.numpy(), kept_values().mean(axis=0), rtol=1e-13, atol=1e-15)
    assert_close(variance.numpy(), kept_values().var(axis=0, ddof=1), rtol=1e-13, atol=0)


def test_running_moments_keep_their_digits_far_from_zero():
    reducer = RunningMoments()
    for values, mask in batches():
        reducer.update(values.double() + 1e8, mask)
    # A sum of squares would lose all sixteen digits here; centred sums lose eight.
    assert_close(reducer.result()[1].numpy(), kept_values().var(axis=0, ddof=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["RunningMean", "RunningMoments"])
@pytest.mark.parametrize("split", [0, 1, 2, 3])
def test_merging_two_halves_equals_one_pass(kind, split):
    whole, left, right = (getattr(probes, kind)() for _ in range(3))
    for index, (values, mask) in enumerate(batches()):
        whole.update(values, mask)
        (left if index < split else right).update(values, mask)
    left.merge(right)
    assert_close(left.result(), whole.result(), rtol=1e-13, atol=1e-15)


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="mean of no positions"):
        RunningMean().result()
    with pytest.raises(ValueError, match="needs two positions, found 0"):
        RunningMoments().result()


def blocked(ids, n_blocks, values, weights, order):
    """A BlockedMean fed one row at a time, in some order."""
    means = BlockedMean(n_layers=2, n_blocks=n_blocks)
    for row in order:
        batch = spread(weights[row : row + 1], ids[row : row + 1] % n_blocks)
        means.count(batch)
        for layer in range(2):
            means.add(layer, batch, values[layer, row])
    return means


@pytest.fixture
def documents():
    generator = torch.Generator().manual_seed(7)
    return {
        "ids": torch.randint(0, 5, (3, 11), generator=generator),
        "values": torch.randn(2, 3, 11, 7, generator=generator).double(),
        "weights": torch.rand(3, 11, generator=generator).double(),
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_blocked_mean_is_numpys_average_in_any_order(documents, order):
    means = blocked(documents["ids"], 3, documents["values"], documents["weights"], order)
    flat = documents["values"].reshape(2, 33, 7).numpy()
    expected = np.average(flat, axis=1, weights=documents["weights"].flatten().numpy())
    assert_close(means.mean().numpy(), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_leaving_out_a_block_leaves_out_its_documents(documents, left_out):
    means = blocked(documents["ids"], 3, documents["values"], documents["weights"], (0, 1, 2))
    kept = (documents["ids"].flatten() % 3 != left_out).numpy()
    flat = documents["values"].reshape(2, 33, 7).numpy()[:, kept]
    expected = np.average(flat, axis=1, weights=documents["weights"].flatten().numpy()[kept])
    found = means.means((torch.arange(3) != left_out).double()[None])[0]
    assert_close(found.numpy(), expected, rtol=1e-13, atol=1e-15)


def test_merged_blocks_equal_one_pass(documents):
    one = blocked(documents["ids"], 3, documents["values"], documents["weights"], (0, 1, 2))
    left = blocked(documents["ids"], 3, documents["values"], documents["weights"], (1,))
    right = blocked(documents["ids"], 3, documents["values"], documents["weights"], (2, 0))
    left.merge(right)
    sets = torch.cat([torch.ones(1, 3), torch.eye(3)]).double()
    assert_close(left.means(sets), one.means(sets), rtol=1e-13, atol=1e-15)
    each = torch.cat([one.means(kept[None]) for kept in sets])
    assert_close(one.means(sets), each, rtol=1e-13, atol=1e-15)
    assert_close(left.mean(), each[0], rtol=1e-13, atol=1e-15)


def test_sums_of_bfloat16_values_do_not_stop_growing():
    means = BlockedMean(n_layers=1, n_blocks=1)
    batch = spread(torch.ones(1, 4099, dtype=torch.float64), torch.zeros(1, 4099, dtype=torch.long))
    means.count(batch)
    means.add(0, batch, torch.ones(4099, 1, dtype=torch.bfloat16))
    # A bf16 accumulator stops at 256.
    assert means.sums[0].item() == 4099
