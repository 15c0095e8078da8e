"""Row scaling: multiply neurons at a site, as hooks and as weights.

With u a neuron's multiplier, on a gated MLP, whose coefficients are act(gate) times up:

* `UP`: up row (and bias) times u, so its coefficient times u;
* `DOWN`: memory vector times u, in every family; the coefficient stays;
* `PRESERVING`: both, the memory vector divided by u: what the MLP computes stays, to rounding;
* `GATE`: gate row (and bias) times u, before the nonlinearity.

In an MLP without a gate, an up row acts before the nonlinearity, so scaling it is something else:
`UP_PREACTIVATION`, to be asked for by name; nothing that preserves the function exists there.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from interventions.choices import ResuscitationSite
from interventions.edit_forms import WeightChange
from interventions.mlp_rows import Rows, gate_rows, memory_rows, neurons_of, up_rows
from probes.attach import HookFunction
from probes.hooked_model import HookedModel
from probes.projections import device_of, stored_type
from probes.sites import HookPoint, Site

Piece = tuple[Rows, Tensor, Tensor]
"""Rows of a projection, indices of neurons, and what each is multiplied by."""

_HOOKED = {
    ResuscitationSite.UP: Site.MLP_UP,
    ResuscitationSite.UP_PREACTIVATION: Site.MLP_UP,
    ResuscitationSite.PRESERVING: Site.MLP_UP,
    ResuscitationSite.GATE: Site.MLP_GATE,
}


def require_site(model: HookedModel, site: ResuscitationSite) -> None:
    """Refuse a site that the model's MLP does not have.

    Raises:
        ValueError: says why, and what to use instead.
    """
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
    """Multiply neurons by hooks for the length of a `with` block; 1 leaves a neuron alone.

    Raises:
        ValueError: the model's MLP has no such site.
    """
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
    """The same as weight changes.

    Raises:
        ValueError: the model's MLP has no such site.
    """
    pieces = scaled_pieces(model, multipliers, site)
    return [change for rows, neurons, by in pieces for change in rows.scaled(neurons, by)]


def scaled_pieces(
    model: HookedModel, multipliers: Float[Tensor, "layer d_mlp"], site: ResuscitationSite
) -> list[Piece]:
    """Which rows of which projections are multiplied, and by what.

    Raises:
        ValueError: the model's MLP has no such site.
    """
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
