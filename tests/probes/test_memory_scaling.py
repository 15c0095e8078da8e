"""Scaled memory vectors against a deep copy whose down projections were really multiplied."""

import copy
import pickle

import pytest
import torch
from torch.testing import assert_close

import probes
from probes.attach import memory_vectors_scaled
from tests.models import (
    BACKENDS,
    D_MLP,
    FAMILIES,
    N_LAYERS,
    across,
    on,
    padded,
    tiny_hf_model,
    tokens,
)
from tests.reference.entropies import DOWN


def multipliers(layers=(0, 2), seed=0):
    """Uneven ones, of both signs, with a zero."""
    generator = torch.Generator().manual_seed(seed)
    found = {layer: 0.3 + 2 * torch.rand(D_MLP, generator=generator) for layer in layers}
    for of_layer in found.values():
        of_layer[3], of_layer[5] = 0.0, -1.5
    return found


def scaled_copy(hf_model, family, by):
    """The model with other weights: rows of a `Conv1D`, columns of a `Linear`."""
    model = copy.deepcopy(hf_model)
    with torch.no_grad():
        for layer, of_layer in by.items():
            weight = model.get_submodule(DOWN[family].format(layer)).weight
            weight *= of_layer[:, None] if family == "gpt2" else of_layer
    return model


def run_on(hf_model, family, ids, mask):
    """Logits of an untouched Hugging Face model, and what its down projections received."""
    coefficients, handles = {}, []
    for layer in range(N_LAYERS):

        def keep(_module, args, layer=layer):
            coefficients[layer] = args[0].detach().view(*ids.shape, -1)

        down = hf_model.get_submodule(DOWN[family].format(layer))
        handles.append(down.register_forward_pre_hook(keep))
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    logits = hf_model(ids, attention_mask=mask, position_ids=positions).logits
    for handle in handles:
        handle.remove()
    return logits, coefficients


@pytest.mark.parametrize(("backend", "family"), across(FAMILIES, BACKENDS))
@torch.no_grad()
def test_it_is_the_model_with_scaled_weights_and_captures_see_unscaled_coefficients(
    backend, family
):
    model, by, seen = on(backend, family), multipliers(), {}
    ids, mask = padded([11, 5], "left")
    expected, coefficients = run_on(
        scaled_copy(tiny_hf_model(family), family, by), family, ids, mask
    )

    def keep(where):
        def hook(tensor, point):
            seen[where, point.layer] = tensor

        return [(("mlp_coefficients", layer), hook) for layer in range(N_LAYERS)]

    before = model(ids, attention_mask=mask)
    with (
        model.hooks(keep("outside")),
        model.memory_vectors_scaled(by),
        model.hooks(keep("inside")),
    ):
        found = model(ids, attention_mask=mask)
    real = mask.bool()
    # (c u) @ W against c @ (u W) in float32, through three layers and perhaps eager attention.
    assert_close(found[real], expected[real], rtol=1e-4, atol=2e-4)
    for layer in range(N_LAYERS):
        of_layer = coefficients[layer][real]
        assert_close(seen["outside", layer][real], of_layer, rtol=1e-4, atol=2e-4)
        assert_close(seen["inside", layer], seen["outside", layer], rtol=0, atol=0)
    assert not torch.allclose(found[real], before[real], rtol=1e-2, atol=1e-2)
    assert_close(model(ids, attention_mask=mask), before, rtol=0, atol=0)


