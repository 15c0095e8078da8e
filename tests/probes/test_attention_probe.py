"""Attention entropy, fused and in chunks, against SciPy on explicit patterns."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from torch.testing import assert_close

import probes.attention_interface
import probes.entropy as probe
from probes.attention_interface import AttentionCall
from probes.entropy import _cuda_kernel_is_sound, attention_entropy

BATCH, HEADS, LENGTH, D_HEAD = 2, 6, 13, 10


def make_call(
    *, kv_heads=6, allowed=None, softcap=None, scale=0.3, dtype=torch.float64, length=LENGTH
):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(BATCH, HEADS, length, D_HEAD, generator=generator)
    key, value = (torch.randn(BATCH, kv_heads, length, D_HEAD, generator=generator) for _ in "kv")
    tensors = (tensor.to(dtype) for tensor in (query, key, value))
    return AttentionCall(*tensors, allowed, scale=scale, softcap=softcap, dropout=0.0)


def causal(length=LENGTH):
    return torch.ones(length, length, dtype=torch.bool).tril()


def brute_force(call):
    """SciPy's entropy of every pattern row, from scores spelled out one query at a time."""
    batch, heads, length, _ = call.query.shape
    group = heads // call.key.shape[1]
    allowed = causal(length).expand(batch, heads, -1, -1)
    if call.allowed is not None:
        allowed = call.allowed.expand(batch, heads, -1, -1)
    found = np.zeros((batch, heads, length))
    for b in range(batch):
        for h in range(heads):
            for q in range(length):
                keys = call.key[b, h // group][allowed[b, h, q]].double()
                scores = (keys @ call.query[b, h, q].double() * call.scale).numpy()
                if call.softcap:
                    scores = call.softcap * np.tanh(scores / call.softcap)
                weights = np.exp(scores - scores.max()) if len(scores) else np.array([])
                found[b, h, q] = scipy_entropy(weights) if len(weights) else 0.0
    return found


def left_padded_mask():
    allowed = causal().expand(BATCH, 1, -1, -1).clone()
    allowed[1, :, :, :4] = False
    return allowed


def sliding_mask():
    return (causal() & ~causal().tril(-5)).expand(BATCH, 1, -1, -1)


@pytest.mark.parametrize("kv_heads", [6, 2, 1])
@pytest.mark.parametrize("mask", [lambda: None, left_padded_mask, sliding_mask])
@pytest.mark.parametrize("path", ["attention_entropy", "chunked_attention_entropy"])
def test_entropy_is_scipys_with_grouped_heads_and_masks(path, mask, kv_heads):
    call = make_call(kv_heads=kv_heads, allowed=mask())
    found = getattr(probe, path)(call).numpy()
    real = np.ones((BATCH, 1, LENGTH), dtype=bool)
    if mask is left_padded_mask:
        real[1, :, :4] = False  # queries of pads attend to nothing and mean nothing
    difference = np.abs(found - brute_force(call))[np.broadcast_to(real, found.shape)]
    # float64 throughout; H = logsumexp - mean score cancels a few digits.
    assert difference.max() < 1e-13


@pytest.mark.parametrize("path", ["attention_entropy", "chunked_attention_entropy"])
def test_small_chunks_give_the_same_numbers(monkeypatch, path):
    call = make_call(kv_heads=2, allowed=left_padded_mask())
    whole = getattr(probe, path)(call)
    # Room for the scores of three queries, so that 13 queries take five chunks.
    monkeypatch.setattr(probes.attention_interface, "_CHUNK_BYTES", 3 * 4 * BATCH * HEADS * LENGTH)
    assert len(list(call.query_chunks())) == 5
    assert_close(getattr(probe, path)(call), whole, rtol=1e-13, atol=1e-13, equal_nan=True)


def test_soft_capped_scores_take_the_chunked_path_and_are_capped():
    call = make_call(softcap=0.7, scale=2.0)
    assert_close(attention_entropy(call).numpy(), brute_force(call), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_lose_nothing_more(dtype):
    call = make_call(dtype=dtype, kv_heads=2, scale=1.0)
    found = attention_entropy(call)
    assert found.dtype == torch.float32
    # The inputs are exact in float32; scores of some 10 leave 1e-6 of float32 rounding.
    assert np.abs(found.double().numpy() - brute_force(call)).max() < 1e-5


def test_first_query_has_entropy_zero_and_no_entropy_is_negative():
    found = attention_entropy(make_call(dtype=torch.float32, scale=3.0))
    assert found.min() >= 0
    assert found[:, :, 0].max() < 1e-5  # one key: logsumexp and mean score differ by rounding


def test_without_scores_attention_is_uniform_and_with_huge_ones_one_hot():
    flat = attention_entropy(make_call(scale=1e-15))
    expected = torch.arange(1, LENGTH + 1).double().log().expand_as(flat)
    assert_close(flat, expected, rtol=0, atol=1e-14)
    assert attention_entropy(make_call(scale=1e6)).max() < 1e-6  # rounding of scores of some 1e7


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("mask", [lambda: None, left_padded_mask, sliding_mask])
def test_output_is_the_pattern_times_the_values(mask, softcap):
    call = make_call(kv_heads=2, allowed=mask(), softcap=softcap)
    scores = torch.einsum("bhqd,bhkd->bhqk", call.query, call.key.repeat_interleave(3, 1)) * 0.3
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    allowed = causal() if call.allowed is None else call.allowed
    pattern = scores.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num(0.0)
    expected = torch.einsum("bhqk,bhkd->bqhd", pattern, call.value.repeat_interleave(3, 1))
    # Fused kernels sum in another order.
    assert_close(call.output().nan_to_num(0.0), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_kernel_equals_explicit_scores(dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    cpu = make_call(kv_heads=2, dtype=dtype)
    moved = AttentionCall(
        cpu.query.cuda(), cpu.key.cuda(), cpu.value.cuda(), None, cpu.scale, None, 0.0
    )
    assert _cuda_kernel_is_sound()
    assert np.abs(attention_entropy(moved).double().cpu().numpy() - brute_force(cpu)).max() < 1e-5


def test_a_head_that_attends_to_the_first_token_keeps_its_digits():
    """Scores of some 60 and entropies of some 1e-5: their difference needs more than float32 has."""
    call = make_call(dtype=torch.float32)
    query, key = call.query.clone(), call.key.clone()
    query[..., 0], key[..., 0], key[:, :, 0, 0] = 10.0, 0.0, 20.0
    sink = AttentionCall(query, key, call.value, None, call.scale, None, 0.0)
    expected = brute_force(sink)
    found = attention_entropy(sink).double().numpy()
    assert 0 < expected[:, :, 1:].mean() < 1e-3
    # Without the shift of the keys the error is some 1e-6, a tenth of these entropies and more.
    assert np.abs(found - expected).max() < 2e-7
