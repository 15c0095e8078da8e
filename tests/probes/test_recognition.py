"""Families without a row: recognised by what their modules do, or refused with the reason."""

import dataclasses
from functools import cache

import pytest
import torch
import transformers
from torch.testing import assert_close

import probes
from probes.anatomy import recognise
from probes.architectures import row_of
from tests.models import FAMILIES, N_LAYERS, tiny_hf_model, tokens
from tests.reference import entropies as reference

SIZES = {
    "vocab_size": 101,
    "hidden_size": 42,
    "intermediate_size": 29,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "max_position_embeddings": 61,
    "initializer_range": 0.25,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@cache
def unknown_model(name, **changes):
    config = getattr(transformers, f"{name}Config")(**SIZES | changes)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).double().eval()


# A parallel block, a partly rotated one in two forms, one layer in four without positions, a fused
# [gate; up], an MLP without a gate, and outputs multiplied before they are added.
UNKNOWN = {
    "Cohere": {},
    "StableLm": {"partial_rotary_factor": 0.5, "hidden_size": 48},
    "SmolLM3": {},
    "Glm": {"head_dim": 14},
    "Arcee": {},
    "Granite": {"residual_multiplier": 0.3, "logits_scaling": 3.0, "attention_multiplier": 0.2},
}


@pytest.mark.parametrize("family", [*FAMILIES, "gptj", "codegen", "gpt_neo", "falcon_rw"])
def test_recognition_makes_up_the_row_that_the_table_has(family):
    hf_model = tiny_hf_model(family)
    expected = dataclasses.replace(row_of(hf_model.config), recognised=True, pos_embed=None)
    if expected.q == expected.k:
        # How one projection holds all three cannot be seen.
        unknown = dict.fromkeys("qkvo", None)
        expected = dataclasses.replace(expected, **unknown, qkv_order="qkv", qkv_groups=1)
    assert recognise(hf_model) == expected


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_family_is_recognised_and_measured(name):
    hf_model = unknown_model(name, **UNKNOWN[name])
    model = probes.load_model(hf_model)
    assert model.architecture.recognised
    rows = [tokens(1, length, length)[0].tolist() for length in (7, 5)]
    result = probes.measure_entropy(model, [{"input_ids": torch.tensor([row])} for row in rows])
    means = reference.mean_coefficients(hf_model, "llama", rows, "instance")
    # float64; Hugging Face's eager softmax, the reference of attention entropy, is float32.
    assert_close(result.mean_coefficients.numpy(), means, rtol=1e-9, atol=0)
    heads = reference.attention_entropy(hf_model, rows)
    assert_close(result.attention.per_head.numpy(), heads, rtol=1e-6, atol=1e-6)
    expected = reference.next_token_entropy(hf_model, rows)
    assert result.next_token.mean == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_parallel_block_is_told_from_a_sequential_one(parallel):
    changes = UNKNOWN["StableLm"] | {"use_parallel_residual": parallel}
    row = recognise(unknown_model("StableLm", **changes))
    assert row.mid == (None if parallel else "post_attention_layernorm")


@pytest.mark.parametrize("site", ["attention_out", "mlp_out", "resid_mid"])
def test_sites_that_do_not_add_up_to_the_stream_are_refused(site):
    model = probes.load_model(unknown_model("Granite", **UNKNOWN["Granite"]))
    with pytest.raises(ValueError, match=f"granite was recognised .* there is no {site}, read"):
        probes.capture(model, {"input_ids": tokens(1, 5)}, [site])
    absent = ("hook_resid_mid", "hook_attn_out", "hook_mlp_out")
    assert not any(name.endswith(absent) for name in model.hook_names())


@pytest.mark.parametrize("name", ["Mixtral", "Olmoe", "Qwen2Moe"])
def test_mixtures_of_experts_are_refused_with_the_reason(name):
    message = rf"{name}ForCausalLM .* is a mixture of experts: .*experts.gate_up_proj is one three-"
    with pytest.raises(ValueError, match=message):
        probes.load_model(unknown_model(name, num_experts=2, num_local_experts=2))


