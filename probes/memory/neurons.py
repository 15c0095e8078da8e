r"""Knowledge neurons: how much of a fact's probability is due to each memory vector.

The coefficients :math:`c` of one layer, at the position where the fact is read, are scaled from 0
to what they are. With :math:`P(\alpha c)` the probability of the target then, a memory vector is
attributed

.. math:: c_i \int_0^1 \frac{\partial P(\alpha c)}{\partial c_i} \, d\alpha .

**Completeness**: the attributions of a layer add up to :math:`P(c) - P(0)`. This is checked in
every layer. The integral is taken by Gauss-Legendre quadrature, which is far closer than as many
equal steps.

Source: Dai et al., arXiv 2104.08696, equation 3 (there with 20 equal steps); Sundararajan et al.,
arXiv 1703.01365.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.argument_checks import hooked_model, takes
from probes.checking import wide
from probes.corpus.token_batch import as_token_batch
from probes.memory.vectors import Vector, largest, used
from probes.patches import BATCH_TOKENS
from probes.prompts import LensItem, Text, lens_items
from probes.readout import unembed
from probes.running_model import RunningModel
from probes.shown import Result, frame_of
from probes.sites import HookPoint, Site

_MOST = 8
"""How many times as many steps a layer gets at most."""


@dataclass(frozen=True, eq=False)
class KnowledgeNeurons(Result):
    """What each memory vector contributes to the probability of a fact.

    Attributes:
        about: the model.
        fact: prompt and target, as text.
        probability: of the target's first token that tells it apart.
        attribution: `[layer d_mlp]`, shares of probability.
        without: the probability with all coefficients of a layer at 0, `[layer]`.
        steps: points of the quadrature, of layers that needed no more.
    """

    about: str
    fact: str
    probability: float
    attribution: Float[Tensor, "layer d_mlp"]
    without: Float[Tensor, "layer"]
    steps: int

    @property
    def completeness_gap(self) -> Float[Tensor, "layer"]:
        """How far the attributions of a layer are from adding up, in probability."""
        return self.attribution.sum(dim=1) - (self.probability - self.without)

    def top(self, n: int = 20) -> list[Vector]:
        """Layer and index of the vectors with the largest attributions, downwards."""
        return largest(self.attribution.clamp_min(0.0), n)

    def _facts(self) -> Mapping[str, Any]:
        most = " ".join(f"L{layer}:{index}" for layer, index in self.top(4))
        gap = float(self.completeness_gap.abs().max())
        about = f"{self.fact}: {self.about}"
        return {"": about, "probability": self.probability, "most": most, "largest gap": gap}

    def to_dataframe(self) -> Any:
        """One row per memory vector."""
        n_layers, d_mlp = self.attribution.shape
        return frame_of(
            {
                "layer": np.repeat(np.arange(n_layers), d_mlp),
                "index": np.tile(np.arange(d_mlp), n_layers),
                "attribution": self.attribution.flatten(),
            }
        )


@takes(model=hooked_model)
def knowledge_neurons(
    model: RunningModel,
    prompt: Text,
    target: Text,
    *,
    steps: int = 20,
    tolerance: float = 0.01,
    prepend_bos: bool | None = None,
) -> KnowledgeNeurons:
    """Attribute the probability of a fact to memory vectors by integrated gradients.

    A pass and a backward pass of `steps` rows for every layer.

    Args:
        model: the model; whatever is attached to it is in every pass.
        prompt: one text, or its token ids.
        target: what follows it; the first token that tells it apart counts.
        steps: points of the quadrature; a layer that misses too much gets two, four and eight
            times as many.
        tolerance: how much probability a layer's attributions may miss.
        prepend_bos: of text, as `HookedModel.to_tokens`.

    Raises:
        ValueError: the attributions of a layer do not add up within the tolerance.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; give at least 1")
    item = lens_items(model, [prompt], [target], prepend_bos=prepend_bos)[0]
    coefficients, _ = used(model, item.read_ids, len(item.read_ids) - 1)
    found = [
        _of_layer(model, item, layer, own, steps, tolerance)
        for layer, own in enumerate(coefficients)
    ]
    attributions, without, whole = (torch.stack(parts) for parts in zip(*found, strict=True))
    texts = [item.prompt or str(item.prompt_ids), item.target or str(item.target_ids)]
    result = KnowledgeNeurons(
        about=model.name,
        fact=" → ".join(texts),
        probability=float(whole[0]),
        attribution=attributions,
        without=without,
        steps=steps,
    )
    gaps = result.completeness_gap.abs()
    if not float(gaps.max()) <= tolerance:
        raise ValueError(
            f"the attributions of layer {int(gaps.argmax())} miss {float(gaps.max()):.3g} of "
            f"probability with {_MOST * steps} steps; give more steps, or a larger tolerance"
        )
    return result


def _of_layer(
    model: RunningModel,
    item: LensItem,
    layer: int,
    own: Float[Tensor, "d_mlp"],
    steps: int,
    tolerance: float,
) -> tuple[Float[Tensor, "d_mlp"], Float[Tensor, ""], Float[Tensor, ""]]:
    """Attributions of a layer, and the probability without its coefficients and with them."""
    for points in (steps * factor for factor in (1, 2, 4, _MOST)):
        places, weights = np.polynomial.legendre.leggauss(points)
        # From -1 to 1 there; the two ends, which the check of completeness needs, weigh nothing.
        shares = own.new_tensor([*(places + 1) / 2, 0.0, 1.0])
        probabilities, slopes = _along(model, item, layer, shares[:, None] * own)
        weighted = own.new_tensor([*weights / 2, 0.0, 0.0])[:, None] * slopes
        attribution, (without, whole) = own * weighted.sum(dim=0), probabilities[-2:]
        if float((attribution.sum() - (whole - without)).abs()) <= tolerance:
            break
    return attribution, without, whole


def _along(
    model: RunningModel, item: LensItem, layer: int, rows: Float[Tensor, "row d_mlp"]
) -> tuple[Float[Tensor, "row"], Float[Tensor, "row d_mlp"]]:
    """The target's probability with other coefficients at the last position, and its slopes."""
    ids = torch.tensor([item.read_ids])
    found, slopes = [], []
    for some in rows.split(max(1, BATCH_TOKENS // ids.shape[1])):
        given = some.to(model.device).requires_grad_()

        def put(tensor: Tensor, _point: HookPoint, given: Tensor = given) -> Tensor:
            last = given.to(tensor)[:, None]
            return torch.cat([tensor[:, :-1], last], dim=1)

        batch = as_token_batch({"input_ids": ids.expand(len(some), -1)})
        point = HookPoint(Site.MLP_COEFFICIENTS, layer)
        with torch.enable_grad(), model.evaluating(), model.hooks([(point, put)]):
            logits = wide(unembed(model.anatomy, model.trunk(batch)[:, -1]))
            probability = logits.softmax(dim=-1)[:, item.first_id]
            (slope,) = torch.autograd.grad(probability.sum(), given)
        found.append(probability.detach().cpu())
        slopes.append(slope.cpu())
    return torch.cat(found), torch.cat(slopes)
