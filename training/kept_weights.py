"""Kept weights: those that a run starts from, to be compared with and gone back to for a moment.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")       # doctest: +SKIP
    >>> start = start_weights(model)                                # doctest: +SKIP
    >>> with with_weights(model, start):                            # doctest: +SKIP
    ...     as_it_was = model("The capital of France is")
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from probes.hooked_model import HookedModel

Weights = Mapping[str, Tensor]
"""A tensor for each parameter, by its name."""


def start_weights(model: HookedModel) -> dict[str, Tensor]:
    """Copies of a model's weights on the CPU, in float32 or wider.

    Taken before `training.train` is called, they are those of the start, also of a run that is
    resumed: it is given the same start again.
    """
    return {
        name: weight.detach().to("cpu", _wide(weight), copy=True)
        for name, weight in model.hf_model.named_parameters()
    }


@contextmanager
def with_weights(model: HookedModel, weights: Weights) -> Iterator[None]:
    """Other weights for the length of a `with` block; then the same bits as before.

    Raises:
        ValueError: the weights are those of another model.
    """
    refuse_others(model, weights)
    parameters = dict(model.hf_model.named_parameters())
    own = {name: weight.detach().clone() for name, weight in parameters.items()}
    try:
        _write(parameters, weights)
        yield
    finally:
        _write(parameters, own)


def refuse_others(model: HookedModel, weights: Weights) -> None:
    """Make sure that weights are those of a model, or of its like.

    Raises:
        ValueError: they are not.
    """
    own = {name: weight.shape for name, weight in model.hf_model.named_parameters()}
    wrong = [name for name in own.keys() | weights.keys() if not _agree(own, weights, name)]
    if wrong:
        raise ValueError(
            f"the start weights are not those of {model.name}: they differ in {min(wrong)!r}; take "
            "them from the model that is trained (`start_weights`)"
        )


def refuse_sharded(model: HookedModel, what: str, instead: str) -> None:
    """Refuse a model whose weights `fully_shard` has cut up.

    Args:
        model: the hooked model.
        what: is asked for.
        instead: to do.

    Raises:
        ValueError: it is cut up.
    """
    if any(isinstance(part, FSDPModule) for part in model.hf_model.modules()):
        raise ValueError(f"{what} needs whole float32 weights, and 'fsdp' shards them; {instead}")


@torch.no_grad()
def _write(parameters: Weights, values: Weights) -> None:
    for name, weight in parameters.items():
        weight.copy_(values[name])


def _agree(own: Mapping[str, torch.Size], weights: Weights, name: str) -> bool:
    return name in own and name in weights and own[name] == weights[name].shape


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
