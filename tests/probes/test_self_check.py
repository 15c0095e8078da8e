"""A table that does not describe a model is found out when the model is loaded."""

import dataclasses

import pytest
import torch

import probes
from probes import architectures
from tests.models import FAMILIES, OWN_ATTENTION, tiny_hf_model


@pytest.mark.parametrize("family", [*FAMILIES, *OWN_ATTENTION])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_family_passes_in_every_type(family, dtype):
    assert probes.load_model(tiny_hf_model(family, dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {"final_norm": "transformer.h.0.ln_1"}, "gpt2: readout of the last layer differs"),
        ("olmo", {"down": "self_attn.o_proj"}, "olmo: activated branches of layer 0 differs"),
        ("qwen2", {"up": "mlp.gate_proj", "gate": "mlp.up_proj"}, "qwen2: activated branches of"),
        ("gemma2", {"attention_out": "self_attn"}, "stream plus attention plus MLP of layer 0"),
        ("olmo2", {"mlp_out": "post_attention_layernorm"}, "coefficients times memory vectors"),
        ("llama", {"up": "mlp.wide"}, "LlamaDecoderLayer has no module 'mlp.wide'"),
    ],
)
def test_a_row_that_does_not_describe_the_model_is_found_out(monkeypatch, family, changes, message):
    row = dataclasses.replace(architectures.ARCHITECTURES[family], **changes)
    monkeypatch.setitem(architectures.ARCHITECTURES, family, row)
    with pytest.raises(ValueError, match=message):
        probes.load_model(tiny_hf_model(family))


def test_layers_of_different_width_are_refused():
    hf_model = tiny_hf_model("llama")
    hf_model.model.layers[1].mlp.down_proj = torch.nn.Linear(31, 42, bias=False)
    with pytest.raises(ValueError, match=r"differ in d_mlp: found \[29, 31\]"):
        probes.load_model(hf_model)


def test_the_model_is_left_without_hooks_and_in_its_mode():
    hf_model = tiny_hf_model("gpt2").train()
    probes.load_model(hf_model)
    assert hf_model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in hf_model.modules())