def test_a_model_whose_attention_cannot_be_told_is_refused_by_name():
    """Differential attention calls the attention function twice in a block."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    message = r"family 'diffllama' is not in .* not every block has one module that calls an atten"
    with pytest.raises(ValueError, match=message):
        probes.load_model(unknown_model("DiffLlama", head_dim=14, hidden_size=56, **heads))


def test_a_model_that_does_not_run_is_refused_by_name():
    """Rotations of another width than what they rotate, in a model that is built without a word."""
    hf_model = unknown_model("SmolLM3", head_dim=14)
    inverse = hf_model.model.rotary_emb.inv_freq
    hf_model.model.rotary_emb.inv_freq = torch.ones(3)
    try:
        with pytest.raises(ValueError, match=r"'smollm3' is not .*: it does not run"):
            probes.load_model(hf_model)
        assert probes.load_model(tiny_hf_model("llama"))
    finally:
        hf_model.model.rotary_emb.inv_freq = inverse


def test_modules_that_return_something_else_are_refused_by_name():
    """Blocks of the first GPT return a list, and norm what they add to."""
    config = transformers.OpenAIGPTConfig(vocab_size=101, n_embd=42, n_layer=2, n_head=3)
    with pytest.raises(ValueError, match="what the modules of a openai-gpt do is not understood"):
        probes.load_model(transformers.OpenAIGPTLMHeadModel(config))


def test_a_mask_that_adds_to_scores_is_a_bias():
    """Doge adds to its scores what each key's value says; its MLP is dense here."""
    hf_model = unknown_model("Doge", keep_window_size=61)
    for layer in hf_model.model.layers:
        layer.self_attn.A.data = torch.tensor([0.7, -1.3, 0.4], dtype=torch.float64)
    rows = [tokens(1, length, length)[0].tolist() for length in (7, 5)]
    batches = [{"input_ids": torch.tensor([row])} for row in rows]
    result = probes.measure_entropy(probes.load_model(hf_model), batches)
    heads = reference.attention_entropy(hf_model, rows)
    # Hugging Face's eager softmax is float32.
    assert_close(result.attention.per_head.numpy(), heads, rtol=1e-6, atol=1e-6)


def test_the_text_model_of_llama_4_without_experts_is_measured():
    """Its base model is, for transformers, the model itself."""
    sizes = SIZES | {"intermediate_size_mlp": 29, "head_dim": 14, "moe_layers": []}
    torch.manual_seed(0)
    hf_model = transformers.Llama4ForCausalLM(transformers.Llama4TextConfig(**sizes)).eval()
    ids = tokens(2, 11)
    result = probes.measure_entropy(probes.load_model(hf_model), [{"input_ids": ids}])
    with torch.no_grad():
        p = hf_model(ids).logits.double().log_softmax(-1)
    # float32 logits.
    assert result.next_token.mean == pytest.approx(float(-(p.exp() * p).sum(-1).mean()), rel=1e-5)


def test_an_mlp_that_does_something_else_is_refused():
    hf_model = unknown_model("Arcee", mlp_bias=True)
    hf_model.config.hidden_act = "gelu"
    with pytest.raises(ValueError, match=r"what mlp\.down_proj receives is neither an act"):
        probes.load_model(hf_model)


def test_opt_350m_is_refused_with_its_reasons():
    sizes = {"hidden_size": 42, "num_attention_heads": 3, "ffn_dim": 29, "num_hidden_layers": 2}
    for changes, message in (
        ({"do_layer_norm_before": False}, "norms the residual stream itself"),
        ({"word_embed_proj_dim": 31}, "projects its stream from 42 to 31 after the final norm"),
    ):
        config = transformers.OPTConfig(
            vocab_size=101, **sizes | {"word_embed_proj_dim": 42} | changes
        )
        with pytest.raises(ValueError, match=message):
            probes.load_model(transformers.OPTForCausalLM(config))
