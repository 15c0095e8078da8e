"""Rotary frequencies: has a model those that a reload of it would have?

They are buffers that no checkpoint holds: transformers computes them from the configuration, in
float32. A cast of the whole model in memory (`model.to(torch.bfloat16)`) rounds them too, and what
the model computes is then off by more the longer a text is. Rounded ones are put right; others that
differ from the configuration were set by somebody, and are left alone and hashed.
"""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import torch
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
    """Frequencies by name that are not those of the configuration, nor
    what a pass makes of them.
    """
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
