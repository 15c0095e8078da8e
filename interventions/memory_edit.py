"""Memory edit: chosen memory vectors are scaled, zeroed, replaced, or added to.

A memory vector v, the row of a layer's down projection that one coefficient multiplies, becomes
`scale * v + added`: scaled where nothing is added, zeroed by a scale of 0, replaced by a scale of 0
and new values.

Source: Geva et al., EMNLP 2021, for MLPs as memories; Dai et al., ACL 2022, for zeroed and replaced
ones ("knowledge neurons").

Example:
    >>> MemoryEdit({3: [17, 256]}).describe()["vectors"]
    {'3': [17, 256]}
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interventions.edit_forms import Clock, WeightChange
from interventions.rows import memory_rows, require_native, with_rows
from probes.hooked_model import HookedModel
from probes.model_folder import sha256_of
from probes.sites import Site


@dataclass(frozen=True, eq=False)
class MemoryEdit:
    """Scales, zeroes or replaces chosen memory vectors.

    Args:
        vectors: which ones: layer to the indices of its neurons.
        scale: what they are multiplied by; 0 takes them out.
        added: what is added to them then: layer to one row for each index, `[n d_model]`; with
            a scale of 0 they are replaced by it. None to add nothing.

    Raises:
        ValueError: no vector is chosen, one is chosen twice, the edit would change nothing, or a
            number is not finite.

    Example:
        >>> edit = MemoryEdit({3: [17, 256]}, scale=0.5)  # half of two vectors of layer 3
        >>> edit.scale
        0.5
    """

    vectors: Mapping[int, Sequence[int] | Int[Tensor, "_"]]
    scale: float = 0.0
    _: KW_ONLY
    added: Mapping[int, Float[Tensor, "_ d_model"]] | None = None

    def __post_init__(self) -> None:
        chosen = chosen_places(self.vectors, "a MemoryEdit", "memory vector", "{3: [17, 256]}")
        object.__setattr__(self, "vectors", chosen)
        if not isfinite(self.scale):
            raise ValueError(f"scale must be a finite number, found {self.scale}")
        if self.added is None and self.scale == 1:
            raise ValueError("a scale of 1 with nothing added changes nothing; give another")
        if self.added is not None:
            kept = {layer: rows.detach().clone().cpu() for layer, rows in self.added.items()}
            object.__setattr__(self, "added", kept)
            self._check_added()

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        del clock
        self._require(model)
        if self.added is not None:
            require_native(model, "adding to memory vectors")
        with ExitStack() as stack:
            if self.scale != 1:
                by = {
                    layer: torch.ones(model.d_mlp).index_fill(0, neurons, self.scale)
                    for layer, neurons in self._chosen()
                }
                stack.enter_context(model.memory_vectors_scaled(by))
            for layer, added in (self.added or {}).items():
                rows, neurons = memory_rows(model, layer), torch.tensor(self.vectors[layer])
                stack.enter_context(with_rows(rows, neurons, added, None, instead=False))
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        self._require(model)
        changes = []
        for layer, neurons in self._chosen():
            added = None if self.added is None else self.added[layer]
            new = partial(_changed, scale=self.scale, added=added)
            # The bias of a down projection belongs to no neuron.
            changes += memory_rows(model, layer).changes(neurons, new, torch.zeros_like)
        return changes

    def describe(self) -> dict[str, Any]:
        added = {str(layer): rows for layer, rows in (self.added or {}).items()}
        return {
            "kind": "memory_edit",
            "vectors": {str(layer): list(chosen) for layer, chosen in self.vectors.items()},
            "scale": self.scale,
            "added_sha256": sha256_of(added) if added else None,
        }

    def _chosen(self) -> list[tuple[int, Tensor]]:
        return [(layer, torch.tensor(chosen)) for layer, chosen in self.vectors.items()]

    def _check_added(self) -> None:
        assert self.added is not None
        if set(self.added) != set(self.vectors):
            raise ValueError(
                f"vectors are chosen in layers {sorted(self.vectors)}, and rows to add given for "
                f"{sorted(self.added)}; give one row for each chosen vector"
            )
        for layer, rows in self.added.items():
            count = len(self.vectors[layer])
            if rows.ndim != 2 or len(rows) != count or not bool(rows.isfinite().all()):
                raise ValueError(
                    f"the rows to add in layer {layer} have shape {tuple(rows.shape)}; give finite "
                    f"numbers of shape ({count}, d_model), a row for each chosen vector"
                )

    def _require(self, model: HookedModel) -> None:
        require_places(self.vectors, model, model.d_mlp, "memory vector")
        for layer, rows in (self.added or {}).items():
            if rows.shape[1] != model.d_model:
                raise ValueError(
                    f"the rows to add in layer {layer} have {rows.shape[1]} numbers, but d_model "
                    f"of {model.name} is {model.d_model}; they are of another model"
                )


def chosen_places(given: Any, whose: str, what: str, example: str) -> dict[int, tuple[int, ...]]:
    """Indices by layer, checked as far as they can be without a model."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{whose} takes layers and indices, such as {example}, found {given!r}")
    found = {}
    for layer, indices in given.items():
        listed = indices.tolist() if isinstance(indices, Tensor) else indices
        numbers = [listed] if isinstance(listed, int) else list(listed)
        if not all(isinstance(n, int) and n >= 0 for n in (layer, *numbers)):
            raise ValueError(
                f"{whose} takes layers and indices as numbers from 0 up, such as {example}; found "
                f"layer {layer!r} with {numbers}"
            )
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{whose} names a {what} of layer {layer} twice; name each once")
        if numbers:
            found[layer] = tuple(numbers)
    if not found:
        raise ValueError(f"{whose} without any {what} changes nothing; give some, as {example}")
    return found


def require_places(chosen: Any, model: HookedModel, count: int, what: str) -> None:
    """Refuse layers and indices that a model does not have."""
    for layer, indices in chosen.items():
        model.hook_point((Site.RESID_POST, layer))
        if max(indices) >= count:
            raise ValueError(
                f"layer {layer} has no {what} {max(indices)}; {model.name} has 0 to {count - 1}"
            )


def _changed(rows: Tensor, *, scale: float, added: Tensor | None) -> Tensor:
    return rows * scale if added is None else rows * scale + added.to(rows)
