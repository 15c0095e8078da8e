"""Row learning rates: what the preserving resuscitation does in training, on unedited weights.

Multiplying up rows by u and dividing memory vectors by u leaves the function as it is, but an
optimizer then moves other weights. Adam's steps do not grow with the gradient, so training the
edited weights is training the unedited ones with a learning rate of its own for each row: memory
vectors times u, up rows (and biases) divided by u. The two runs keep computing the same function,
up to Adam's epsilon, clipping of gradients, L2 weight decay and rounding. Here only the rates
change: knowledge entropy stays where it is.

Decoupled weight decay (AdamW) shrinks both alike and keeps the optimizer's own rate: what is
multiplied is the step without the decay, where the optimizer says that it is decoupled, as
PyTorch's do. Decay that is added to the gradient is part of the step, and is multiplied with it.

A step is read off the weights that it has moved, so they need more digits than the step: weights
in half precision are refused (keep float32 ones, under autocast if need be).

Under SGD the same edit would be rates times and over the square of u; the multipliers here are
Adam's.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interventions.choices import ResuscitationSite
from interventions.resuscitation import Resuscitation
from interventions.rows import scaled_pieces
from probes.hooked_model import HookedModel


@dataclass(frozen=True, eq=False)
class _Rates:
    """Some rows of one parameter, and what their steps are multiplied by."""

    name: str
    axis: int
    index: Int64[Tensor, "n"]
    by: Float[Tensor, "n"]


@dataclass(frozen=True, eq=False)
class RowLearningRates:
    """Learning rates for rows, in place of a preserving resuscitation. No edit of the model.

    Args:
        like: the resuscitation whose neurons and multipliers are meant, whatever its site.
    """

    like: Resuscitation

    def parameter_multipliers(self, model: HookedModel) -> dict[str, Tensor]:
        """What the step of each parameter is multiplied by; names as in the Hugging Face model.

        Args:
            model: the model to be trained; its MLP must be gated.

        Returns:
            Tensors that broadcast against the parameters, float64 on the CPU.

        Raises:
            ValueError: the coefficients are another model's, or the MLP has no gate.
        """
        found: dict[str, Tensor] = {}
        weights = model.hf_model.state_dict()
        for rates in self._rates(model):
            weight = weights[rates.name]
            shape = [1] * weight.ndim
            shape[rates.axis] = weight.shape[rates.axis]
            whole = found.setdefault(rates.name, torch.ones(shape, dtype=torch.float64))
            whole.index_copy_(rates.axis, rates.index, rates.by.view(_along(rates, weight)))
        return found

    def attach_to(self, optimizer: torch.optim.Optimizer, model: HookedModel) -> "RateHandle":
        """Multiply the steps of an optimizer from now on.

        Saving and loading its state leaves them attached.

        Args:
            optimizer: that trains the model.
            model: the model, unedited.

        Returns:
            A handle whose `remove()` ends it.

        Raises:
            ValueError: as for `parameter_multipliers`, a trainable parameter that has rates is
                not in the optimizer, or it is in half precision.
        """
        optimized = {p for group in optimizer.param_groups for p in group["params"]}
        parameters = dict(model.hf_model.named_parameters())
        rates: list[tuple[Tensor, _Rates]] = []
        for one in self._rates(model):
            parameter = parameters[one.name]
            if parameter in optimized:
                _refuse_half_precision(one.name, parameter)
                placed = replace(one, index=one.index.to(parameter.device), by=one.by.to(parameter))
                rates.append((parameter, placed))
            elif parameter.requires_grad:
                raise ValueError(
                    f"{one.name} has learning rates for its rows, but is not in this optimizer; "
                    "pass the optimizer that trains it, or freeze it"
                )
        return RateHandle(optimizer, rates)

    def describe(self) -> dict[str, Any]:
        """The resuscitation that it stands in for."""
        return {"kind": "row_learning_rates", "like": self.like.describe()}

    def _rates(self, model: HookedModel) -> list[_Rates]:
        """Steps of up rows are divided by u, those of memory vectors multiplied."""
        self.like.require(model)
        pieces = scaled_pieces(model, self.like.multipliers(), ResuscitationSite.PRESERVING)
        found = []
        for rows, neurons, by in pieces:
            index = neurons + rows.first
            found.append(_Rates(f"{rows.name}.weight", rows.axis, index, 1 / by))
            if rows.has_bias:
                found.append(_Rates(f"{rows.name}.bias", 0, index, 1 / by))
        if not found:
            raise ValueError(
                "these learning rates of rows change nothing: the resuscitation that they stand in "
                "for multiplies no neuron; raise its ratio, or leave them out"
            )
        return found


class RateHandle:
    """Row learning rates attached to an optimizer; `remove()` takes them off."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, rates: list[tuple[Tensor, _Rates]]
    ) -> None:
        self._optimizer = optimizer
        self._rates = rates
        self._before: list[Tensor] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._remember),
            optimizer.register_step_post_hook(self._multiply),
        ]

    def remove(self) -> None:
        """Let the optimizer step as it does by itself."""
        for hook in self._hooks:
            hook.remove()

    @torch.no_grad()
    def _remember(self, *_args: Any) -> None:
        self._before = [_rows(parameter, rates) for parameter, rates in self._rates]

    @torch.no_grad()
    def _multiply(self, *_args: Any) -> None:
        shrinking = {
            p: _decay(group) for group in self._optimizer.param_groups for p in group["params"]
        }
        for (parameter, rates), before in zip(self._rates, self._before, strict=True):
            now = _rows(parameter, rates)
            start = before * (1 - shrinking[parameter])
            stepped = start + rates.by.view(_along(rates, parameter)) * (now - start)
            # Where nothing has moved there was no step: no gradient, or one that was not finite.
            stepped = torch.where(now == before, before, stepped)
            parameter.index_copy_(rates.axis, rates.index, stepped)
        self._before = []


def _refuse_half_precision(name: str, parameter: Tensor) -> None:
    if parameter.dtype.itemsize < 4:
        raise ValueError(
            f"{name} is {parameter.dtype}, which rounds a step before it could be multiplied; "
            "train float32 weights, under autocast if need be"
        )


def _rows(parameter: Tensor, rates: _Rates) -> Tensor:
    return parameter.index_select(rates.axis, rates.index)


def _along(rates: _Rates, parameter: Tensor) -> list[int]:
    return [-1 if axis == rates.axis else 1 for axis in range(parameter.ndim)]


def _decay(group: dict[str, Any]) -> float:
    """The share by which a step of decoupled weight decay shrinks the weights first."""
    if not group.get("decoupled_weight_decay", False):
        return 0.0
    return float(group["lr"]) * float(group["weight_decay"])
