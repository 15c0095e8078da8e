"""Row learning rates: what the preserving resuscitation does in training, on unedited weights.

Multiplying up rows by u and dividing memory vectors by u leaves the function as it is. Adam's steps
do not grow with the gradient, so training weights that are edited so is training the unedited ones
with learning rates times u for memory vectors, and divided by u for up rows and biases, up to
Adam's epsilon, clipping of gradients, L2 weight decay and rounding. (Under SGD it would be u
squared.) Behind hooks the same edit does nothing in training. Only the rates change: knowledge
entropy stays where it is.

A step is read off the weights that it has moved, less the decay where the optimizer says that it is
decoupled, as PyTorch's do. Weights in half precision have too few digits for that and are refused.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from interventions.choices import ResuscitationSite
from interventions.neurons import scaled_pieces
from interventions.resuscitation import Resuscitation
from probes.hooked_model import HookedModel
from probes.shown import Shown


@dataclass(frozen=True, eq=False)
class _Rates:
    """Some rows of one parameter, and what their steps are multiplied by."""

    name: str
    axis: int
    index: Int64[Tensor, "n"]
    by: Float[Tensor, "n"]

    def along(self, parameter: Tensor) -> Tensor:
        return self.by.view([-1 if axis == self.axis else 1 for axis in range(parameter.ndim)])

    def rows(self, parameter: Tensor) -> Tensor:
        return parameter.index_select(self.axis, self.index)


@dataclass(frozen=True, eq=False)
class RowLearningRates(Shown):
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
            shape = [n if axis == rates.axis else 1 for axis, n in enumerate(weight.shape)]
            whole = found.setdefault(rates.name, torch.ones(shape, dtype=torch.float64))
            whole.index_copy_(rates.axis, rates.index, rates.along(weight))
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
                if parameter.dtype.itemsize < 4:
                    raise ValueError(
                        f"{one.name} is {parameter.dtype}, which rounds a step before it could be "
                        "multiplied; train float32 weights, under autocast if need be"
                    )
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
        self._before = [rates.rows(parameter) for parameter, rates in self._rates]

    @torch.no_grad()
    def _multiply(self, *_args: Any) -> None:
        groups = {p: group for group in self._optimizer.param_groups for p in group["params"]}
        for (parameter, rates), before in zip(self._rates, self._before, strict=True):
            now, group, start = rates.rows(parameter), groups[parameter], before
            if group.get("decoupled_weight_decay", False):
                start = before * (1 - float(group["lr"]) * float(group["weight_decay"]))
            stepped = start + rates.along(parameter) * (now - start)
            # Where nothing has moved there was no step: no gradient, or one that was not finite.
            stepped = torch.where(now == before, before, stepped)
            parameter.index_copy_(rates.axis, rates.index, stepped)
        self._before = []
