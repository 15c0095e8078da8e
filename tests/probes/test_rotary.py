"""Rotary frequencies: a model cast in memory computes what a reload of it computes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTJConfig

import probes
from probes.rotary import Frequencies
from tests.models import tiny_hf_model, tokens

ROTARY = ("llama", "gemma3_text", "gpt_neox", "olmo2", "phi3")


def reload_of(hf_model, folder):
    hf_model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def logits(hf_model):
    with torch.no_grad():
        return hf_model(tokens(2, 59)).logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ROTARY)
def test_a_cast_model_computes_what_its_reload_computes(family, dtype, tmp_path):
    hf_model = tiny_hf_model(family).to(dtype)
    loaded = reload_of(hf_model, tmp_path)
    assert not torch.equal(logits(hf_model), logits(loaded))
    with pytest.warns(UserWarning, match="rotary frequencies .* were rounded"):
        model = probes.load_model(hf_model)
    assert torch.equal(logits(model.hf_model), logits(loaded))
    assert model.content_hash() == probes.load_model(loaded).content_hash()


def test_sinusoids_in_every_attention_are_mended_like_frequencies(tmp_path):
    """GPT-J and CodeGen keep them beside their projections, which stay as they are."""
    config = GPTJConfig(
        vocab_size=101, n_positions=61, n_embd=42, n_layer=3, n_head=3, rotary_dim=6
    )
    state = torch.get_rng_state()
    torch.manual_seed(3)
    hf_model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()
    torch.set_rng_state(state)
    loaded = reload_of(hf_model, tmp_path)
    attention = hf_model.transformer.h[1].attn
    with pytest.warns(UserWarning, match="rotary frequencies"):
        Frequencies(hf_model, "it")
    assert torch.equal(attention.embed_positions, loaded.transformer.h[1].attn.embed_positions)
    assert torch.equal(logits(hf_model), logits(loaded))


def test_a_trunk_put_in_later_is_mended_too():
    model = probes.load_model(tiny_hf_model("llama", torch.bfloat16))
    model.hf_model.model = tiny_hf_model("llama", seed=1).to(torch.bfloat16).model
    with pytest.warns(UserWarning, match="rotary frequencies"):
        model(tokens(1, 5))
    assert model.hf_model.model.rotary_emb.inv_freq.dtype is torch.float32


def test_a_cast_after_loading_and_a_cast_there_and_back_are_mended_too(tmp_path):
    model = probes.load_model(tiny_hf_model("llama"))
    right = model.hf_model.model.rotary_emb.inv_freq.clone()
    model.hf_model.to(torch.float16)
    with pytest.warns(UserWarning, match="rotary frequencies"):
        model(tokens(1, 5))
    assert torch.equal(model.hf_model.model.rotary_emb.inv_freq, right)
    back = tiny_hf_model("llama").to(torch.bfloat16).float()
    with pytest.warns(UserWarning, match="rotary frequencies"):
        assert torch.equal(probes.load_model(back).hf_model.model.rotary_emb.inv_freq, right)
    # A wider type holds them as they are.
    assert probes.load_model(tiny_hf_model("llama").double()).dtype is torch.float64


def test_frequencies_that_somebody_has_set_stay_and_are_hashed():
    hf_model = tiny_hf_model("llama")
    ordinary = probes.load_model(hf_model).content_hash()
    rotary = hf_model.model.rotary_emb
    own = rotary.inv_freq / 4
    rotary.inv_freq, rotary.original_inv_freq = own, own.clone()
    model = probes.load_model(hf_model)
    assert torch.equal(rotary.inv_freq, own)
    assert model.content_hash() != ordinary
