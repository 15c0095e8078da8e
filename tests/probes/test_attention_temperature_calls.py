"""Attention at a temperature, against Hugging Face's eager attention with another scaling.

`module.scaling / T` is the same edit made in the model; where scores are soft-capped, cap and
scaling over T are, since T divides c tanh(s / c). Temperatures of heads are compared with loops
over explicit scores, and with query projections that were really divided.
"""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from torch.testing import assert_close

import probes
from probes.attention_interface import AttentionCall
from tests.models import (
    BACKENDS,
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    across,
    on,
    padded,
    tiny_hf_model,
    tokens,
)

EVERY = dict(enumerate((1.7, 0.6, 2.3)))
PER_HEAD = {0: torch.tensor([0.5, 1.9, 3.1]), 2: torch.tensor([2.7, 1.0, 0.4])}
# Its scores cannot be reached through a bridge.
REACHABLE = [
    pair for pair in across(FAMILIES, BACKENDS) if pair.values != ("transformer_lens", "opt")
]


def attention_of(hf_model):
    return [module for module in hf_model.modules() if hasattr(module, "scaling")]


def eager_copy(hf_model, temperatures):
    model = copy.deepcopy(hf_model)
    model.set_attn_implementation("eager")
    modules = attention_of(model)
    assert len(modules) == N_LAYERS
    for layer, temperature in temperatures.items():
        modules[layer].scaling = modules[layer].scaling / temperature
        if getattr(modules[layer], "attn_logit_softcapping", None):
            modules[layer].attn_logit_softcapping /= temperature
    return model


def left_padded():
    ids, mask = padded([11, 5], "left")
    return ids, mask, (mask.cumsum(-1) - 1).clamp_min(0)


