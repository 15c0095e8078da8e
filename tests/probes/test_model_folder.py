"""Folders of models: a reload computes what the model did, and what was not written is noticed."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import AutoModelForCausalLM, modeling_utils

from probes.model_folder import write_model
from tests.changed_models import CHANGES, Adapted, changed_layers
from tests.models import D_VOCAB, tiny_hf_model, tokens


def written(hf_model, folder, **given):
    folder.mkdir()
    write_model(hf_model, None, folder, **given)
    return folder


def reloaded(folder):
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"], info
    return loaded.eval()


def logits(hf_model):
    with torch.no_grad():
        return hf_model(tokens(2, 11)).logits


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changes_projections_is_merged_under_the_ordinary_names(kind, tmp_path):
    hf_model = tiny_hf_model("qwen2")
    weights = changed_layers(hf_model, kind)
    before = logits(hf_model)
    loaded = reloaded(written(hf_model, tmp_path / "out"))
    assert loaded.state_dict().keys() == tiny_hf_model("qwen2").state_dict().keys()
    for name, weight in weights.items():
        torch.testing.assert_close(loaded.state_dict()[name].double(), weight, rtol=1e-6, atol=1e-6)
    # Merged weights are rounded once; logits of some 10 in float32.
    torch.testing.assert_close(logits(loaded), before, rtol=1e-4, atol=1e-3)
    assert torch.equal(logits(hf_model), before)


def test_a_merged_adapter_is_rounded_once_in_bfloat16(tmp_path):
    hf_model = tiny_hf_model("qwen2", torch.bfloat16)
    weights = changed_layers(hf_model, "adapter", names=("down_proj",))
    for module in hf_model.modules():
        if isinstance(module, Adapted):
            # As peft keeps them: adapters in float32 around a base in half precision.
            assert module.up.dtype is torch.float32
    loaded = reloaded(written(hf_model, tmp_path / "out")).state_dict()
    for name, weight in weights.items():
        assert torch.equal(loaded[name], weight.to(torch.bfloat16))


def _tied_by_hand(hf_model):
    hf_model.lm_head.weight = hf_model.model.embed_tokens.weight


def _tied_as_a_module(hf_model):
    hf_model.model.layers[2].mlp = hf_model.model.layers[0].mlp


def _untied(hf_model):
    hf_model.lm_head = nn.Linear(42, D_VOCAB, bias=False)


def _adapted_tied_head(hf_model):
    hf_model.lm_head = Adapted(hf_model.lm_head, D_VOCAB).eval()


def _resized(hf_model):
    hf_model.resize_token_embeddings(113, mean_resizing=False)


def _adapted_embedding(hf_model):
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False)
    inject_adapter_in_model(config, hf_model)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("qwen2", _tied_by_hand),
        ("qwen2", _tied_as_a_module),
        ("llama", _untied),
        ("llama", _adapted_tied_head),
        ("gemma2", _resized),
        ("qwen2", _adapted_embedding),
    ],
)
@pytest.mark.parametrize("shards", ["5GB", "8KB"])
def test_tied_untied_and_other_heads_come_back(family, change, shards, tmp_path):
    hf_model = tiny_hf_model(family)
    change(hf_model)
    folder = written(hf_model.eval(), tmp_path / "out", max_shard_size=shards)
    torch.testing.assert_close(logits(reloaded(folder)), logits(hf_model), rtol=1e-4, atol=1e-3)


def _taken_out(hf_model):
    del hf_model.model.layers[1]


def _head_with_a_bias(hf_model):
    hf_model.lm_head = nn.Linear(42, D_VOCAB)


def _wider_head(hf_model):
    hf_model.lm_head = nn.Linear(42, 113, bias=False)


def _further_part(hf_model):
    hf_model.value_head = nn.Linear(42, 1)


def _other_norm(hf_model):
    hf_model.model.norm = nn.LayerNorm(42)


def _pruned_norm(hf_model):
    prune.random_unstructured(hf_model.model.norm, "weight", amount=0.3)


def _other_frequencies(hf_model):
    hf_model.model.rotary_emb.inv_freq *= 0.5
    hf_model.model.rotary_emb.original_inv_freq *= 0.5


def _mixed_types(hf_model):
    hf_model.model.norm.double()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_taken_out, r"has no model\.layers\.2"),
        (_head_with_a_bias, "has a bias in lm_head"),
        (_wider_head, r"lm_head\.weight of shape \(113, 42\)"),
        (_further_part, r"holds value_head"),
        (_other_norm, "LayerNorm as model.norm"),
        (_pruned_norm, "not a plain Qwen2RMSNorm"),
        (_other_frequencies, "other rotary frequencies"),
        (_mixed_types, "one type for all"),
        (lambda hf_model: hf_model.to("meta"), "not in memory"),
    ],
)
def test_what_a_reload_would_not_compute_is_refused(change, why, tmp_path):
    hf_model = tiny_hf_model("qwen2")
    change(hf_model)
    with pytest.raises(ValueError, match=why) as refusal:
        written(hf_model, tmp_path / "out")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("fault", ["another value", "left out", "another name"])
def test_a_file_that_does_not_hold_what_was_written_is_noticed(fault, tmp_path, monkeypatch):
    save = modeling_utils.safe_save_file

    def faulty(tensors, path, **given):
        name = "model.layers.1.mlp.up_proj.weight"
        weight = tensors.pop(name).clone()
        weight[3, 5] = torch.nextafter(weight[3, 5], torch.tensor(9.0))
        if fault != "left out":
            tensors[name if fault == "another value" else "model.up"] = weight
        save(tensors, path, **given)

    monkeypatch.setattr(modeling_utils, "safe_save_file", faulty)
    with pytest.raises(ValueError, match="does not hold what was written"):
        written(tiny_hf_model("qwen2"), tmp_path / "out")


def test_a_model_with_values_that_are_not_finite_is_still_compared_bit_by_bit(tmp_path):
    hf_model = tiny_hf_model("llama")
    hf_model.model.embed_tokens.weight.data[3, 5] = torch.nan
    loaded = reloaded(written(hf_model, tmp_path / "out"))
    assert loaded.model.embed_tokens.weight[3].isnan().tolist() == [i == 5 for i in range(42)]
    # Still tied: NaN differs from itself, but there is one tensor.
    assert loaded.config.tie_word_embeddings


def test_a_generation_configuration_that_transformers_will_not_save_is_kept_as_it_is(tmp_path):
    """Llama 2's released one: a temperature, and no sampling."""
    hf_model = tiny_hf_model("llama")
    hf_model.generation_config.temperature = 0.9
    hf_model.generation_config.top_p = 0.6
    with pytest.raises(ValueError, match="temperature"):
        hf_model.save_pretrained(tmp_path / "plain")
    folder = written(hf_model, tmp_path / "out")
    kept = json.loads((folder / "generation_config.json").read_text())
    assert (kept["temperature"], kept["top_p"]) == (0.9, 0.6)
    found = reloaded(folder).generation_config
    assert (found.temperature, found.top_p, found.do_sample) == (0.9, 0.6, None)


def test_a_generation_configuration_that_json_does_not_take_is_refused(tmp_path):
    hf_model = tiny_hf_model("llama")
    hf_model.generation_config.bad_words_ids = [torch.tensor([5])]
    with pytest.raises(ValueError, match="cannot be saved"):
        written(hf_model, tmp_path / "out")
