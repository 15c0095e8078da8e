r"""Temperature: what are the attention scores of a layer divided by, now?

The final scores of a query, scaled and soft-capped, become :math:`s / T` before the mask: above 1
attention gets flatter, below 1 sharper. A temperature is a number, one for every query head, or a
function that is asked for either in every forward pass. What cannot be a temperature (zero,
negative, not finite, of another number of heads) is refused: fixed ones at once, changing ones when
they come up.

Source: Kim et al., ICLR 2025, appendix B.8.

Example:
    >>> import torch
    >>> now = as_callable(torch.tensor([1.0, 2.0]), layer=0, n_heads=2)
    >>> now().tolist()
    [1.0, 2.0]
"""

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.attach import HookFunction
from probes.attention_call import Temperature, divided
from probes.attention_interface import Transform

TemperatureNow = Callable[[], Temperature]
"""Asked in every forward pass."""
TemperatureSource = Temperature | TemperatureNow


def as_callable(source: TemperatureSource, *, layer: int, n_heads: int) -> TemperatureNow:
    """A temperature as a function to ask in every forward pass, which checks what it says."""
    if callable(source):
        return lambda: _checked(source(), layer, n_heads)
    fixed = _checked(source, layer, n_heads)
    return lambda: fixed


def dividing_calls(now: TemperatureNow) -> Transform:
    """A change of attention calls that divides their final scores, before the mask."""
    return lambda call: call.at_temperature(now())


def dividing_scores(now: TemperatureNow) -> HookFunction:
    """A function for `ATTENTION_SCORES` that divides them, where only masked scores are shown."""

    def divide(
        scores: Float[Tensor, "batch head query_pos key_pos"], _point: Any
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        # Dividing -inf would make the gradient of the temperature NaN.
        masked = scores.isneginf()
        return divided(scores.masked_fill(masked, 0.0), now()).masked_fill(masked, -torch.inf)

    return divide


def _checked(temperature: Temperature, layer: int, n_heads: int) -> Temperature:
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
            f"the attention temperature of layer {layer} is {_shown(temperature)}; scores can only "
            "be divided by a finite number above 0"
        )
    return temperature


def _shown(temperature: Temperature) -> str:
    return str(temperature.tolist() if isinstance(temperature, Tensor) else temperature)
