"""Entropies by nested loops over unbatched, unpadded text in float64; slow and obvious.

Nothing here uses the package. Coefficients are read with a plain hook on the down projection of an
untouched copy, patterns from Hugging Face's eager attention.
"""

import copy
from typing import Any

import numpy as np
import torch
from scipy.stats import entropy as scipy_entropy

_LIKE_LLAMA = "model.layers.{}.mlp.down_proj"
DOWN = {
    "llama": _LIKE_LLAMA,
    "mistral": _LIKE_LLAMA,
    "olmo": _LIKE_LLAMA,
    "olmo2": _LIKE_LLAMA,
    "olmo3": _LIKE_LLAMA,
    "qwen2": _LIKE_LLAMA,
    "qwen3": _LIKE_LLAMA,
    "gemma2": _LIKE_LLAMA,
    "gemma3_text": _LIKE_LLAMA,
    "phi3": _LIKE_LLAMA,
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "opt": "model.decoder.layers.{}.fc2",
}


def coefficients_of(hf_model: Any, family: str, row: list[int]) -> np.ndarray:
    """Inputs of every down projection for one row of tokens: [layer, pos, d_mlp]."""
    model = copy.deepcopy(hf_model).double()
    found = []
    for layer in range(model.config.num_hidden_layers):
        module = model.get_submodule(DOWN[family].format(layer))
        module.register_forward_pre_hook(
            lambda _m, args: found.append(args[0].reshape(len(row), -1).clone())
        )
    with torch.no_grad():
        model(torch.tensor([row]))
    return torch.stack(found).numpy()


def mean_coefficients(
    hf_model: Any, family: str, rows: list[list[int]], weighting: str
) -> np.ndarray:
    """Mean |coefficient| over the tokens of each row, then over rows; or over all tokens."""
    sums, weight = 0.0, 0.0
    for row in rows:
        of_row = np.abs(coefficients_of(hf_model, family, row)).sum(axis=1)
        sums = sums + (of_row / len(row) if weighting == "instance" else of_row)
        weight += 1 if weighting == "instance" else len(row)
    return sums / weight


def knowledge_entropy(means: np.ndarray) -> np.ndarray:
    """Entropy of every layer, by SciPy."""
    return np.array([scipy_entropy(layer) for layer in means])


def attention_entropy(hf_model: Any, rows: list[list[int]]) -> np.ndarray:
    """Mean over queries, then rows, of each head's entropy, from eager patterns: [layer, head]."""
    model = copy.deepcopy(hf_model).double()
    model.set_attn_implementation("eager")
    of_rows = []
    for row in rows:
        with torch.no_grad():
            patterns = model(torch.tensor([row]), output_attentions=True).attentions
        of_rows.append([
            [
                np.mean([scipy_entropy(pattern[0, head, query].numpy()) for query in range(len(row))])
                for head in range(pattern.shape[1])
            ]
            for pattern in patterns
        ])  # fmt: skip
    return np.mean(of_rows, axis=0)


def next_token_entropy(hf_model: Any, rows: list[list[int]]) -> float:
    """Mean over positions, then rows, of the entropy over the vocabulary."""
    model = copy.deepcopy(hf_model).double()
    of_rows = []
    for row in rows:
        with torch.no_grad():
            probabilities = model(torch.tensor([row])).logits[0].softmax(dim=-1).numpy()
        of_rows.append(np.mean([scipy_entropy(p) for p in probabilities]))
    return float(np.mean(of_rows))
