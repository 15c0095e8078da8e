"""Checking: what checks of a model share: tokens, activation, agreement, evaluation, refusals.

Two tensors that agree are the same products in another order. Their rounding grows with the widths,
but stays well below a share of the largest value that depends on the type; a wrong description of a
model is off by the order of that value.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
_TOKENS = 8


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference, as a share of the largest value expected.

    Tensors of different shapes differ infinitely.
    """
    if found.shape != expected.shape:
        return float("inf")
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / largest)


def tolerance(dtype: torch.dtype) -> float:
    """What rounding may come to, as a share of the largest value."""
    return _TOLERANCE.get(dtype, 0.1)


@contextmanager
def refusing_failures(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into a refusal in one line."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{what} ({type(error).__name__}: {reason})") from error


def few_tokens(vocabulary: int, device: torch.device) -> Tensor:
    """A fixed row of token ids."""
    # Spread over the vocabulary; the first ids are often special tokens or single bytes.
    ids = torch.linspace(vocabulary // 3, vocabulary - 1, _TOKENS).long()
    return ids[None].to(device)


def activation_of(config: Any, known: str | None = None) -> Callable[[Tensor], Tensor] | None:
    """The MLP's activation function, by a known name or that which the configuration gives it."""
    from transformers.activations import ACT2FN

    keys = ("hidden_activation", "hidden_act", "activation_function", "activation")
    names = (known, *(getattr(config, key, None) for key in keys))
    return next((ACT2FN[name] for name in names if isinstance(name, str) and name in ACT2FN), None)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) for the length of a `with` block."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