def assert_gradients_are_those_of_scaled_weights(hf_model, family, by, run):
    reference = scaled_copy(hf_model, family, by)
    reference(tokens(2, 7)).logits.square().mean().backward()
    run()
    for name, parameter in reference.named_parameters():
        expected = parameter.grad
        for layer, of_layer in by.items():
            if name == f"{DOWN[family].format(layer)}.weight":
                expected = expected * (of_layer[:, None] if family == "gpt2" else of_layer)
        # Products in another order, in float64.
        found = hf_model.get_parameter(name).grad
        assert_close(found, expected, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_the_scaled_weights_times_the_multipliers(family):
    hf_model = tiny_hf_model(family, torch.float64)
    model = probes.load_model(hf_model)
    by = {layer: of_layer.double() for layer, of_layer in multipliers().items()}

    def run():
        with model.memory_vectors_scaled(by):
            hf_model(tokens(2, 7)).logits.square().mean().backward()

    assert_gradients_are_those_of_scaled_weights(hf_model, family, by, run)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt_neox"])  # none of which has dropout
def test_gradient_checkpointing_recomputes_what_was_scaled(family):
    hf_model, calls = tiny_hf_model(family, torch.float64), []
    model = probes.load_model(hf_model)
    by = {layer: of_layer.double() for layer, of_layer in multipliers().items()}

    def run():
        hf_model.train().activation_checkpointing_enable()
        down = hf_model.get_submodule(DOWN[family].format(1))
        down.register_forward_pre_hook(lambda *_: calls.append(1))
        with model.memory_vectors_scaled(by):
            hf_model(tokens(2, 7)).logits.square().mean().backward()

    assert_gradients_are_those_of_scaled_weights(hf_model, family, by, run)
    assert len(calls) >= 2, "nothing was recomputed"


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_reach_the_multipliers(backend):
    model = on(backend, "mistral")
    factor = torch.ones(D_MLP, requires_grad=True)
    with model.memory_vectors_scaled({1: factor}):
        model(tokens(1, 5)).square().mean().backward()
    losses = []
    for step in (-1e-2, 1e-2):
        by = torch.ones(D_MLP)
        by[7] += step
        with torch.no_grad(), on("native", "mistral").memory_vectors_scaled({1: by}):
            losses.append(float(on("native", "mistral")(tokens(1, 5)).square().mean()))
    # A central difference in float32.
    assert float(factor.grad[7]) == pytest.approx((losses[1] - losses[0]) / 2e-2, rel=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_nested_scalings_multiply_and_come_off_one_by_one(backend):
    model, first, second = on(backend, "llama"), multipliers(), multipliers((1, 2), seed=1)
    product = {0: first[0], 1: second[1], 2: first[2] * second[2]}
    with model.memory_vectors_scaled(first):
        once = model(tokens(1, 5))
        with model.memory_vectors_scaled(second):
            both = model(tokens(1, 5))
        assert_close(model(tokens(1, 5)), once, rtol=0, atol=0)
        # The same tensors again: twice on, then once.
        with model.memory_vectors_scaled(first):
            squared = model(tokens(1, 5))
        assert_close(model(tokens(1, 5)), once, rtol=0, atol=0)
    with model.memory_vectors_scaled(product):
        # c u v in another order, in float32.
        assert_close(model(tokens(1, 5)), both, rtol=1e-4, atol=1e-4)
    with model.memory_vectors_scaled({layer: by**2 for layer, by in first.items()}):
        assert_close(model(tokens(1, 5)), squared, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_it_comes_after_edits_of_the_coefficients_and_before_the_projections_output(backend):
    model, by, seen = on(backend, "gpt2"), multipliers((1,)), {}

    def keep(tensor, point):
        seen[point.site] = tensor

    hooks = [(("mlp_coefficients", 1), lambda t, _p: t * 0 + 1), (("mlp_out", 1), keep)]
    with model.memory_vectors_scaled(by), model.hooks(hooks):
        model(tokens(1, 3))
    # Coefficients of one: the scaled memory vectors summed, plus the bias, which is not scaled.
    down = tiny_hf_model("gpt2").transformer.h[1].mlp.c_proj
    expected = (by[1][:, None] * down.weight).sum(dim=0) + down.bias
    assert_close(seen["mlp_out"], expected.expand(1, 3, -1), rtol=1e-4, atol=1e-4)


def test_half_precision_coefficients_are_multiplied_in_float32_and_rounded_once():
    generator = torch.Generator().manual_seed(0)
    down = torch.nn.Linear(D_MLP, D_MLP, bias=False, dtype=torch.bfloat16)
    down.weight.data = torch.eye(D_MLP, dtype=torch.bfloat16)
    coefficients = torch.randn(5, D_MLP, generator=generator).bfloat16()
    by = torch.rand(D_MLP, generator=generator, dtype=torch.float64)
    with memory_vectors_scaled({down: by}):
        found = down(coefficients)
    # Float64 rounded through float32 meets the one rounding but for rare ties.
    expected = (coefficients.double() * by).float().bfloat16()
    assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, coefficients * by.bfloat16())


@torch.no_grad()
def test_a_forward_that_someone_else_put_on_runs_and_stays():
    hf_model = tiny_hf_model("llama")
    down = hf_model.model.layers[1].mlp.down_proj
    plain, by = down.forward, multipliers((1,))
    model = probes.load_model(hf_model)

    def theirs(x):
        return plain(x) * 3

    down.forward = theirs
    x = torch.randn(2, D_MLP, generator=torch.Generator().manual_seed(0))
    with model.memory_vectors_scaled(by):
        assert_close(down(x), plain(x * by[1]) * 3, rtol=0, atol=0)
    assert down.forward is theirs


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@torch.no_grad()
def test_a_copy_made_meanwhile_runs_its_own_weights_unscaled(how):
    hf_model = tiny_hf_model("llama")
    before = hf_model(tokens(1, 5)).logits
    with probes.load_model(hf_model).memory_vectors_scaled(multipliers()):
        copied = how(hf_model)
        assert_close(copied(tokens(1, 5)).logits, before, rtol=0, atol=0)
        copied.model.layers[2].mlp.down_proj.weight.zero_()
        assert not torch.allclose(copied(tokens(1, 5)).logits, before)


@torch.no_grad()
def test_the_bridge_itself_runs_scaled_when_it_is_called_directly():
    model, by = on("transformer_lens", "phi3"), multipliers()
    expected = scaled_copy(tiny_hf_model("phi3"), "phi3", by)(tokens(1, 5)).logits
    with model.memory_vectors_scaled(by):
        found = model.wrapped(tokens(1, 5))
    assert_close(found, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_entropies_measured_meanwhile_are_those_of_the_scaled_weights(backend):
    batches, by = [{"input_ids": tokens(3, 11)}], multipliers()
    expected = probes.measure_entropy(
        probes.load_model(scaled_copy(tiny_hf_model("qwen2"), "qwen2", by)), batches
    )
    model = on(backend, "qwen2")
    with model.memory_vectors_scaled(by):
        found = probes.measure_entropy(model, batches)
    # Float32 activations of another order; entropies are of order one.
    assert_close(found.mean_coefficients, expected.mean_coefficients, rtol=1e-4, atol=1e-6)
    assert_close(found.attention.per_head, expected.attention.per_head, rtol=1e-4, atol=1e-4)
    assert found.next_token.mean == pytest.approx(expected.next_token.mean, rel=1e-4)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ({3: torch.ones(D_MLP)}, "layer 3 does not exist; .* has layers 0 to 2"),
        ({1: torch.ones(D_MLP + 1)}, r"multipliers of layer 1 have shape \(30,\); pass one for ea"),
        ({1: torch.full((D_MLP,), torch.nan)}, "29 of the 29 multipliers of layer 1 are not fini"),
    ],
)
def test_multipliers_that_do_not_fit_are_refused_in_one_line(by, message):
    with pytest.raises(ValueError, match=message) as caught:
        on("native", "llama").memory_vectors_scaled(by)
    assert "\n" not in str(caught.value)
