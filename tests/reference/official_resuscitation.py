"""The released resuscitation script's arithmetic, typed again from its description.

OLMo's checkpoints keep the linear half and the gate of an MLP in one matrix, the linear half first.
The script takes the average coefficients of every layer, in float32, and multiplies rows of that
matrix in place; there is no guard for averages of zero.
"""

import torch


def official_resuscitation(
    state: dict[str, torch.Tensor], average: torch.Tensor, ratio: float, amplifying: float
) -> list[torch.Tensor]:
    """Edit the state dict; returns the indices of the rows that were multiplied, per layer."""
    edited = []
    for layer in range(average.shape[0]):
        coefficients = average[layer]
        threshold = torch.quantile(coefficients, ratio)
        indices = (coefficients <= threshold).nonzero().squeeze(-1)
        multiplier = coefficients.mean() / coefficients * amplifying
        weight = state[f"transformer.blocks.{layer}.ff_proj.weight"]
        weight[indices, :] *= multiplier[indices].unsqueeze(-1)
        edited.append(indices)
    return edited
