"""Rows of MLPs multiplied one by one, from a table of parameter names."""

from typing import Any

import torch

from tests.models import D_MLP

_LLAMA = {
    "up": ("model.layers.{}.mlp.up_proj", 0, 0),
    "gate": ("model.layers.{}.mlp.gate_proj", 0, 0),
    "down": ("model.layers.{}.mlp.down_proj", 1, 0),
}
# Name of the projection, axis of its weight along which neurons lie, row of neuron 0.
PLACES = {
    **dict.fromkeys(("llama", "mistral", "olmo", "olmo2", "olmo3", "qwen2", "qwen3"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), _LLAMA),
    "phi3": {
        "gate": ("model.layers.{}.mlp.gate_up_proj", 0, 0),
        "up": ("model.layers.{}.mlp.gate_up_proj", 0, D_MLP),
        "down": ("model.layers.{}.mlp.down_proj", 1, 0),
    },
    "gpt_neox": {
        "up": ("gpt_neox.layers.{}.mlp.dense_h_to_4h", 0, 0),
        "down": ("gpt_neox.layers.{}.mlp.dense_4h_to_h", 1, 0),
    },
    "gpt2": {
        "up": ("transformer.h.{}.mlp.c_fc", 1, 0),
        "down": ("transformer.h.{}.mlp.c_proj", 0, 0),
    },
    "opt": {
        "up": ("model.decoder.layers.{}.fc1", 0, 0),
        "down": ("model.decoder.layers.{}.fc2", 1, 0),
    },
}


@torch.no_grad()
def multiply(hf_model: Any, family: str, part: str, layer: int, neuron: int, by: float) -> None:
    """Multiply one neuron's row (and its bias, but for memory vectors) in place."""
    path, axis, first = PLACES[family][part]
    module = hf_model.get_submodule(path.format(layer))
    module.weight.select(axis, first + neuron).mul_(by)
    if part != "down" and module.bias is not None:
        module.bias[first + neuron].mul_(by)
