"""MLP rows: which parameters hold a neuron's up row, gate row and memory vector, in every family.

A projection is a `Linear` (`[out, in]`) or GPT-2's `Conv1D` (`[in, out]`); gate and up may be the
two halves of one. `Rows` hides that: it turns "multiply these neurons' rows" into weight changes.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")          # doctest: +SKIP
    >>> up_rows(model, 3).module                                       # doctest: +SKIP
    Linear(in_features=576, out_features=1536, bias=False)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from interventions.edit_forms import WeightChange
from probes.hooked_model import HookedModel
from probes.projections import is_conv1d, is_plain


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows of a layer's neurons lie in one projection."""

    module: Any
    name: str
    """Of the module in the Hugging Face model."""
    axis: int
    """The axis of the weight along which neurons lie."""
    first: int
    """Row of neuron 0."""
    produces: bool
    """Whether neurons are its outputs (and its bias has one entry each), rather than inputs."""

    @property
    def has_bias(self) -> bool:
        """Whether every neuron has a bias here."""
        return self.produces and self.module.bias is not None

    def weight(self, neurons: Int64[Tensor, "n"]) -> Float[Tensor, "n d_model"]:
        """The rows of some neurons, one a row."""
        index = (neurons + self.first).to(self.module.weight.device)
        return self.module.weight.detach().index_select(self.axis, index).movedim(self.axis, 0)

    def bias(self, neurons: Int64[Tensor, "n"]) -> Float[Tensor, "n"] | None:
        """The biases of some neurons, where they have any here."""
        if not self.has_bias:
            return None
        return self.module.bias.detach()[(neurons + self.first).to(self.module.bias.device)]

    def changes(
        self,
        neurons: Int64[Tensor, "n"],
        new: Callable[[Tensor], Tensor],
        new_bias: Callable[[Tensor], Tensor],
    ) -> list[WeightChange]:
        """Give the rows of some neurons, and their biases, new values.

        Args:
            neurons: which.
            new: from their rows `[n d_model]` to new ones.
            new_bias: from their biases `[n]`, where there are any, to new ones.
        """
        index = neurons + self.first

        def by_rows(selected: Tensor) -> Tensor:
            return new(selected.movedim(self.axis, 0)).movedim(0, self.axis)

        found = [WeightChange(f"{self.name}.weight", self.axis, index, by_rows)]
        if self.has_bias:
            found.append(WeightChange(f"{self.name}.bias", 0, index, new_bias))
        return found

    def scaled(self, neurons: Int64[Tensor, "n"], by: Float[Tensor, "n"]) -> list[WeightChange]:
        """Multiply the rows, and biases, of some neurons."""

        def times(rows: Tensor) -> Tensor:
            factors = by.to(rows.device, rows.dtype)
            return rows * (factors[:, None] if rows.ndim == 2 else factors)

        return self.changes(neurons, times, times)


def up_rows(model: HookedModel, layer: int) -> Rows:
    """Rows of the up projection, the linear half where there is a gate."""
    fused = model.architecture.gate_up_fused
    return _producing(model, model.anatomy.layers[layer].up, model.d_mlp if fused else 0)


def gate_rows(model: HookedModel, layer: int) -> Rows:
    """Rows of the gate, in a gated MLP."""
    module = model.anatomy.layers[layer].gate
    assert module is not None
    return _producing(model, module, 0)


def memory_rows(model: HookedModel, layer: int) -> Rows:
    """The memory vectors."""
    module = model.anatomy.layers[layer].down
    name, conv1d = name_and_layout(model, module)
    return Rows(module, name, axis=0 if conv1d else 1, first=0, produces=False)


def _producing(model: HookedModel, module: nn.Module, first: int) -> Rows:
    name, conv1d = name_and_layout(model, module)
    return Rows(module, name, axis=1 if conv1d else 0, first=first, produces=True)


def name_and_layout(model: HookedModel, module: nn.Module) -> tuple[str, bool]:
    """A projection's name in the Hugging Face model, and whether its weight is `[in, out]`.

    Raises:
        ValueError: it is no plain `Linear` or `Conv1D`, so it stores no weight to be rewritten.
    """
    name = next(n for n, candidate in model.hf_model.named_modules() if candidate is module)
    if not is_plain(module):
        raise ValueError(
            f"{name} ({type(module).__name__}) does not compute with a weight that it stores, so "
            "its rows cannot be rewritten; use hooks, or make it plain first (merge adapters, "
            "prune.remove, remove_parametrizations, remove_weight_norm)"
        )
    return name, is_conv1d(module)


def neurons_of(chosen: Tensor) -> Int64[Tensor, "n"]:
    """Indices of the neurons of a layer for which a mask is true."""
    return torch.nonzero(chosen).flatten()
