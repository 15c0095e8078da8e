"""Controls: edits that resemble a resuscitation in all but the point that is to be tested.

* `RandomRows`: the same multipliers, on neurons drawn at random. Does it matter which are scaled?
* `MostActiveRows`: the same multipliers, on the most active neurons.
* `MatchedNoise` (`interventions.matched_noise`): Gaussian noise of the same size on the same rows.
  Does it matter that they are scaled, rather than merely changed?
* `ReDo` (`interventions.redo`): dormant neurons started afresh instead.
* `RowLearningRates` (`interventions.learning_rates`): other learning rates, the same weights.
* `Identity`: nothing.

Example:
    >>> import torch
    >>> from interventions.resuscitation import Resuscitation
    >>> like = Resuscitation(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), ratio=0.5, factor=2.0)
    >>> MostActiveRows(like).multipliers().tolist()
    [[1.0, 1.0, 6.0, 3.0]]
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interventions.edit_forms import Clock, WeightChange
from interventions.resuscitation import Resuscitation
from interventions.row_scaling import rows_scaled, scaling_changes
from probes.hooked_model import HookedModel


@dataclass(frozen=True, eq=False)
class _OtherRows(ABC):
    """The multipliers of a resuscitation, moved to other neurons of the same layer.

    Args:
        like: whose multipliers.
    """

    like: Resuscitation

    def multipliers(self) -> Float[Tensor, "layer d_mlp"]:
        """What every neuron is multiplied by, float64; 1 where it is left alone."""
        scale, selected = self.like.multipliers(), self.like.selected()
        moved = torch.ones_like(scale)
        for layer, chosen in enumerate(selected):
            values = scale[layer, chosen].sort(descending=True).values
            moved[layer, self.rows(layer, len(values))] = values
        return moved

    @abstractmethod
    def rows(self, layer: int, count: int) -> Tensor:
        """Which neurons of a layer get multipliers, from the largest to the smallest."""

    def attached(self, model: HookedModel, clock: Clock) -> AbstractContextManager[None]:
        """Multiply the neurons by hooks for the length of a `with` block."""
        del clock
        self.like.require(model)
        return rows_scaled(model, self.multipliers(), self.like.at)

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        """Multiply the rows that belong to the neurons."""
        self.like.require(model)
        return scaling_changes(model, self.multipliers(), self.like.at)


@dataclass(frozen=True, eq=False)
class RandomRows(_OtherRows):
    """The multipliers of a resuscitation on neurons drawn at random, layer by layer.

    Args:
        like: whose multipliers, how many in each layer, and at which site.
        seed: of the draw.
    """

    seed: int = 0

    def rows(self, layer: int, count: int) -> Tensor:
        """A random sample in random order; a layer's does not depend on the others."""
        generator = torch.Generator().manual_seed(self.seed * len(self.like.coefficients) + layer)
        return torch.randperm(self.like.coefficients.shape[1], generator=generator)[:count]

    def describe(self) -> dict[str, Any]:
        """The seed, and the resuscitation that it is a control of."""
        return {"kind": "random_rows", "seed": self.seed, "like": self.like.describe()}


@dataclass(frozen=True, eq=False)
class MostActiveRows(_OtherRows):
    """The multipliers of a resuscitation on as many of the most active neurons of each layer.

    They keep their order: the least active of them gets the largest.

    Args:
        like: whose multipliers, how many in each layer, and at which site.
    """

    def rows(self, layer: int, count: int) -> Tensor:
        """The most active neurons, from the least active of them on."""
        order = self.like.coefficients[layer].argsort(stable=True)
        return order[len(order) - count :]

    def describe(self) -> dict[str, Any]:
        """The resuscitation that it is a control of."""
        return {"kind": "most_active_rows", "like": self.like.describe()}


@dataclass(frozen=True)
class Identity:
    """Changes nothing; what an unedited model passes for where an edit is expected."""

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        """Do nothing for the length of a `with` block."""
        del model, clock
        yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        """None."""
        del model
        return []

    def describe(self) -> dict[str, Any]:
        """Its kind."""
        return {"kind": "identity"}
