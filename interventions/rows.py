"""MLP rows: which parameters hold a neuron's up row, gate row and memory vector, in every family.

A projection is a `Linear` (`[out, in]`) or GPT-2's `Conv1D` (`[in, out]`); gate and up may be the
two halves of one. `Rows` hides that: it turns "multiply these neurons' rows" into weight changes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interventions.choices import ResuscitationSite
from interventions.edit_forms import WeightChange
from probes.attach import HookFunction
from probes.choices import Backend
from probes.hooked_model import HookedModel
from probes.projections import device_of, is_conv1d, is_plain, stored_type
from probes.sites import HookPoint, Site


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
        """Give the rows of some neurons, and their biases, new values."""
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
    """A projection's name in the Hugging Face model, and whether its weight is `[in, out]`."""
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


Piece = tuple[Rows, Tensor, Tensor]
"""Rows of a projection, indices of neurons, and what each is multiplied by."""

_HOOKED = {
    ResuscitationSite.UP: Site.MLP_UP,
    ResuscitationSite.UP_PREACTIVATION: Site.MLP_UP,
    ResuscitationSite.PRESERVING: Site.MLP_UP,
    ResuscitationSite.GATE: Site.MLP_GATE,
}


def require_site(model: HookedModel, site: ResuscitationSite) -> None:
    """Refuse a site that the model's MLP does not have."""
    family, gated = model.architecture.family, model.architecture.gated
    match site:
        case ResuscitationSite.UP if not gated:
            raise ValueError(
                f"the MLP of {family} has no gate: its up rows act before the nonlinearity, and "
                "scaling them does not scale coefficients; ask for that by name with "
                "site='up_preactivation', or use site='down'"
            )
        case ResuscitationSite.PRESERVING if not gated:
            raise ValueError(
                f"the MLP of {family} has no gate: no rescaling of its up rows passes through the "
                "nonlinearity, so site='preserving' does not exist; use site='down'"
            )
        case ResuscitationSite.GATE if not gated:
            raise ValueError(
                f"the MLP of {family} has no gate to scale; use site='down' or 'up_preactivation'"
            )
        case ResuscitationSite.UP_PREACTIVATION if gated:
            raise ValueError(f"the up rows of {family} act after the nonlinearity; use site='up'")


@contextmanager
def rows_scaled(
    model: HookedModel, multipliers: Float[Tensor, "layer d_mlp"], site: ResuscitationSite
) -> Iterator[None]:
    """Multiply neurons by hooks for the length of a `with` block; 1 leaves a neuron alone."""
    require_site(model, site)
    placed = {layer: _placed(model, layer, u) for layer, u in _edited_layers(multipliers).items()}
    with ExitStack() as stack:
        if site in _HOOKED:
            pairs = [((_HOOKED[site], layer), _times(u)) for layer, u in placed.items()]
            stack.enter_context(model.hooks(pairs))
        if site is ResuscitationSite.DOWN:
            stack.enter_context(model.memory_vectors_scaled(placed))
        if site is ResuscitationSite.PRESERVING:
            inverse = {layer: 1 / u for layer, u in placed.items()}
            stack.enter_context(model.memory_vectors_scaled(inverse))
        yield


def scaling_changes(
    model: HookedModel, multipliers: Float[Tensor, "layer d_mlp"], site: ResuscitationSite
) -> list[WeightChange]:
    """The same as weight changes."""
    pieces = scaled_pieces(model, multipliers, site)
    return [change for rows, neurons, by in pieces for change in rows.scaled(neurons, by)]


def scaled_pieces(
    model: HookedModel, multipliers: Float[Tensor, "layer d_mlp"], site: ResuscitationSite
) -> list[Piece]:
    """Which rows of which projections are multiplied, and by what."""
    require_site(model, site)
    pieces: list[Piece] = []
    for layer, row in _edited_layers(multipliers).items():
        neurons = neurons_of(row != 1)
        u = row[neurons]
        if site in _HOOKED:
            rows = gate_rows if site is ResuscitationSite.GATE else up_rows
            pieces.append((rows(model, layer), neurons, u))
        if site is ResuscitationSite.DOWN:
            pieces.append((memory_rows(model, layer), neurons, u))
        if site is ResuscitationSite.PRESERVING:
            pieces.append((memory_rows(model, layer), neurons, 1 / u))
    return pieces


def _edited_layers(multipliers: Float[Tensor, "layer d_mlp"]) -> dict[int, Tensor]:
    return {layer: row for layer, row in enumerate(multipliers) if bool((row != 1).any())}


def _placed(model: HookedModel, layer: int, row: Tensor) -> Tensor:
    """On the device of the layer; float32 for a half-precision model, which is not enough for u."""
    down = model.anatomy.layers[layer].down
    return row.to(device_of(down), torch.promote_types(stored_type(down), torch.float32))


def _times(u: Tensor) -> HookFunction:
    def scale(tensor: Tensor, point: HookPoint) -> Tensor:
        del point
        return (tensor * u).to(tensor.dtype)

    return scale


def require_native(model: HookedModel, kind: str) -> None:
    """Refuse other backends by name."""
    if model.backend is not Backend.NATIVE:
        raise ValueError(
            f"{kind} as a hook needs PyTorch hooks on the model's own projections, which backend "
            f"{str(model.backend)!r} does not have; use backend='native'"
        )


def with_rows_added(
    rows: Rows,
    neurons: Int64[Tensor, "n"],
    added: Float[Tensor, "n d_model"],
    added_bias: Float[Tensor, "n"] | None,
) -> RemovableHandle:
    """Have a projection work as if these values had been added to the rows of some neurons."""
    index, more, more_bias = _on_device(rows, neurons, added, added_bias)

    def add(received: Tensor, output: Tensor) -> Tensor:
        if not rows.produces:
            return output + nn.functional.linear(received.index_select(-1, index), more.T)
        by_them = nn.functional.linear(received, more, more_bias)
        return output.index_add(-1, index, by_them.to(output.dtype))

    return _hooked(rows.module, add)


def with_rows_replaced(
    rows: Rows,
    neurons: Int64[Tensor, "n"],
    new: Float[Tensor, "n d_model"],
    new_bias: Float[Tensor, "n"] | None,
) -> RemovableHandle:
    """Have a projection work as if some of its neurons had these rows and biases."""
    assert rows.produces
    index, other, other_bias = _on_device(rows, neurons, new, new_bias)

    def replace(received: Tensor, output: Tensor) -> Tensor:
        by_them = nn.functional.linear(received, other, other_bias)
        return output.index_copy(-1, index, by_them.to(output.dtype))

    return _hooked(rows.module, replace)


def _hooked(module: Any, function: Callable[[Tensor, Tensor], Tensor]) -> RemovableHandle:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return function(args[0], output)

    return module.register_forward_hook(hook)


def _on_device(
    rows: Rows, neurons: Tensor, values: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Indices, rows and biases where the projection has its own, once for all forward passes."""
    weight = rows.module.weight
    index = (neurons + rows.first).to(weight.device)
    return index, values.to(weight), None if bias is None else bias.to(weight)
