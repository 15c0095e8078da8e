"""Models changed after loading: what is measured and read is what they compute now."""

import pytest
import torch
from torch import nn

import probes
from tests.changed_models import CHANGES, Adapted, changed_layers, with_weights
from tests.models import D_MLP, D_VOCAB, N_LAYERS, tiny_hf_model, tiny_model, tokens


def contribution(model):
    batches = [{"input_ids": tokens(3, 11)}]
    result = probes.measure_entropy(model, batches, ("knowledge",), coefficient="contribution")
    return result.knowledge


@pytest.mark.parametrize("kind", CHANGES)
def test_memory_vectors_and_hook_points_are_those_of_the_merged_model(kind):
    """Against a plain model with the weights that follow from the change by hand."""
    model = tiny_model("qwen2")
    stale = contribution(model)
    weights = changed_layers(model.hf_model, kind)
    merged = with_weights(tiny_hf_model("qwen2"), weights)
    with torch.no_grad():
        for layer in range(N_LAYERS):
            expected = weights[f"model.layers.{layer}.mlp.down_proj.weight"].T
            found = model.anatomy.layers[layer].memory_vectors.double()
            # A float32 weight, made of others in float32.
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    kept = {}
    mlp = merged.model.layers[1].mlp
    mlp.gate_proj.register_forward_hook(lambda _m, _x, out: kept.update(pre=out))
    mlp.up_proj.register_forward_hook(lambda _m, _x, out: kept.update(linear=out))
    with torch.no_grad():
        merged(tokens(2, 7))
    _, cache = model.run_with_cache(tokens(2, 7), lambda name: "blocks.1.mlp" in name)
    for point in ("pre", "pre_linear"):
        expected = kept[point.removeprefix("pre_")]
        # Float32 products in another order, of values up to some 30.
        torch.testing.assert_close(
            cache[f"blocks.1.mlp.hook_{point}"], expected, rtol=1e-4, atol=1e-3
        )
    expected = contribution(probes.load_model(merged))
    found = contribution(model)
    assert found.total == pytest.approx(expected.total, abs=1e-5)
    assert abs(found.total - stale.total) > 1e-3


@pytest.mark.parametrize(
    ("family", "kind"),
    [("gpt2", "adapter"), ("gpt2", "peft"), ("gpt2", "pruning"), ("phi3", "adapter")],
)
def test_a_change_of_a_transposed_or_a_fused_models_projection_is_read_too(family, kind):
    model = tiny_model(family)
    down = "c_proj" if family == "gpt2" else "down_proj"
    mlp = model.anatomy.layers[1].mlp
    weight = CHANGES[kind](mlp, down)
    expected = weight if family == "gpt2" else weight.T
    found = model.anatomy.layers[1].memory_vectors.double()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert (model.d_mlp, model.d_model) == (D_MLP, 42)


def next_token_entropy(hf_model, ids):
    with torch.no_grad():
        log_probs = hf_model(ids).logits.double().log_softmax(dim=-1)
    return float(-(log_probs.exp() * log_probs).sum(dim=-1).mean())


def _another_head(hf_model):
    hf_model.lm_head = nn.Linear(42, D_VOCAB)


def _larger_vocabulary(hf_model):
    hf_model.resize_token_embeddings(113, mean_resizing=False)


def _adapted_head(hf_model):
    hf_model.lm_head = Adapted(hf_model.lm_head, D_VOCAB).eval()


def _another_trunk(hf_model):
    hf_model.model = tiny_hf_model("qwen2", seed=3).model


@pytest.mark.parametrize(
    "change", [_another_head, _larger_vocabulary, _adapted_head, _another_trunk]
)
def test_the_readout_is_what_the_model_has_now(change):
    model = tiny_model("qwen2")
    model("w1 w2")
    change(model.hf_model)
    ids = tokens(2, 11)
    result = probes.measure_entropy(model, [{"input_ids": ids}], ("next_token",))
    expected = next_token_entropy(model.hf_model, ids)
    assert result.next_token.mean == pytest.approx(expected, abs=1e-5)
    assert model.d_vocab == model.hf_model(ids).logits.shape[-1]
    lens = probes.target_log_probs(model, [([5, 6, 7], [8])])
    plain = model.hf_model(torch.tensor([[5, 6, 7]])).logits[0, -1].log_softmax(dim=-1)[8]
    assert float(lens[0]) == pytest.approx(float(plain.detach()), abs=1e-5)


