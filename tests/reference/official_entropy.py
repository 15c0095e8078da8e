"""The released Knowledge Entropy script's arithmetic, typed again from its description.

Rows are padded to one length, the mask is neither passed to the model nor used in the sum, sums run
over all tokens and are divided by the number of rows only, and the logarithm has 1e-9 added.
"""

from typing import Any

import torch

from tests.reference.entropies import DOWN


def official_average(hf_model: Any, family: str, padded_ids: torch.Tensor) -> torch.Tensor:
    """The tensor that the script saves: [layer, d_mlp], float32."""
    captured: list[torch.Tensor] = []
    handles = [
        hf_model.get_submodule(DOWN[family].format(layer)).register_forward_pre_hook(
            lambda _m, args: captured.append(args[0].detach())
        )
        for layer in range(hf_model.config.num_hidden_layers)
    ]
    with torch.no_grad():
        hf_model(padded_ids)
    for handle in handles:
        handle.remove()
    average = []
    for activation in captured:
        flat = torch.abs(activation).reshape(-1, activation.shape[-1])
        average.append(flat.sum(0) / len(padded_ids))
    return torch.stack(average)


def official_entropies(average: torch.Tensor) -> list[float]:
    """The list that the script saves, one number a layer."""
    found = []
    for layer in average:
        p = layer / layer.sum()
        found.append(-(p * torch.log(p + 1e-9)).sum().item())
    return found
