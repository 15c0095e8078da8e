"""Captures against plain hooks on an untouched deep copy; edits against arithmetic by hand."""

import copy

import pytest
import torch
import transformers
from torch.testing import assert_close

import probes
from probes import Site, attention_interface
from tests.models import (
    D_MLP,
    FAMILIES,
    GATED,
    N_LAYERS,
    OWN_ATTENTION,
    SEQUENTIAL,
    on,
    padded,
    tiny_hf_model,
    tiny_model,
    tokens,
)
from tests.reference.entropies import DOWN


def hooked_copy(hf_model, path):
    """What a module of a deep copy receives on the fixed tokens."""
    model, found = copy.deepcopy(hf_model), []
    model.get_submodule(path).register_forward_pre_hook(lambda _m, args: found.append(args[0]))
    with torch.no_grad():
        model(tokens(2, 11))
    return found[0].view(2, 11, -1)  # OPT runs its MLP on [batch*pos d_model]


@pytest.mark.parametrize("family", FAMILIES)
def test_coefficients_are_the_input_of_the_down_projection(family):
    model, site = on("native", family), Site.MLP_COEFFICIENTS
    captured = probes.capture(model, {"input_ids": tokens(2, 11)}, [site])
    for layer in range(N_LAYERS):
        expected = hooked_copy(model.hf_model, DOWN[family].format(layer))
        # Twice the same computation: the same bits.
        assert_close(captured[site, layer], expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", GATED)
def test_coefficients_are_the_activated_gate_times_up(family):
    model = tiny_model(family)
    sites = [Site.MLP_GATE, Site.MLP_UP, Site.MLP_COEFFICIENTS]
    found = probes.capture(model, {"input_ids": tokens(2, 11)}, sites, layers=[1])
    if family.startswith("gemma"):
        gate = torch.nn.functional.gelu(found[Site.MLP_GATE, 1], approximate="tanh")
    else:
        gate = torch.nn.functional.silu(found[Site.MLP_GATE, 1])
    product = gate * found[Site.MLP_UP, 1]
    assert_close(found[Site.MLP_COEFFICIENTS, 1], product, rtol=0, atol=0)


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_ATTENTION])
def test_residual_stream_is_hugging_faces_hidden_states_but_for_the_last(family):
    model = tiny_model(family)
    with torch.no_grad():
        hidden = copy.deepcopy(model.hf_model)(
            tokens(2, 11), output_hidden_states=True, use_cache=False
        ).hidden_states
    sites = [Site.RESID_PRE, Site.RESID_POST, Site.FINAL_NORM, Site.EMBED]
    found = probes.capture(model, {"input_ids": tokens(2, 11)}, sites)
    for layer in range(N_LAYERS):
        assert_close(found[Site.RESID_PRE, layer], hidden[layer], rtol=0, atol=0)
    for layer in range(N_LAYERS - 1):
        assert_close(found[Site.RESID_POST, layer], hidden[layer + 1], rtol=0, atol=0)
    assert_close(found[Site.FINAL_NORM, None], hidden[-1], rtol=0, atol=0)
    assert not torch.allclose(found[Site.RESID_POST, N_LAYERS - 1], hidden[-1])


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_ATTENTION])
def test_blocks_add_attention_and_mlp_to_the_stream(family):
    model = tiny_model(family, torch.float64)
    sites = [Site.RESID_PRE, Site.ATTENTION_OUT, Site.MLP_OUT, Site.RESID_POST]
    found = probes.capture(model, {"input_ids": tokens(2, 11)}, sites)
    for layer in range(N_LAYERS):
        total = sum(found[site, layer] for site in sites[:3])
        # Additions in another order, in float64.
        assert_close(found[Site.RESID_POST, layer], total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", [*SEQUENTIAL, "gpt_neo", "falcon_rw", "bloom", "mpt"])
def test_resid_mid_is_the_stream_plus_attention(family):
    model = tiny_model(family)
    sites = [Site.RESID_PRE, Site.ATTENTION_OUT, Site.RESID_MID]
    found = probes.capture(model, {"input_ids": tokens(2, 11)}, sites)
    expected = found[Site.RESID_PRE, 1] + found[Site.ATTENTION_OUT, 1]
    assert_close(found[Site.RESID_MID, 1], expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_pattern_is_hugging_faces_eager_one_on_padded_rows(family, side):
    model = tiny_model(family)
    ids, mask = padded([11, 5], side)
    eager = copy.deepcopy(model.hf_model)
    eager.set_attn_implementation("eager")
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    with torch.no_grad():
        expected = eager(
            ids, attention_mask=mask, position_ids=positions, output_attentions=True
        ).attentions
    batch = {"input_ids": ids, "attention_mask": mask}
    found = probes.capture(model, batch, [Site.ATTENTION_PATTERN])
    real = mask.bool()
    for layer in range(N_LAYERS):
        rows = found[Site.ATTENTION_PATTERN, layer].transpose(1, 2)[real]
        # Softmax of the same scores in another order of summation, float32.
        assert_close(rows, expected[layer].transpose(1, 2)[real], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_run_with_cache_gives_the_models_logits_and_every_hook_point(family):
    model = tiny_model(family)
    with torch.no_grad():
        expected = copy.deepcopy(model.hf_model)(tokens(2, 11)).logits
        logits, cache = model.run_with_cache(tokens(2, 11), lambda name: "attn.hook" not in name)
        everything = model.run_with_cache(tokens(2, 11))[1]
    assert_close(logits, expected, rtol=0, atol=0)
    assert_close(cache["hook_unembed"], expected, rtol=0, atol=0)
    assert everything.names() == model.hook_names()


def test_names_filter_takes_a_name_a_list_or_a_predicate():
    model = tiny_model("llama")
    name = "blocks.1.mlp.hook_post"
    for names_filter in (name, [name], lambda candidate: candidate == name):
        _, cache = model.run_with_cache(tokens(1, 5), names_filter)
        assert cache.names() == [name]
        assert name in cache
        assert "blocks.0.mlp.hook_post" not in cache
        with pytest.raises(KeyError, match="was not captured"):
            cache["blocks.0.mlp.hook_post"]


def test_hook_pre_is_the_gate_where_there_is_one_and_the_pre_activation_elsewhere():
    for family, site in (("llama", Site.MLP_GATE), ("gpt2", Site.MLP_UP)):
        model = tiny_model(family)
        found = probes.capture(model, {"input_ids": tokens(1, 5)}, [site], layers=[0])
        _, cache = model.run_with_cache(tokens(1, 5), "blocks.0.mlp.hook_pre")
        assert_close(cache["blocks.0.mlp.hook_pre"], found[site, 0], rtol=0, atol=0)


EDITABLE = (
    "hook_embed",
    "blocks.1.hook_resid_pre",
    "blocks.1.attn.hook_attn_scores",
    "blocks.1.attn.hook_pattern",
    "blocks.1.hook_attn_out",
    "blocks.1.mlp.hook_pre",
    "blocks.1.mlp.hook_post",
    "blocks.1.hook_mlp_out",
    "blocks.1.hook_resid_post",
    "ln_final.hook_out",
    "hook_unembed",
)


def uneven(tensor, _point):
    return tensor * torch.linspace(0.4, 1.6, tensor.shape[-1], dtype=tensor.dtype)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_edit_reaches_the_logits_and_is_gone_afterwards(family):
    hf_model, model = on("native", family).hf_model, on("native", family)
    before = hf_model(tokens(1, 7)).logits
    for name in EDITABLE:
        # Scores of causal attention hold -inf, so multiply rather than add; by several factors,
        # since a norm after the MLP would undo one.
        with model.hooks([(name, uneven)]):
            assert not torch.allclose(hf_model(tokens(1, 7)).logits, before), name
        assert_close(hf_model(tokens(1, 7)).logits, before, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_an_edit_of_resid_mid_reaches_both_the_mlp_and_the_stream_past_it(family):
    model = tiny_model(family, torch.float64)
    shift = torch.randn(42, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with model.hooks([((Site.RESID_MID, 1), lambda tensor, _point: tensor + shift)]):
        sites = [Site.RESID_PRE, Site.ATTENTION_OUT, Site.MLP_OUT, Site.RESID_POST]
        found = probes.capture(model, {"input_ids": tokens(1, 7)}, sites, layers=[1])
    stream = found[Site.RESID_PRE, 1] + found[Site.ATTENTION_OUT, 1] + shift
    assert_close(found[Site.RESID_POST, 1], stream + found[Site.MLP_OUT, 1], rtol=1e-12, atol=1e-12)
    unshifted = probes.capture(model, {"input_ids": tokens(1, 7)}, [Site.MLP_OUT], layers=[1])
    assert not torch.allclose(found[Site.MLP_OUT, 1], unshifted[Site.MLP_OUT, 1])


CONTEXTS = {
    "hooks": lambda model: model.hooks([(name, lambda _t, _p: None) for name in EDITABLE]),
    "entropies": lambda model: model.attention_entropies(lambda _entropies, _layer: None),
    "temperature": lambda model: model.attention_temperature({0: 1.7, 2: torch.ones(3)}),
    "memory": lambda model: model.memory_vectors_scaled({1: torch.linspace(0, 2, D_MLP)}),
}


@pytest.mark.parametrize("name", CONTEXTS)
@torch.no_grad()
def test_the_model_is_left_as_it_was_even_after_an_exception(name):
    model, seen = tiny_model("llama"), []
    hf_model = model.hf_model
    keys, attention = list(hf_model.state_dict()), hf_model.config._attn_implementation
    before = hf_model(tokens(1, 5)).logits
    mine = hf_model.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append(1))
    with CONTEXTS[name](model):
        assert list(hf_model.state_dict()) == keys
    with pytest.raises(RuntimeError, match="stop here"), CONTEXTS[name](model):
        raise RuntimeError("stop here")
    assert_close(hf_model(tokens(1, 5)).logits, before, rtol=0, atol=0)
    assert len(seen) == 1, "the user's own hook must survive"
    mine.remove()
    assert list(hf_model.state_dict()) == keys
    assert hf_model.config._attn_implementation == attention
    for module in hf_model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__
        assert not attention_interface._transforms.get(module)
        assert module not in attention_interface._handlers


def test_after_reading_it_the_model_still_trains_and_saves(tmp_path):
    model = tiny_model("llama")
    model.run_with_cache(tokens(1, 5))
    model.hf_model.train()
    model.hf_model(tokens(1, 5), labels=tokens(1, 5)).loss.backward()
    assert all(p.grad is not None for p in model.hf_model.parameters())
    assert model.hf_model.training
    model.hf_model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.hf_model.eval()(tokens(1, 5)).logits
        assert_close(again(tokens(1, 5)).logits, expected, rtol=0, atol=0)


def test_capturing_from_a_model_in_training_mode_sees_no_dropout_and_leaves_it_training():
    hf_model = tiny_hf_model("gpt2")
    model = probes.load_model(hf_model)
    batch = {"input_ids": tokens(2, 11)}
    expected = probes.capture(model, batch, [Site.RESID_POST])[Site.RESID_POST, 2]
    hf_model.train()
    found = probes.capture(model, batch, [Site.RESID_POST])[Site.RESID_POST, 2]
    assert_close(found, expected, rtol=0, atol=0)
    assert hf_model.training
    assert hf_model.transformer.drop.training


def test_streaming_reduces_what_capturing_keeps_and_leaves_out_pads():
    model = tiny_model("llama")
    ids, mask = padded([11, 5], "left")
    batches = [{"input_ids": ids, "attention_mask": mask}, {"input_ids": tokens(3, 7)}]
    name = "blocks.2.mlp.hook_post"
    result = probes.stream(model, batches, {name: probes.RunningMean()})
    kept = []
    for batch in batches:
        captured = probes.capture(model, batch, [probes.Site.MLP_COEFFICIENTS])[name]
        kept.append(captured[batch.get("attention_mask", torch.ones(3, 7)).bool()])
    # Sums of 37 float32 values in float64, in another order.
    assert_close(result[name], torch.cat(kept).double().mean(dim=0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("llama", "blocks.1.mlp.hook_pst", r"nearest is 'blocks.1.mlp.hook_post'"),
        ("llama", "blocks.3.mlp.hook_post", r"layer 3 does not exist; .* has layers 0 to 2"),
        ("gpt2", "blocks.1.mlp.hook_pre_linear", r"nearest is 'blocks.1.mlp.hook_pre'"),
        ("gpt2", ("mlp_gate", 1), r"gpt2 has no gate; its pre-activation is Site.MLP_UP"),
        ("gpt_neox", ("resid_mid", 1), r"gpt_neox runs attention and MLP in parallel"),
    ],
)
def test_hook_points_that_do_not_exist_are_refused(family, name, message):
    model = tiny_model(family)
    with pytest.raises(ValueError, match=message), model.hooks([(name, lambda t, p: None)]):
        pass


def test_reading_attention_twice_at_once_is_refused():
    model = tiny_model("llama")
    hook = [("blocks.1.attn.hook_pattern", lambda tensor, point: None)]
    with (
        model.hooks(hook),
        pytest.raises(ValueError, match="already being read"),
        model.hooks(hook),
    ):
        pass


def test_a_filter_that_selects_nothing_and_a_stream_of_nothing_are_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="selects no hook point"):
        model.run_with_cache(tokens(1, 5), lambda name: False)
    with pytest.raises(ValueError, match="no batches to stream"):
        probes.stream(model, [], {"blocks.0.mlp.hook_post": probes.RunningMean()})
