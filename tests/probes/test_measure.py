"""The three entropies against brute force over unbatched text, whatever the batching."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

import probes
from probes.corpus_means import jackknife_interval
from tests.models import FAMILIES, N_LAYERS, padded, tiny_hf_model, tiny_model, tokens
from tests.reference import entropies as reference
from tests.reference.official_entropy import official_average, official_entropies

LENGTHS = [11, 5, 17, 7, 3]


def rows():
    return [tokens(1, length, seed)[0].tolist() for seed, length in enumerate(LENGTHS)]


def in_batches(groups, side="right"):
    """The same rows, batched and padded in some way; groups are lists of row indices."""
    for group in groups:
        width = max(LENGTHS[i] for i in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, i in enumerate(group):
            where = slice(0, LENGTHS[i]) if side == "right" else slice(width - LENGTHS[i], width)
            ids[place, where], mask[place, where] = torch.tensor(rows()[i]), 1
        yield {"input_ids": ids, "attention_mask": mask}


BATCHINGS = {
    "one by one": ([[0], [1], [2], [3], [4]], "right"),
    "all at once, right": ([[0, 1, 2, 3, 4]], "right"),
    "all at once, left": ([[0, 1, 2, 3, 4]], "left"),
    "shuffled pairs, left": ([[3, 2], [4, 0], [1]], "left"),
}


@cache
def brute_force(family, dtype):
    """A model, and its means, knowledge, attention and next-token entropies by nested loops."""
    hf_model = tiny_hf_model(family, torch.float64).to(dtype)
    means = reference.mean_coefficients(hf_model, family, rows(), "instance")
    return (
        hf_model,
        means,
        reference.knowledge_entropy(means),
        reference.attention_entropy(hf_model, rows()),
        reference.next_token_entropy(hf_model, rows()),
    )


# How rows are batched is no matter of the family: most families see one batching, with every row
# padded on the left and longer and shorter than their attention windows.
FULLY = ("llama", "gpt_neox", "gpt2", "gemma2")
CASES = [
    (family, batching)
    for family in FAMILIES
    for batching in (BATCHINGS if family in FULLY else ("all at once, left",))
]


@pytest.mark.parametrize(("family", "batching"), CASES)
# Knowledge entropy: 1e-9 in float64, 1e-6 in float32, as the design asks. Next-token entropy goes
# through a softmax of logits of some 10, which costs float32 another digit. Hugging Face's eager
# softmax, the reference of attention entropy, is float32 even in a float64 model.
@pytest.mark.parametrize(
    ("dtype", "bar", "next_bar", "attention_bar"),
    [(torch.float64, 1e-9, 1e-9, 1e-6), (torch.float32, 1e-6, 1e-5, 1e-5)],
)
def test_entropies_are_the_brute_force_ones(family, batching, dtype, bar, next_bar, attention_bar):
    if family == "gemma2":  # transformers knows its soft-capped attention as eager only: float32
        bar, next_bar = max(bar, 1e-6), max(next_bar, 1e-5)
    hf_model, means, knowledge, heads, next_token = brute_force(family, dtype)
    result = probes.measure_entropy(probes.load_model(hf_model), in_batches(*BATCHINGS[batching]))
    assert_close(result.mean_coefficients.numpy(), means, rtol=10 * bar, atol=0)
    assert_close(result.knowledge.per_layer.numpy(), knowledge, rtol=bar, atol=0)
    found = result.attention.per_head.numpy()
    assert_close(found, heads, rtol=attention_bar, atol=attention_bar / 10)
    assert result.next_token.mean == pytest.approx(next_token, rel=next_bar)


@pytest.mark.parametrize("weighting", ["instance", "token"])
def test_weightings_differ_and_each_is_its_brute_force(weighting):
    hf_model = tiny_hf_model("llama", torch.float64)
    batches = list(in_batches(*BATCHINGS["all at once, left"]))
    result = probes.measure_entropy(
        probes.load_model(hf_model), batches, ["knowledge"], weighting=weighting
    )
    means = reference.mean_coefficients(hf_model, "llama", rows(), weighting)
    assert_close(result.mean_coefficients.numpy(), means, rtol=1e-12, atol=0)
    other = "token" if weighting == "instance" else "instance"
    different = reference.mean_coefficients(hf_model, "llama", rows(), other)
    assert not np.allclose(means, different, rtol=1e-3)


def coefficient_by_hand(hf_model, row, coefficient):
    """Weights on memory vectors for one row, from modules called directly: [layer, d_mlp]."""
    kept = {}
    for i, layer in enumerate(hf_model.model.layers):
        layer.mlp.gate_proj.register_forward_hook(
            lambda _m, _a, o, i=i: kept.update({("g", i): o[0]})
        )
        layer.mlp.up_proj.register_forward_hook(
            lambda _m, _a, o, i=i: kept.update({("u", i): o[0]})
        )
    with torch.no_grad():
        hf_model(torch.tensor([row]))
    found = []
    for i, layer in enumerate(hf_model.model.layers):
        gate, up = kept["g", i], kept["u", i]
        value = torch.nn.functional.silu(gate) * up
        norms = layer.mlp.down_proj.weight.detach().square().sum(dim=0).sqrt()
        weight = {
            "abs": value.abs(),
            "relu_output": value.clamp_min(0),
            "relu_gate": (gate.clamp_min(0) * up).abs(),
            "contribution": value.abs() * norms,
        }[coefficient]
        found.append(weight.mean(dim=0))
    return torch.stack(found)


@pytest.mark.parametrize("coefficient", ["abs", "relu_output", "relu_gate", "contribution"])
def test_coefficient_variants_are_what_their_formulas_say(coefficient):
    model = probes.load_model(tiny_hf_model("llama", torch.float64))
    batches = [{"input_ids": torch.tensor([rows()[2]])}]
    result = probes.measure_entropy(model, batches, ["knowledge"], coefficient=coefficient)
    expected = coefficient_by_hand(tiny_hf_model("llama", torch.float64), rows()[2], coefficient)
    assert_close(result.mean_coefficients, expected, rtol=1e-12, atol=0)


def test_rescaling_rows_and_vectors_moves_plain_entropy_but_not_contribution():
    hf_model = tiny_hf_model("llama", torch.float64)
    batches = [{"input_ids": tokens(3, 13)}]
    before = probes.measure_entropy(
        probes.load_model(hf_model), batches, ["knowledge", "next_token"]
    )
    factors = torch.rand(29, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) + 0.1
    for layer in hf_model.model.layers:
        layer.mlp.up_proj.weight.data *= factors[:, None]
        layer.mlp.down_proj.weight.data /= factors
    after = probes.measure_entropy(
        probes.load_model(hf_model), batches, ["knowledge", "next_token"]
    )
    assert after.next_token.mean == pytest.approx(before.next_token.mean, rel=1e-12)
    assert after.contribution.total == pytest.approx(before.contribution.total, rel=1e-12)
    assert abs(after.knowledge.total - before.knowledge.total) > 0.01


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_official_compat_is_the_released_arithmetic_pads_and_all(family):
    hf_model = tiny_hf_model(family)
    ids, mask = padded([11, 5, 7], "right")
    result = probes.measure_entropy(
        probes.load_model(hf_model),
        [{"input_ids": ids, "attention_mask": mask}],
        ["knowledge"],
        compat="official",
    )
    average = official_average(hf_model, family, ids)
    # The script keeps the sum over the 11 positions of a row, where Eq. 2 has their mean.
    assert_close(result.mean_coefficients, average.double() / 11, rtol=1e-5, atol=0)
    # float32 sums of 29 probabilities there, float64 here.
    assert_close(
        result.knowledge.per_layer.tolist(), official_entropies(average), rtol=1e-5, atol=0
    )
    correct = probes.measure_entropy(
        probes.load_model(hf_model), [{"input_ids": ids, "attention_mask": mask}], ["knowledge"]
    )
    assert abs(correct.knowledge.total - result.knowledge.total) > 1e-3


@pytest.mark.parametrize("kinds", [("knowledge",), ("attention",), ("next_token",)])
def test_a_kind_alone_is_what_it_is_in_company(kinds):
    model = tiny_model("gpt_neox", torch.float64)
    batches = list(in_batches([[0, 1], [2, 3, 4]], "left"))
    together = probes.measure_entropy(model, batches)
    alone = probes.measure_entropy(model, batches, kinds)
    for kind in ("knowledge", "attention", "next_token"):
        found, expected = getattr(alone, kind), getattr(together, kind)
        if kind not in kinds:
            assert found is None
        elif kind == "next_token":
            assert found.mean == pytest.approx(expected.mean, rel=1e-14)
        else:
            assert found.total == pytest.approx(expected.total, rel=1e-14)


def test_intervals_leave_out_documents_in_turn():
    model = tiny_model("llama", torch.float64)
    result = probes.measure_entropy(
        model, in_batches([[0, 1, 2], [3, 4]]), ["knowledge", "next_token"]
    )
    without = [
        probes.measure_entropy(
            model, in_batches([[j for j in range(5) if j != i]]), ["knowledge", "next_token"]
        )
        for i in range(5)
    ]
    expected = jackknife_interval(result.knowledge.total, [r.knowledge.total for r in without])
    assert result.knowledge.interval == pytest.approx(expected, rel=1e-10)
    expected = jackknife_interval(result.next_token.mean, [r.next_token.mean for r in without])
    assert result.next_token.interval == pytest.approx(expected, rel=1e-10)


def test_packed_rows_resample_documents_not_rows():
    model = tiny_model("llama", torch.float64)
    ids = tokens(1, 23)
    segments = torch.tensor([[0] * 9 + [1] * 8 + [2] * 6])
    packed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "segment_ids": segments}
    result = probes.measure_entropy(model, [packed], ["knowledge"])
    assert result.provenance.documents == 3
    assert result.provenance.rows == 1
    assert result.knowledge.interval is not None
    unsegmented = probes.measure_entropy(model, [{"input_ids": ids}], ["knowledge"])
    assert unsegmented.knowledge.interval is None
    assert unsegmented.notes == ("One document only: intervals need at least two.",)
    assert unsegmented.knowledge.total == pytest.approx(result.knowledge.total, rel=1e-12)


def test_bfloat16_models_are_measured_from_widened_scores_and_sums():
    hf_model = tiny_hf_model("llama", torch.bfloat16)
    result = probes.measure_entropy(
        probes.load_model(hf_model), in_batches(*BATCHINGS["one by one"])
    )
    means = reference.mean_coefficients(hf_model, "llama", rows(), "instance")
    expected = reference.knowledge_entropy(means)
    # bf16 rounds each coefficient to 3 digits; means of 43 tokens keep about that.
    assert_close(result.knowledge.per_layer.numpy(), expected, rtol=5e-3, atol=0)
    heads = reference.attention_entropy(hf_model, rows())
    # Queries and keys of bf16 hidden states carry 3 digits into scores of some 10.
    assert np.abs(result.attention.per_head.numpy() - heads).mean() < 0.02
    assert result.notes == (
        "Half-precision weights: coefficients are rounded before they are summed.",
    )


def test_a_result_knows_where_it_comes_from_and_saves(tmp_path):
    model = tiny_model("llama")
    seen = []
    result = probes.measure_entropy(
        model, in_batches([[0, 1], [2, 3, 4]]), on_batch=seen.append, blocks=3
    )
    assert seen == [16, 27]
    assert result.provenance.tokens == 43
    assert result.provenance.weights_sha256 == model.content_hash()
    assert result.provenance.configuration["blocks"] == 3
    assert result.knowledge.maximum == pytest.approx(N_LAYERS * math.log(29))
    result.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "entropy.json").read_text())
    assert saved["knowledge_entropy"]["total"] == result.knowledge.total
    assert saved["knowledge_entropy"]["interval"]["low"] == result.knowledge.interval.low
    assert saved["attention_entropy"]["per_head"] == result.attention.per_head.tolist()
    assert saved["next_token_entropy"]["mean"] == result.next_token.mean
    assert (saved["documents"], saved["tokens"]) == (5, 43)
    tensors = load_file(tmp_path / "out" / "mean_coefficients.safetensors")
    assert_close(tensors["mean_coefficients"], result.mean_coefficients, rtol=0, atol=0)
    frame = result.to_dataframe()
    assert frame["knowledge_entropy"].tolist() == result.knowledge.per_layer.tolist()
    assert frame["layer"].tolist() == [0, 1, 2]


def test_measuring_leaves_no_trace_on_the_model():
    model = tiny_model("gpt2")
    attention = model.hf_model.config._attn_implementation
    before = model.content_hash()
    probes.measure_entropy(model, in_batches([[0, 1]]))
    assert model.content_hash() == before
    assert model.hf_model.config._attn_implementation == attention
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.hf_model.modules())
    assert all(p.grad is None for p in model.hf_model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["knowlege"]}, r"kinds must be one of knowledge, attention, next_token,"),
        ({"kinds": []}, r"kinds is empty; choose from knowledge"),
        ({"coefficient": "absolute"}, r"coefficient must be one of abs, relu_output.* found"),
        ({"coefficient": "relu_gate"}, r"'relu_gate' needs an MLP with a gate, but .* has none"),
        ({"weighting": "document"}, r"weighting must be one of instance, token"),
        ({"compat": "official"}, r"released code has knowledge entropy only; pass kinds="),
        ({"blocks": 1}, r"blocks must be at least 2 for an interval, found 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        probes.measure_entropy(tiny_model("gpt2"), in_batches([[0]]), **arguments)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], r"no tokens to measure"),
        (
            [{"input_ids": torch.zeros(1, 3).long(), "attention_mask": torch.zeros(1, 3).long()}],
            r"no tokens",
        ),
        ([{"input_ids": torch.full((1, 3), 101)}], r"ids run from 101 to 101, but .* has 101"),
        ([{"input_ids": torch.full((1, 62), 5)}], r"rows have 62 tokens, but .* has positions"),
    ],
)
def test_batches_that_cannot_be_measured_are_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        probes.measure_entropy(tiny_model("llama"), batches, ["knowledge"])