def keeping(seen, sites=("attention_scores", "attention_pattern"), layers=range(N_LAYERS)):
    def keep(tensor, point):
        seen[point] = tensor.detach()

    return [((site, layer), keep) for layer in layers for site in sites]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_it_is_hugging_faces_eager_attention_with_its_scaling_divided(family, side):
    model = on("native", family)
    ids, mask = padded([11, 5], side)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    reference = eager_copy(model.hf_model, EVERY)
    expected = reference(ids, attention_mask=mask, position_ids=positions, output_attentions=True)
    seen, real = {}, mask.bool()
    with model.attention_temperature(EVERY):
        found = model(ids, attention_mask=mask)
        with model.hooks(keeping(seen)):
            explicit = model(ids, attention_mask=mask)
    # Fused against eager attention in float32, through three layers.
    assert_close(found[real], expected.logits[real], rtol=1e-3, atol=1e-3)
    assert_close(explicit[real], expected.logits[real], rtol=1e-3, atol=1e-3)
    for layer in range(N_LAYERS):
        pattern = seen["attention_pattern", layer].transpose(1, 2)[real]
        assert_close(
            pattern, expected.attentions[layer].transpose(1, 2)[real], rtol=1e-3, atol=1e-5
        )
    assert not torch.allclose(model(ids, attention_mask=mask)[real], found[real], rtol=0.01)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_temperatures_of_heads_are_those_of_loops_over_explicit_scores(family):
    model, layer = on("native", family), 2
    ids, mask, _ = left_padded()
    plain, divided = {}, {}
    with model.hooks(keeping(plain, layers=[layer])):
        model(ids, attention_mask=mask)
    with model.attention_temperature({layer: PER_HEAD[layer]}):
        with model.hooks(keeping(divided, layers=[layer])):
            explicit = model(ids, attention_mask=mask)
        fused = model(ids, attention_mask=mask)
    scores, expected = plain["attention_scores", layer].double().numpy(), {}
    for row in range(2):
        for head in range(N_HEADS):
            temperature = float(PER_HEAD[layer][head])
            for query in range(11):
                allowed = np.isfinite(scores[row, head, query])
                weights = np.exp(scores[row, head, query][allowed] / temperature)
                pattern = np.zeros(11)
                pattern[allowed] = weights / max(weights.sum(), 1e-300)
                expected[row, head, query] = pattern
    found = divided["attention_pattern", layer]
    want = torch.tensor(np.stack(list(expected.values()))).view(2, N_HEADS, 11, 11).float()
    # Scores of float32, some of them divided in the queries.
    assert_close(found, want, rtol=1e-4, atol=1e-6)
    real = mask.bool()
    assert_close(fused[real], explicit[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
@torch.no_grad()
def test_temperatures_of_heads_are_query_projections_divided(family):
    model, patched = on("native", family), copy.deepcopy(tiny_hf_model(family))
    by = PER_HEAD[0].repeat_interleave(14)
    parts = {
        "llama": [("model.layers.0.self_attn.q_proj.weight", by[:, None])],
        "opt": [
            ("model.decoder.layers.0.self_attn.q_proj.weight", by[:, None]),
            ("model.decoder.layers.0.self_attn.q_proj.bias", by),
        ],
        # Queries are the first third of what comes out, and the weight is [in out].
        "gpt2": [(f"transformer.h.0.attn.c_attn.{end}", by) for end in ("weight", "bias")],
    }
    for name, divisor in parts[family]:
        parameter = patched.get_parameter(name)
        parameter[..., :42] /= divisor
    with model.attention_temperature({0: PER_HEAD[0]}):
        found = model(tokens(2, 7))
    assert_close(found, patched(tokens(2, 7)).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("backend", "family"), REACHABLE)
@torch.no_grad()
def test_every_backend_does_the_same_and_readers_outside_and_inside_see_it(backend, family):
    model, native = on(backend, family), on("native", family)
    ids, mask, _ = left_padded()
    by = {**EVERY, **PER_HEAD}
    outside, inside, real = {}, {}, mask.bool()
    with native.attention_temperature(by):
        expected = native(ids, attention_mask=mask)
    before = model(ids, attention_mask=mask)
    with model.hooks(keeping(outside)), model.attention_temperature(by):
        found = model(ids, attention_mask=mask)
    with model.attention_temperature(by), model.hooks(keeping(inside)):
        model(ids, attention_mask=mask)
    # Another attention kernel, in float32, through three layers.
    assert_close(found[real], expected[real], rtol=1e-3, atol=1e-3)
    assert_close(model(ids, attention_mask=mask), before, rtol=0, atol=0)
    for point, scores in inside.items():
        assert_close(outside[point], scores, rtol=0, atol=0)
        if point[0] == "attention_scores":
            pattern = scores.transpose(1, 2)[real].softmax(dim=-1)
            seen = inside["attention_pattern", point[1]].transpose(1, 2)[real]
            assert_close(seen, pattern, rtol=1e-4, atol=1e-6)
            assert scores.isneginf().any(), "masked scores stay masked"


@pytest.mark.parametrize(
    ("backend", "family"),
    REACHABLE,
)
@torch.no_grad()
def test_entropies_are_those_of_the_patterns_at_that_temperature(backend, family):
    model, found, seen = on(backend, family), {}, {}
    by = {**EVERY, **PER_HEAD}

    def take(entropies, layer):
        found[layer] = entropies

    with model.attention_entropies(take), model.attention_temperature(by):
        model(tokens(2, 11))
    inside, found = found, {}
    with model.attention_temperature(by), model.attention_entropies(take):
        model(tokens(2, 11))
    with on("native", family).attention_temperature(by), on("native", family).hooks(keeping(seen)):
        on("native", family)(tokens(2, 11))
    for layer in range(N_LAYERS):
        expected = scipy_entropy(seen["attention_pattern", layer].double().numpy(), axis=-1)
        # Float32 patterns of scores of some 10; entropies are of order one.
        assert np.abs(found[layer].double().numpy() - expected).max() < 2e-4
        assert_close(inside[layer], found[layer], rtol=0, atol=0)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gemma2"])
@pytest.mark.parametrize("by", [EVERY, PER_HEAD])
@torch.no_grad()
def test_attention_stays_fused(monkeypatch, family, by):
    def spelled_out(self, rows):
        raise AssertionError("scores were spelled out")

    monkeypatch.setattr(AttentionCall, "scores", spelled_out)
    with on("native", family).attention_temperature(by):
        on("native", family)(tokens(2, 7))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@torch.no_grad()
def test_temperatures_multiply_in_any_nesting_and_come_off_one_by_one(family):
    model, head = on("native", family), PER_HEAD[0]
    with model.attention_temperature({0: 1.5, 1: 0.8}):
        once = model(tokens(2, 7))
        with model.attention_temperature({0: head}), model.attention_temperature({0: head}):
            found = model(tokens(2, 7))
        assert_close(model(tokens(2, 7)), once, rtol=0, atol=0)
    with model.attention_temperature({0: 1.5 * head * head, 1: 0.8}):
        # Divided at once or one after the other, in float32.
        assert_close(model(tokens(2, 7)), found, rtol=1e-4, atol=1e-4)
    assert model.hf_model.config._attn_implementation == "sdpa" or family == "gemma2"


@torch.no_grad()
def test_a_temperature_of_one_changes_no_bit_but_for_the_attention_kernel():
    model = on("native", "llama")
    before = model(tokens(2, 7))
    for by in ({0: 1.0, 2: 1}, {1: torch.ones(N_HEADS)}):
        with model.attention_temperature(by):
            assert_close(model(tokens(2, 7)), before, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_function_is_asked_in_every_pass(backend):
    model, asked, values = on(backend, "mistral"), [], [2.0, PER_HEAD[0], 0.5]

    def now():
        asked.append(1)
        return values[len(asked) - 1]

    with model.attention_temperature({1: now}):
        assert asked == []
        found = [model(tokens(1, 7)) for _ in values]
    assert len(asked) == 3
    for value, logits in zip(values, found, strict=True):
        with model.attention_temperature({1: value}):
            assert_close(model(tokens(1, 7)), logits, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])  # none of which has dropout
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_in_a_training_step_are_eager_attentions(family, checkpointing):
    hf_model, asked = tiny_hf_model(family, torch.float64), []
    model, reference = probes.load_model(hf_model), eager_copy(hf_model, EVERY).train()
    reference(tokens(2, 7)).logits.square().mean().backward()
    hf_model.train()
    if checkpointing:
        hf_model.activation_checkpointing_enable()

    def now():
        asked.append(1)
        return EVERY[1]

    with model.attention_temperature({**EVERY, 1: now}):
        hf_model(tokens(2, 7)).logits.square().mean().backward()
    assert len(asked) == 1 + checkpointing
    for name, parameter in reference.named_parameters():
        # Eager attention takes its softmax in float32, in a float64 model too.
        found = hf_model.get_parameter(name).grad
        assert_close(found, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("backend", "family"), [*((b, "llama") for b in BACKENDS), ("native", "gemma2")]
)
def test_temperatures_can_be_learned(backend, family):
    model, native = on(backend, family), on("native", family)
    learned = PER_HEAD[0].clone().requires_grad_()
    with model.attention_temperature({1: learned}):
        model(tokens(2, 7)).square().mean().backward()
    losses = []
    for step in (-1e-2, 1e-2):
        moved = PER_HEAD[0].clone()
        moved[1] += step
        with torch.no_grad(), native.attention_temperature({1: moved}):
            losses.append(float(native(tokens(2, 7)).square().mean()))
    # A central difference in float32.
    expected = (losses[1] - losses[0]) / 2e-2
    assert float(learned.grad[1]) == pytest.approx(expected, rel=0.05, abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@torch.no_grad()
def test_a_key_value_cache_makes_no_difference(family):
    hf_model, ids = on("native", family).hf_model, tokens(2, 7)
    with on("native", family).attention_temperature({**EVERY, **PER_HEAD}):
        whole = hf_model(ids).logits
        first = hf_model(ids[:, :6], use_cache=True)
        last = hf_model(ids[:, 6:], past_key_values=first.past_key_values).logits
    # One query instead of seven: another order of float32 sums.
    assert_close(last[:, 0], whole[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_it_composes_with_edits_of_scores_and_with_scaled_memory_vectors(backend):
    model, native = on(backend, "qwen3"), on("native", "qwen3")
    ids, mask, _ = left_padded()
    scale = {1: torch.linspace(0.4, 1.6, model.d_mlp)}

    def sharpen(scores, _point):
        return scores * 3

    with (
        model.hooks([(("attention_scores", 0), sharpen), (("mlp_out", 2), lambda t, _p: t * 2)]),
        model.memory_vectors_scaled(scale),
        model.attention_temperature(EVERY),
    ):
        found = model(ids, attention_mask=mask)
    with (
        native.attention_temperature({**EVERY, 0: EVERY[0] / 3}),
        native.hooks(
            [
                (("mlp_coefficients", 1), lambda t, _p: t * scale[1]),
                (("mlp_out", 2), lambda t, _p: t * 2),
            ]
        ),
    ):
        expected = native(ids, attention_mask=mask)
    real = mask.bool()
    # Another attention kernel, in float32, through three layers.
    assert_close(found[real], expected[real], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_one_reader_at_a_time_still():
    model = on("native", "llama")
    with (
        model.attention_temperature(EVERY),
        model.hooks(keeping({})),
        pytest.raises(ValueError, match="already being read; leave that context first"),
        model.attention_entropies(lambda entropies, layer: None),
    ):
        pass
    seen = {}
    with model.hooks(keeping(seen, layers=[0])), model.hooks(keeping(seen, layers=[2])):
        model(tokens(1, 5))
    assert {point.layer for point in seen} == {0, 2}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_small_temperatures_and_pads_give_no_nan(backend, family, dtype):
    """Traps T5 and T7: masked scores that are divided, rows that may attend to nothing."""
    model = probes.load_model(tiny_hf_model(family, dtype), backend=backend)
    ids, mask, _ = left_padded()
    for by in (1e-4, torch.tensor([1e-4, 1.0, 50.0])):
        with model.attention_temperature(dict.fromkeys(range(N_LAYERS), by)):
            assert model(ids, attention_mask=mask)[mask.bool()].isfinite().all()


def test_queries_of_half_precision_are_divided_in_float32_and_rounded_once():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, N_HEADS, 7, 5, generator=generator).bfloat16()
    call = AttentionCall(query, query, query, None, scale=0.3, softcap=None, dropout=0.0)
    found = call.at_temperature(PER_HEAD[0].double())
    for head in range(N_HEADS):
        expected = (query[:, head].double() / float(PER_HEAD[0][head])).float().bfloat16()
        assert_close(found.query[:, head], expected, rtol=0, atol=0)
    assert call.at_temperature(1.5).scale == 0.3 / 1.5


@pytest.mark.parametrize("softcap", [None, 1.3])
def test_a_call_at_several_temperatures_is_scores_over_their_product_before_the_mask(softcap):
    generator = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 2, N_HEADS, 7, 5, generator=generator).double()
    call = AttentionCall(query, key, value, None, scale=0.9, softcap=softcap, dropout=0.0)
    hot = call.at_temperature(0.7).at_temperature(PER_HEAD[0].double()).at_temperature(2)
    for head in range(N_HEADS):
        scores = 0.9 * query[:, head] @ key[:, head].mT
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores / (0.7 * float(PER_HEAD[0][head]) * 2)
        masked = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
        # Float64 throughout; divided one after the other or at once.
        assert_close(hot.scores(slice(0, 7))[:, head], masked, rtol=1e-12, atol=1e-13)
        mixed = masked.softmax(dim=-1) @ value[:, head]
        assert_close(hot.output()[:, :, head], mixed, rtol=1e-11, atol=1e-12)
    assert_close(call.scores(slice(0, 7)), call.at_temperature(1.0).scores(slice(0, 7)))


def test_explicit_attention_drops_out_in_training_as_transformers_does():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 3, N_HEADS, 11, 11, generator=generator)
    # Values of the identity show the pattern itself.
    value = torch.eye(11).expand(3, N_HEADS, -1, -1)
    plain = AttentionCall(query, key, value, None, scale=0.3, softcap=1.3, dropout=0.0).output()
    torch.manual_seed(0)
    dropped = AttentionCall(query, key, value, None, scale=0.3, softcap=1.3, dropout=0.25).output()
    kept = (dropped != 0) & (plain != 0)
    assert_close(dropped[kept], plain[kept] / 0.75)
    # 594 weights: a quarter of them, to three standard deviations.
    assert float(kept.sum() / (plain != 0).sum()) == pytest.approx(0.75, abs=0.055)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ({3: 1.5}, "layer 3 does not exist; .* has layers 0 to 2"),
        ({1: 0.0}, "temperature of layer 1 is 0.0; scores can only be divided by a finite number"),
        ({1: -2}, "temperature of layer 1 is -2; scores can only be"),
        ({1: float("nan")}, "temperature of layer 1 is nan"),
        ({1: torch.tensor([1.0, 0.0, 2.0])}, r"temperature of layer 1 is \[1.0, 0.0, 2.0\]"),
        ({1: torch.ones(4)}, r"has shape \(4,\); pass a number, or one for each of the 3 query he"),
    ],
)
def test_temperatures_that_are_none_are_refused_in_one_line(by, message):
    with pytest.raises(ValueError, match=message) as caught:
        on("native", "llama").attention_temperature(by)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_that_comes_to_none_is_refused_when_it_does(backend):
    model = on(backend, "llama")
    before = model(tokens(1, 5))
    with (
        pytest.raises(ValueError, match=r"temperature of layer 1 is 0\.0; scores can only be"),
        model.attention_temperature({1: lambda: 0.0}),
    ):
        model(tokens(1, 5))
    assert_close(model(tokens(1, 5)), before, rtol=0, atol=0)


def test_attention_that_cannot_be_reached_is_refused_by_name():
    with (
        pytest.raises(ValueError, match="TransformerLens leaves the attention of opt to transform"),
        on("transformer_lens", "opt").attention_temperature(EVERY),
    ):
        pass
