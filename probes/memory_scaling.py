"""Memory scaling: what would the model do if some memory vectors were longer or shorter?

`memory_vectors_scaled` has every memory vector count a number of times, as if the rows of the down
projection had been multiplied, and takes that back afterwards. The multiplication comes after every
hook on the projection's input, whoever attached it and when: the coefficients that they see are
those of the model with other weights. The projection's bias is not scaled. The weights are not
touched; gradients flow, to multipliers that want some as well. Under gradient checkpointing the
backward pass runs the forward pass again, so it belongs inside the `with` block too.

Example:
    >>> import torch
    >>> down = torch.nn.Linear(2, 1, bias=False)
    >>> _ = down.weight.data.fill_(1.0)
    >>> with projection_scaled(down, torch.tensor([3.0, 0.0])):
    ...     down(torch.tensor([1.0, 1.0])).item()
    3.0
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.anatomy import Layer
from probes.projections import device_of, stored_type

_multipliers: "WeakKeyDictionary[nn.Module, list[Tensor]]" = WeakKeyDictionary()
_forward_before: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()


def check_multipliers(layer: int, multipliers: Float[Tensor, "d_mlp"], d_mlp: int) -> None:
    """Refuse what cannot multiply the memory vectors of a layer."""
    if tuple(multipliers.shape) != (d_mlp,):
        raise ValueError(
            f"the multipliers of layer {layer} have shape {tuple(multipliers.shape)}; pass one for "
            f"each of its {d_mlp} memory vectors"
        )
    if bad := int((~multipliers.detach().isfinite()).sum()):
        raise ValueError(
            f"{bad} of the {d_mlp} multipliers of layer {layer} are not finite; pass finite numbers"
        )


def multiplied(
    coefficients: Float[Tensor, "*batch_pos d_mlp"], multipliers: Float[Tensor, "d_mlp"]
) -> Float[Tensor, "*batch_pos d_mlp"]:
    """Coefficients times multipliers, in float32 or wider and rounded once."""
    wide = torch.promote_types(coefficients.dtype, torch.float32)
    return (coefficients * multipliers.to(coefficients.device, wide)).to(coefficients.dtype)


@contextmanager
def memory_vectors_scaled(
    layers: Sequence[Layer], multipliers: Mapping[int, Float[Tensor, "d_mlp"]]
) -> Iterator[None]:
    """Scale memory vectors of some layers for the length of a `with` block."""
    with ExitStack() as stack:
        for layer, of_layer in multipliers.items():
            stack.enter_context(projection_scaled(layers[layer].down, of_layer))
        yield


@contextmanager
def projection_scaled(down: Any, multipliers: Float[Tensor, "d_mlp"]) -> Iterator[None]:
    """Scale the memory vectors of one down projection; several at once multiply."""
    wide = torch.promote_types(stored_type(down), torch.float32)
    mine = multipliers.to(device_of(down), wide)
    if down not in _multipliers:
        _forward_before[down] = down.__dict__.get("forward")
        # A method, not a closure: a copy of the model made meanwhile then runs its own weights.
        down.forward = MethodType(forward, down)
    _multipliers.setdefault(down, []).append(mine)
    try:
        yield
    finally:
        _take_off(down, mine)


def forward(down: Any, coefficients: Tensor) -> Tensor:
    """The `forward` of a scaled projection, run after all hooks on its input."""
    for multipliers in _multipliers.get(down, ()):
        coefficients = multiplied(coefficients, multipliers)
    before = _forward_before.get(down)
    return type(down).forward(down, coefficients) if before is None else before(coefficients)


def _take_off(down: Any, mine: Tensor) -> None:
    stack = _multipliers[down]
    # By identity, and once: the same tensor may be on twice.
    del stack[next(i for i, multipliers in enumerate(stack) if multipliers is mine)]
    if stack:
        return
    del _multipliers[down]
    before = _forward_before.pop(down)
    if before is None:
        del down.forward
    else:
        down.forward = before