def test_layers_taken_out_are_not_counted_and_layers_that_do_not_run_are_refused():
    model = tiny_model("qwen2")
    del model.hf_model.model.layers[1]
    assert model.n_layers == N_LAYERS - 1
    logits, cache = model.run_with_cache(tokens(2, 7))
    torch.testing.assert_close(logits, model.hf_model(tokens(2, 7)).logits)
    assert f"blocks.{N_LAYERS - 1}.hook_resid_post" not in cache
    model.hf_model.config.num_hidden_layers = 1
    model.hf_model.model.layers.append(tiny_hf_model("qwen2").model.layers[2])
    with pytest.raises(ValueError, match="does not run in a forward pass"):
        model.run_with_cache(tokens(2, 7))
    with pytest.raises(ValueError, match="does not run in a forward pass"):
        _ = model.n_layers


@pytest.mark.parametrize("shared", ["block", "mlp"])
def test_layers_that_share_a_module_are_refused(shared):
    """A hook on it would see the later of them in the earlier one's name."""
    model = tiny_model("qwen2")
    layers = model.hf_model.model.layers
    if shared == "block":
        layers[2] = layers[0]
    else:
        layers[2].mlp = layers[0].mlp
    with pytest.raises(ValueError, match=f"layers 0 and 2 of this qwen2 share .*{shared}"):
        model.run_with_cache(tokens(2, 7))


def test_what_is_no_linear_map_is_refused_where_it_stands_for_one():
    class Bent(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, received):
            return self.base(received.tanh())

    model = tiny_model("qwen2")
    mlp = model.hf_model.model.layers[2].mlp
    mlp.down_proj = Bent(mlp.down_proj)
    with pytest.raises(ValueError, match="Bent stands where a linear map is needed"):
        contribution(model)


def test_modules_are_not_replaced_under_hooks():
    model = tiny_model("qwen2")
    mlp = model.hf_model.model.layers[2].mlp
    with model.hooks([("blocks.2.mlp.hook_post", lambda tensor, _point: tensor)]):
        mlp.down_proj = Adapted(mlp.down_proj, 42)
        with pytest.raises(ValueError, match="replaced while hooks or edits are attached"):
            model(tokens(1, 3))
    # Afterwards it is looked at again.
    assert type(model.anatomy.layers[2].down) is Adapted


def test_an_adapted_model_on_the_other_backends():
    """nnsight runs its modules; a bridge takes their weights by name, so it does not get it."""
    hf_model = tiny_hf_model("qwen2")
    changed_layers(hf_model, "adapter")
    native, traced = probes.load_model(hf_model), probes.load_model(hf_model, backend="nnsight")
    name = "blocks.1.mlp.hook_pre"
    expected = native.run_with_cache(tokens(2, 7), name)
    found = traced.run_with_cache(tokens(2, 7), name)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1][name], expected[1][name])
    with pytest.raises(ValueError, match=r"\(Adapted\) does not hold"):
        probes.load_model(hf_model, backend="transformer_lens")
    traced.hf_model.lm_head = nn.Linear(42, D_VOCAB)
    with pytest.raises(ValueError, match="replaced since nnsight has wrapped"):
        traced(tokens(2, 7))


def test_a_pruned_model_is_not_copied_for_another_backend():
    hf_model = tiny_hf_model("qwen2")
    changed_layers(hf_model, "pruning")
    with pytest.raises(ValueError, match="cannot be copied"):
        probes.load_model(hf_model, backend="nnsight")


# peft asks by a name that transformers gives up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_peft_model_is_read_through_its_adapters():
    from peft import LoraConfig, PromptTuningConfig, get_peft_model

    hf_model = tiny_hf_model("qwen2")
    config = LoraConfig(r=2, target_modules=["down_proj", "lm_head"], init_lora_weights=False)
    with_adapters = get_peft_model(hf_model, config).eval()
    model = probes.load_model(with_adapters)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens(2, 7)), with_adapters(tokens(2, 7)).logits)
    expected = contribution(model)
    merged = probes.load_model(with_adapters.merge_and_unload())
    assert contribution(merged).total == pytest.approx(expected.total, abs=1e-5)
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ValueError, match="stand outside of the model"):
        probes.load_model(get_peft_model(tiny_hf_model("qwen2"), prompts))
