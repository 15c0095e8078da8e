"""Summing a vocabulary block by block against SciPy on whole rows in float64."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from scipy.stats import entropy

from probes import load_model
from probes import readout as lens_readout
from probes.readout import block_sums, combined, read_ranks, read_streams, unembeds_by_parts
from tests.models import tiny_hf_model

LAYERS, ROWS, VOCABULARY, TOP = 3, 5, 1009, 7
ASKED = 2


def _logits(spread: float, seed: int = 0) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(scale=spread, size=(LAYERS, ROWS, VOCABULARY))
    return torch.tensor(drawn, dtype=torch.float32)


def _by_blocks(logits: torch.Tensor, ids: torch.Tensor, width: int):
    asked = logits.gather(-1, ids.expand(len(logits), -1, -1))
    blocks = [
        block_sums(block.clone(), torch.empty_like(block), start, asked, TOP)
        for start, block in zip(range(0, VOCABULARY, width), logits.split(width, -1), strict=True)
    ]
    return combined(blocks, asked, TOP)


# 512 columns are searched by groups of 16, with a rest of 497 that is not; 1,009 are one block.
@pytest.mark.parametrize("width", [13, 257, 512, VOCABULARY])
@pytest.mark.parametrize("spread", [0.1, 3.0, 60.0])
def test_blocks_sum_up_to_what_whole_rows_say(width: int, spread: float) -> None:
    logits = _logits(spread)
    ids = torch.randint(VOCABULARY, (ROWS, ASKED), generator=torch.Generator().manual_seed(1))
    found = _by_blocks(logits, ids, width)
    exact = logits.double().numpy()
    log_probs = log_softmax(exact, axis=-1)
    probs = np.exp(log_probs)
    wanted = np.take_along_axis(log_probs, ids.numpy()[None].repeat(LAYERS, 0), axis=-1)
    order = np.argsort(-exact, axis=-1)
    # Float32 sums of up to 1,009 terms; a log-probability of -300 has an ulp of 3e-5.
    close = {"rtol": 2e-6, "atol": 5e-6}
    np.testing.assert_allclose(found.log_prob.numpy(), wanted[..., 0], **close)
    np.testing.assert_allclose(found.entropy.numpy(), entropy(probs, axis=-1), **close)
    kl = rel_entr(probs[-1:], probs).sum(axis=-1)
    np.testing.assert_allclose(found.kl.numpy(), kl, **close)
    assert (found.kl[-1] == 0).all()
    for layer in range(LAYERS):
        for row in range(ROWS):
            places = [list(order[layer, row]).index(int(token)) for token in ids[row]]
            ranks = [int(found.rank[layer, row]), *found.control_rank[layer, row].tolist()]
            assert ranks == places
            assert found.top_ids[layer, row].tolist() == order[layer, row, :TOP].tolist()


def test_equal_logits_are_not_above_one_another() -> None:
    logits = torch.zeros(LAYERS, ROWS, VOCABULARY)
    found = _by_blocks(logits, torch.full((ROWS, 1), 500), 257)
    assert (found.rank == 0).all()
    torch.testing.assert_close(found.entropy, torch.full((LAYERS, ROWS), float(np.log(1009))))


def test_an_unembedding_that_is_hooked_is_read_whole_and_through_its_hook() -> None:
    model = load_model(tiny_hf_model("gemma2"))
    streams = torch.randn(LAYERS, ROWS, model.d_model, generator=torch.Generator().manual_seed(2))
    targets = torch.arange(ROWS)
    controls = torch.arange(2 * ROWS).view(ROWS, 2)

    def read():
        with torch.no_grad():
            return read_streams(model.anatomy, streams, targets, top_k=TOP, controls=controls)

    by_parts = read()
    assert unembeds_by_parts(model.anatomy)
    handle = model.anatomy.unembed.register_forward_hook(lambda _m, _i, out: out)
    assert not unembeds_by_parts(model.anatomy)
    whole = read()
    assert torch.equal(read_ranks(model.anatomy, streams, targets), whole.rank)
    handle.remove()
    doubling = model.anatomy.unembed.register_forward_hook(lambda _m, _i, out: 2 * out)
    doubled = read()
    doubling.remove()
    assert torch.equal(by_parts.rank, whole.rank)
    assert torch.equal(read_ranks(model.anatomy, streams, targets), whole.rank)
    assert torch.equal(by_parts.control_rank, whole.control_rank)
    assert torch.equal(by_parts.top_ids, whole.top_ids)
    for name in ("log_prob", "entropy", "kl", "top_log_probs"):
        # The same float32 product in tiles of other shapes.
        torch.testing.assert_close(getattr(by_parts, name), getattr(whole, name))
    assert not torch.allclose(doubled.entropy, whole.entropy)


def test_tiles_of_any_size_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny_hf_model("gemma2"))
    streams = torch.randn(LAYERS, ROWS, model.d_model, generator=torch.Generator().manual_seed(3))
    targets = torch.arange(ROWS)
    with torch.no_grad():
        large = read_streams(model.anatomy, streams, targets, top_k=TOP, norm=False)
        monkeypatch.setattr(lens_readout, "_TILES", {"cpu": (2 * LAYERS, 17)})
        small = read_streams(model.anatomy, streams, targets, top_k=TOP, norm=False)
    assert torch.equal(large.rank, small.rank)
    assert torch.equal(large.top_ids, small.top_ids)
    torch.testing.assert_close(large.kl, small.kl)
    torch.testing.assert_close(large.log_prob, small.log_prob)
