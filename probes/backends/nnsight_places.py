"""Places where a trace of nnsight meets a tensor: first it is read, then perhaps replaced.

All of them are used in the body of a trace, in the order in which the modules run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.attention_call import narrowed, wide, widened

_ATTENTION_FUNCTIONS = ("attention_interface_", "self__attn_")


@dataclass(frozen=True)
class Place:
    """How to read a tensor, and how to replace it."""

    read: Callable[[], Tensor]
    write: Callable[[Tensor], None]


def input_of(module: Any) -> Place:
    """What a module receives first."""

    def write(new: Tensor) -> None:
        module.input = new

    return Place(lambda: module.input, write)


def output_of(module: Any) -> Place:
    """What a module returns, or the first of what it returns."""

    def read() -> Tensor:
        output = module.output
        return output[0] if isinstance(output, tuple) else output

    def write(new: Tensor) -> None:
        output = module.output
        module.output = (new, *output[1:]) if isinstance(output, tuple) else new

    return Place(read, write)


def logits_of(model: Any) -> Place:
    """The logits in what a causal language model returns."""

    def write(new: Tensor) -> None:
        output = model.output
        output.logits = new
        model.output = output

    return Place(lambda: model.output.logits, write)


def half_of(whole: Place, which: int) -> Place:
    """The first or second half of what a fused projection returns."""

    def write(new: Tensor) -> None:
        halves = list(whole.read().chunk(2, dim=-1))
        halves[which] = new
        whole.write(torch.cat(halves, dim=-1))

    return Place(lambda: whole.read().chunk(2, dim=-1)[which], write)


def unflattened(flat: Place, shape: tuple[int, ...]) -> Place:
    """`[batch pos ...]` where the block runs on `[batch*pos ...]`."""
    return Place(lambda: flat.read().unflatten(0, shape), lambda new: flat.write(new.flatten(0, 1)))


def scores_of(softmax: Any, model: torch.dtype) -> Place:
    """Attention scores: what the softmax receives in a model of some type."""

    def write(new: Tensor) -> None:
        (scores, *rest), keywords = softmax.inputs
        softmax.inputs = ((narrowed(new, scores.dtype), *rest), keywords)

    return Place(lambda: widened(softmax.inputs[0][0], model), write)


def pattern_of(softmax: Any) -> Place:
    """The attention pattern: what the softmax returns."""

    def write(new: Tensor) -> None:
        softmax.output = new.to(softmax.output.dtype)

    return Place(lambda: wide(softmax.output), write)


def softmax_in(attention: Any, family: str) -> Any:
    """The softmax operation in an attention module, or in the function that it calls."""
    source = attention.source
    calls = [name for name in source.names if name.startswith(_ATTENTION_FUNCTIONS)]
    inner = getattr(source, calls[-1]).source if calls else source
    softmaxes = [name for name in inner.names if "softmax" in name]
    if len(softmaxes) == 1:
        return getattr(inner, softmaxes[0])
    raise ValueError(
        f"nnsight finds {len(softmaxes)} softmaxes, not one, in the attention of {family}, so its "
        "scores and pattern cannot be read; use backend='native'"
    )
