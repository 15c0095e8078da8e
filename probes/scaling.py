r"""Scaling for a while: attention scores over a temperature, memory vectors times multipliers.

A temperature :math:`T` (a number, one for every query head, or a function that is asked for either
in every forward pass) divides final scores, soft-capped, before the mask. Multipliers have memory
vectors count so many times, as if the rows of the down projection had been multiplied: after every
hook on its input, whoever attached it and when, without its bias. No weights are touched; gradients
flow. What cannot be a temperature or a multiplier is refused. Under gradient checkpointing the
backward pass runs the forward pass again, so it belongs inside the `with` block too.

Source: Kim et al., ICLR 2025, appendix B.8.

Example:
    >>> import torch
    >>> temperature_now(torch.tensor([1.0, 2.0]), layer=0, n_heads=2)(n_keys=3).tolist()
    [1.0, 2.0]
    >>> down = torch.nn.Linear(2, 1, bias=False)
    >>> _ = down.weight.data.fill_(1.0)
    >>> with projection_scaled(down, torch.tensor([3.0, 0.0])):
    ...     down(torch.tensor([1.0, 1.0])).item()
    3.0
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from math import isfinite
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.anatomy import Layer
from probes.attach import HookFunction
from probes.attention_call import Temperature, divided
from probes.attention_interface import Transform
from probes.projections import device_of, stored_type

TemperatureSource = Temperature | Callable[[], Temperature]


@dataclass
class TemperatureNow:
    """Asked in every forward pass, with the number of keys there."""

    ask: Callable[[], Temperature]
    most_keys: int = 0

    def __call__(self, n_keys: int) -> Temperature:
        """The temperature."""
        self.most_keys = max(self.most_keys, n_keys)
        return self.ask()


def temperature_now(source: TemperatureSource, *, layer: int, n_heads: int) -> TemperatureNow:
    """A temperature as something to ask in every forward pass, which checks what it says."""
    if callable(source):
        return TemperatureNow(lambda: _checked_temperature(source(), layer, n_heads))
    fixed = _checked_temperature(source, layer, n_heads)
    return TemperatureNow(lambda: fixed)


@contextmanager
def refusing_idle(
    attached: AbstractContextManager[None], temperatures: Iterable[TemperatureNow]
) -> Iterator[None]:
    """Refuse, at the end of a `with` block, temperatures that found one key in each row."""
    with attached:
        yield
    if {now.most_keys for now in temperatures} == {1}:
        raise ValueError(
            "the attention temperature has changed nothing: all rows had one token, so each query "
            "saw one key; give longer rows, or leave it out"
        )


def dividing_calls(now: TemperatureNow) -> Transform:
    """A change of attention calls that divides their final scores, before the mask."""
    return lambda call: call.at_temperature(now(call.n_keys))


def dividing_scores(now: TemperatureNow) -> HookFunction:
    """A function for `ATTENTION_SCORES` that divides them, where only masked scores are shown."""

    def divide(
        scores: Float[Tensor, "batch head query_pos key_pos"], _point: Any
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        # Dividing -inf would make the gradient of the temperature NaN.
        masked = scores.isneginf()
        by = now(scores.shape[-1])
        return divided(scores.masked_fill(masked, 0.0), by).masked_fill(masked, -torch.inf)

    return divide


def _checked_temperature(temperature: Temperature, layer: int, n_heads: int) -> Temperature:
    if isinstance(temperature, Tensor):
        if tuple(temperature.shape) != (n_heads,):
            raise ValueError(
                f"the attention temperature of layer {layer} has shape {tuple(temperature.shape)}; "
                f"pass a number, or one for each of the {n_heads} query heads"
            )
        values = temperature.detach()
        sound = bool((values.isfinite() & (values > 0)).all())
    else:
        sound = isfinite(temperature) and temperature > 0
    if not sound:
        raise ValueError(
            f"the attention temperature of layer {layer} is {_as_text(temperature)}; scores can "
            "only be divided by a finite number above 0"
        )
    return temperature


def _as_text(temperature: Temperature) -> str:
    return str(temperature.tolist() if isinstance(temperature, Tensor) else temperature)


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
