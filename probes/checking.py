"""Checking: what checks of a model share: tokens, activation, agreement, evaluation, refusals.

The rounding of equal products in another order stays well below a share of the largest value that
depends on the type; a wrong description of a model is off by the order of that value.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
_TOKENS = 8


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or wider if it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference, as a share of the largest value expected."""
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


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite; each is looked at only where their sum is not finite."""
    wide = torch.promote_types(values.dtype, torch.float32)
    return bool(values.sum(dtype=wide).isfinite()) or bool(values.isfinite().all())


def refuse_not_finite(tensors: Mapping[str, Tensor], what: str, instead: str) -> None:
    """Refuse named tensors of which a value is NaN or infinite."""
    if wrong := next((name for name, values in tensors.items() if not all_finite(values)), None):
        raise ValueError(f"{what} is not finite, at {wrong}; {instead}")


def what_makes_finite(name: str, weights: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    """What a user can do about numbers of a model that are not finite."""
    for weight, values in weights.items():
        if values.is_floating_point() and not all_finite(values):
            return f"weight {weight} of {name} is not finite: load a sound checkpoint"
    if dtype is torch.float16:
        return (
            f"{name} runs in float16, which ends at 65504: load it with dtype='bfloat16' or "
            "dtype='float32'"
        )
    return (
        f"{name} runs in {str(dtype).removeprefix('torch.')}, so something makes its numbers "
        "very large: take off edits and functions that are attached to it"
    )


def few_tokens(vocabulary: int, device: torch.device) -> Tensor:
    """A fixed row of token ids."""
    # Spread over the vocabulary; the first ids are often special tokens or single bytes.
    ids = torch.linspace(vocabulary // 3, vocabulary - 1, _TOKENS).long()
    return ids[None].to(device)


def activation_of(config: Any, known: str | None = None) -> Callable[[Tensor], Tensor] | None:
    """The MLP's activation function, by a known name or that which the configuration gives it."""
    from transformers.activations import ACT2FN

    name = activation_name(config, known)
    return None if name is None else ACT2FN[name]


def activation_name(config: Any, known: str | None = None) -> str | None:
    """What transformers calls it."""
    from transformers.activations import ACT2FN

    keys = ("hidden_activation", "hidden_act", "activation_function", "activation")
    names = (known, *(getattr(config, key, None) for key in keys))
    return next((name for name in names if isinstance(name, str) and name in ACT2FN), None)


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
