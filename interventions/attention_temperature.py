"""Attention temperature: divide attention scores by T, so that attention spreads over more tokens.

The scores that the softmax sees, scaled and soft-capped, are divided before the mask; fused
attention stays. As weights it is the query's projection, or its norm, divided by T
(`interventions.query_weights`); where weights cannot express it, the patch is refused.

A temperature may go straight to 1 over a run (`schedule="linear"`), as it does by default in the
released code, which the paper does not say: T(p) = T - (T - 1) p at progress p.

Source: Kim et al., ICLR 2025, appendix B.8.

Example:
    >>> import probes, interventions
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                  # doctest: +SKIP
    >>> edit = interventions.AttentionTemperature(1.5, schedule="linear")      # doctest: +SKIP
    >>> with interventions.applied(model, edit) as clock:                      # doctest: +SKIP
    ...     clock.progress = 0.5        # halfway through a run: 1.25
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interventions.choices import Schedule, as_choice
from interventions.edit_forms import Clock, WeightChange
from interventions.query_weights import query_changes
from probes.hooked_model import HookedModel

OfLayer = float | Float[Tensor, "head"]


@dataclass(frozen=True, eq=False)
class AttentionTemperature:
    """Divides attention scores by a temperature.

    Args:
        temperature: of all layers; a sequence with one for every layer; a mapping from layer to
            temperature, which leaves other layers alone; or `[layer head]`.
        schedule: whether it stays, or goes to 1 over the run.

    Raises:
        ValueError: a temperature is not a finite number above 0, or the tensor is not
            `[layer head]`.
    """

    temperature: (
        float | int | Sequence[float | int] | Mapping[int, float | int] | Float[Tensor, "..."]
    )
    _: KW_ONLY
    schedule: Schedule | str = Schedule.CONSTANT

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", as_choice(Schedule, self.schedule, "schedule"))
        given = _as_numbers(self.temperature)
        object.__setattr__(self, "temperature", given)
        values = list(given.values()) if isinstance(given, Mapping) else given
        checked = torch.as_tensor(values, dtype=torch.float64)
        if not (checked.isfinite() & (checked > 0)).all():
            raise ValueError(
                f"attention temperatures must be finite and above 0, found {_shown(given)}"
            )

    def attached(self, model: HookedModel, clock: Clock) -> AbstractContextManager[None]:
        """Divide the scores for the length of a `with` block."""
        at_start = self._of_layers(model)
        if self.schedule is Schedule.CONSTANT:
            placed = {layer: _placed(value, model) for layer, value in at_start.items()}
            return model.attention_temperature(placed)
        return model.attention_temperature(
            {layer: _decaying(value, clock) for layer, value in at_start.items()}
        )

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        """Divide the query's projection or its norm."""
        if self.schedule is not Schedule.CONSTANT:
            raise ValueError(
                f"an attention temperature that changes over a run (schedule="
                f"{str(self.schedule)!r}) cannot be in the weights; use it as a hook"
            )
        pairs = self._of_layers(model).items()
        return [change for layer, value in pairs for change in query_changes(model, layer, value)]

    def describe(self) -> dict[str, Any]:
        """The temperatures and their schedule."""
        given: Any = self.temperature
        if isinstance(given, Tensor):
            given = given.tolist()
        elif isinstance(given, Mapping):
            given = {str(layer): value for layer, value in given.items()}
        return {
            "kind": "attention_temperature",
            "temperature": given,
            "schedule": str(self.schedule),
        }

    def _of_layers(self, model: HookedModel) -> dict[int, OfLayer]:
        """Temperatures of the layers that have one other than 1."""
        given = self.temperature
        if isinstance(given, Mapping):
            found: dict[int, OfLayer] = dict(given)
        elif isinstance(given, Tensor | Sequence):
            self._require_fit(given, model)
            found = dict(enumerate(given))
        else:
            found = dict.fromkeys(range(model.n_layers), given)
        if wrong := [layer for layer in found if not 0 <= layer < model.n_layers]:
            raise ValueError(
                f"layer {wrong[0]} does not exist; {model.name} has layers 0 to "
                f"{model.n_layers - 1}"
            )
        return {layer: value for layer, value in found.items() if bool((_tensor(value) != 1).any())}

    def _require_fit(self, given: Tensor | Sequence[float], model: HookedModel) -> None:
        shape = tuple(given.shape) if isinstance(given, Tensor) else (len(given),)
        expected = (model.n_layers, model.n_heads)[: len(shape)]
        if shape != expected:
            raise ValueError(
                f"attention temperatures have shape {shape}, but {model.name} needs {expected} "
                f"({'layer, head' if len(shape) == 2 else 'layers'})"
            )


def _decaying(at_start: OfLayer, clock: Clock) -> Callable[[], OfLayer]:
    return lambda: at_start - (at_start - 1) * clock.progress


def _placed(value: OfLayer, model: HookedModel) -> OfLayer:
    """As the forward pass uses it, so that it need not be converted in every one."""
    if not isinstance(value, Tensor):
        return value
    return value.to(model.device, torch.promote_types(model.dtype, torch.float32))


def _as_numbers(given: Any) -> Any:
    """One float, a list or mapping of them, or `[layer head]` in float64 on the CPU."""
    if isinstance(given, Tensor):
        if given.ndim != 2:
            raise ValueError(
                f"a tensor of temperatures must be [layer head], found shape {tuple(given.shape)}; "
                "pass one for each head of each layer, or a list with one for each layer"
            )
        return given.detach().double().cpu()
    try:
        if isinstance(given, Mapping):
            return {layer: float(value) for layer, value in given.items()}
        if isinstance(given, Sequence) and not isinstance(given, str):
            return [float(value) for value in given]
        return float(given)
    except (TypeError, ValueError):
        raise ValueError(
            f"an attention temperature is a number, one for each layer, or a tensor [layer head], "
            f"found {given!r}"
        ) from None


def _tensor(value: OfLayer) -> Tensor:
    return torch.as_tensor(value)


def _shown(given: Any) -> str:
    return str(given.tolist() if isinstance(given, Tensor) else given)
