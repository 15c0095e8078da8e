"""Rotary frequencies: those that a reload would have, and for each sequence by its own length.

They are buffers that no checkpoint holds: transformers computes them from the configuration, in
float32. Those that a cast of the model in memory has rounded are put right; others that differ from
the configuration are left alone and hashed.

Models with `longrope` (Phi-3) or `dynamic` NTK rotate by other frequencies once a sequence is
longer than a border, and transformers goes by the longest row of a batch, pads included. Here every
sequence (a run of consecutive positions) gets the frequencies that it has alone. Pads must not
count on: `model_inputs` gives those after a row its last position.
"""

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

_HALVES = (torch.bfloat16, torch.float16)


class Frequencies:
    """Watches the rotary frequencies of a model, and puts rounded ones right."""

    def __init__(self, hf_model: Any, name: str) -> None:
        self._hf_model = hf_model
        self._name = name
        self._owners = [module for module in hf_model.modules() if _computes_its_buffers(module)]
        self._mend()

    def keep_exact(self) -> None:
        """Look whether the model was cast since, and mend what that has rounded."""
        if self._types() != self._seen:
            self._mend()

    def _mend(self) -> None:
        rounded = [m for m in self._owners if _put_right(self._hf_model, m)]
        self._seen = self._types()
        if rounded:
            warnings.warn(
                f"the rotary frequencies of {self._name} were rounded when it was cast in memory; "
                "they are float32 again, as a reload has them (load with dtype=, not by a cast)",
                stacklevel=2,
            )

    def _types(self) -> list[torch.dtype]:
        return [b.dtype for m in self._owners for b in m._buffers.values() if b is not None]


def set_frequencies(hf_model: Any) -> dict[str, Tensor]:
    """Frequencies by name that neither the configuration gives nor a pass makes."""
    found = {}
    for name, module in hf_model.named_modules():
        if not _computes_its_buffers(module):
            continue
        for own, right in _by_configuration(hf_model, module).items():
            # Some kinds change the working copy with the length of a text, and keep the original.
            fixed = f"original_{own}" not in module._buffers
            if fixed and not _equal(module._buffers[own], right):
                found[f"{name}.{own}"] = module._buffers[own]
    return found


def _computes_its_buffers(module: nn.Module) -> bool:
    """Whether it has buffers that no checkpoint holds, and nothing of its own that one does."""
    saved = module._buffers.keys() - module._non_persistent_buffers_set
    own = any(weight is not None for weight in module._parameters.values())
    return not saved and not own and any(True for _ in _floating(module))


def _by_configuration(hf_model: Any, module: nn.Module) -> dict[str, Tensor]:
    """What transformers itself puts there when it loads a model; nothing where it does not."""
    fresh = copy.copy(module)
    # Without what is inside of it, whose weights are not to be drawn anew.
    fresh._modules = {}
    fresh._buffers = {
        name: torch.full_like(buffer, torch.nan, dtype=torch.float32)
        for name, buffer in _floating(module)
    }
    try:
        with torch.no_grad():
            hf_model._init_weights(fresh)
    except AttributeError:
        return {}
    return {name: made for name, made in _floating(fresh) if not bool(made.isnan().any())}


def _put_right(hf_model: Any, module: Any) -> bool:
    right = _by_configuration(hf_model, module)
    if not any(_is_rounded(module._buffers[name], right[name]) for name in right):
        return False
    module._buffers.update(right)
    if hasattr(module, "original_max_seq_len"):
        module.max_seq_len_cached = module.original_max_seq_len
    return True


def _is_rounded(found: Tensor, right: Tensor) -> bool:
    return not _equal(found, right) and any(_equal(found, right.to(half)) for half in _HALVES)


def _equal(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.float(), expected.float())


def _floating(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_floating_point():
            yield name, buffer


def rope_border(config: Any) -> int | None:
    """Up to how many tokens all sequences have the same frequencies; None where all have."""
    rope = getattr(config, "rope_parameters", None) or {}
    # Some families have one set of parameters for each kind of layer.
    several = (one for one in rope.values() if isinstance(one, Mapping) and "rope_type" in one)
    kinds = [rope] if "rope_type" in rope else several
    borders = [_border(str(one.get("rope_type")), one, config) for one in kinds]
    return min((border for border in borders if border is not None), default=None)


def keep_sequences_apart(module: nn.Module) -> None:
    """Have rotary embeddings depend on each sequence alone, from now on."""
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
