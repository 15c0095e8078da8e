"""Rotary frequencies of each sequence by its own length, whatever else is in its batch.

Models with `longrope` (Phi-3) rotate by other frequencies once a sequence is longer than those that
they were first trained on, models with `dynamic` NTK by others for every length beyond that. The
length that transformers goes by is that of the longest row of the batch, pads included, so a row
would get other numbers beside a longer one. Here every sequence gets the frequencies that it has
alone: rotations are made once for each set of frequencies, and each token takes its own.

A run of consecutive positions is a sequence, and its length is its last position plus one. So this
holds for the documents of a packed row too, and for one token that follows on a cache. Pads must
not count on: `probes.hooked_model` gives those after a row its last position.

Example:
    >>> lengths_of_sequences(torch.tensor([[0, 1, 2, 0, 1, 1], [6, 7, 8, 9, 10, 11]])).tolist()
    [[3, 3, 3, 2, 2, 2], [12, 12, 12, 12, 12, 12]]
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn


def rope_border(config: Any) -> int | None:
    """Up to how many tokens all sequences have the same frequencies; None where all have."""
    rope = getattr(config, "rope_parameters", None) or {}
    # Some families have one set of parameters for each kind of layer.
    kinds = [rope] if "rope_type" in rope else [one for one in rope.values() if _is_rope(one)]
    borders = [_border(str(one.get("rope_type")), one, config) for one in kinds]
    return min((border for border in borders if border is not None), default=None)


def keep_sequences_apart(module: nn.Module) -> None:
    """Have rotary embeddings that depend on the batch depend on each
    sequence alone, from now on.
    """
    for part in module.modules():
        kinds = getattr(part, "rope_type", None)
        named = kinds.values() if isinstance(kinds, Mapping) else [kinds]
        there = any(hook is _by_sequence for hook in part._forward_hooks.values())
        takes = inspect.signature(type(part).forward).parameters
        if any(_depends(kind) for kind in named) and "position_ids" in takes and not there:
            part.register_forward_hook(_by_sequence, with_kwargs=True)


def lengths_of_sequences(positions: Int64[Tensor, "batch pos"]) -> Int64[Tensor, "batch pos"]:
    """The length of the sequence that each token is in."""
    width = positions.shape[1]
    ends = torch.ones_like(positions, dtype=torch.bool)
    ends[:, :-1] = positions[:, 1:] != positions[:, :-1] + 1
    here = torch.arange(width, device=positions.device).expand_as(positions)
    next_end = torch.where(ends, here, width).flip(1).cummin(dim=1).values.flip(1)
    return positions.gather(1, next_end) + 1


@torch.no_grad()
def _by_sequence(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Tensor, ...]
) -> tuple[Tensor, ...] | None:
    """A forward hook of a rotary embedding: cosines and sines of each token by its sequence."""
    forward: Any = type(module).forward
    given = inspect.signature(forward).bind(module, *args, **kwargs).arguments
    positions, layer_type = given["position_ids"], given.get("layer_type")
    rope: Any = module
    kind = rope.rope_type if layer_type is None else rope.rope_type[layer_type]
    parameters = rope.config.rope_parameters
    parameters = parameters if layer_type is None else parameters[layer_type]
    border = _border(kind, parameters, rope.config)
    if border is None:
        return None
    lengths = lengths_of_sequences(positions)
    sets = lengths.where(lengths > border, 0)
    if kind == "longrope":
        sets = sets.clamp_max(1)
    made = tuple(torch.empty_like(part) for part in output)
    for one in sets.unique():
        here = sets == one
        # What a longer sequence has left behind in the module would serve a shorter one too.
        forward(**given | {"position_ids": torch.zeros_like(positions[:1, :1])})
        rotations = forward(**given | {"position_ids": positions[here][None]})
        for whole, part in zip(made, rotations, strict=True):
            whole[here] = part[0]
    return made


def _border(kind: str, parameters: Mapping[str, Any], config: Any) -> int | None:
    if kind == "longrope":
        return int(parameters["original_max_position_embeddings"])
    return int(config.max_position_embeddings) if _depends(kind) else None


def _depends(kind: Any) -> bool:
    return isinstance(kind, str) and (kind == "longrope" or "dynamic" in kind)


def _is_rope(value: Any) -> bool:
    return isinstance(value, Mapping) and "rope_type" in value
