"""Weights hash: which weights a number was measured on."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def sha256_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of weights, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()
