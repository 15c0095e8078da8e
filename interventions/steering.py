"""Steering: add a vector at a hook point, at every position.

As weights it is in the bias of the projection that writes there: of the down projection for what an
MLP adds and for the stream after it, of attention's output projection for what attention adds, of
up and gate for their own outputs. Where no bias can carry it, only a hook can.

Source: Turner et al. 2023 (arXiv:2308.10248); Rimsky et al., ACL 2024.

Example:
    >>> import torch
    >>> Steer(("resid_post", 3), torch.ones(64), scale=0.5).describe()["scale"]
    0.5
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interventions.edit_forms import Clock, NotInWeightsError, WeightChange
from interventions.heads import head_rows
from interventions.rows import Rows, gate_rows, memory_rows, up_rows
from probes.hooked_model import HookedModel
from probes.model_folder import sha256_of
from probes.sites import HookPoint, Site, hook_name

_OF_MLP = (Site.MLP_GATE, Site.MLP_UP, Site.MLP_COEFFICIENTS)


@dataclass(frozen=True, eq=False)
class Steer:
    """Adds a vector at a hook point.

    Args:
        at: TransformerLens name or (site, layer) of the hook point.
        vector: what is added at every position, as wide as the tensor there.
        scale: what it is multiplied by first.

    Raises:
        ValueError: the vector or the scale is zero or not finite.

    Example:
        >>> import torch
        >>> edit = Steer("blocks.3.hook_resid_post", torch.ones(64), scale=4.0)
        >>> edit.scale
        4.0
    """

    at: str | tuple[Site | str, int | None]
    vector: Float[Tensor, "width"]
    scale: float = 1.0

    def __post_init__(self) -> None:
        vector = self.vector.detach().clone().cpu()
        object.__setattr__(self, "vector", vector)
        if not isfinite(self.scale) or not bool(vector.isfinite().all()):
            raise ValueError(
                f"steering takes finite numbers, found scale {self.scale} and "
                f"{int((~vector.isfinite()).sum())} others in the vector"
            )
        if self.scale == 0 or not bool(vector.any()):
            raise ValueError("a vector or a scale of zero changes nothing; give others")

    def attached(self, model: HookedModel, clock: Clock) -> AbstractContextManager[None]:
        del clock
        point, added = self._point(model), self.vector * self.scale
        return model.hooks([(point, lambda tensor, _point: tensor + added.to(tensor))])

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        point = self._point(model)
        rows = self._carrier(model, point)
        where = hook_name(point, gated=model.architecture.gated)
        if rows is None or rows.module.bias is None:
            has = "no bias" if rows is None else f"{rows.name} has no bias, and none other"
            raise NotInWeightsError(
                f"{has} carries a vector at {where} of {model.architecture.family} into the "
                "weights; steer by a hook"
            )
        index = torch.arange(rows.first, rows.first + len(self.vector)) if rows.produces else None
        added = self.vector * self.scale
        return [WeightChange(f"{rows.name}.bias", 0, index, lambda bias: bias + added.to(bias))]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "steer",
            "at": self.at if isinstance(self.at, str) else list(self.at),
            "scale": self.scale,
            "vector_sha256": sha256_of({"vector": self.vector}),
        }

    def _point(self, model: HookedModel) -> HookPoint:
        point = model.hook_point(self.at)
        if point.site in (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN):
            raise ValueError(
                f"{point.site} holds no vector for a position; steer at another site, or use an "
                "AttentionTemperature"
            )
        width = model.d_mlp if point.site in _OF_MLP else model.d_model
        width = model.d_vocab if point.site is Site.LOGITS else width
        if len(self.vector) != width:
            raise ValueError(
                f"the steering vector has {len(self.vector)} numbers, but "
                f"{hook_name(point, gated=model.architecture.gated)} of {model.name} has {width}"
            )
        return point

    def _carrier(self, model: HookedModel, point: HookPoint) -> Rows | None:
        """The projection whose output is what stands at the point, or adds to it alone."""
        number = point.layer
        if point.site is Site.RESID_PRE and number:
            number -= 1
        if number is None or (point.site is Site.RESID_PRE and point.layer == 0):
            return None
        layer = model.anatomy.layers[number]
        match point.site:
            case Site.MLP_UP:
                return up_rows(model, number)
            case Site.MLP_GATE:
                return gate_rows(model, number)
            case Site.MLP_OUT | Site.RESID_PRE | Site.RESID_POST:
                # Where a norm follows, what it adds is no longer a constant.
                own = layer.mlp_out is layer.mlp or layer.mlp_out is layer.down
                return memory_rows(model, number) if own else None
            case Site.ATTENTION_OUT | Site.RESID_MID:
                rows = head_rows(model, number)
                own = layer.attention_out in (layer.attention, rows.module)
                return rows if own else None
        return None
