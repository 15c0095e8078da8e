r"""What each memory vector has to do with a fact: knowledge neurons, and changes in training.

**Knowledge neurons.** The coefficients :math:`c` of one layer, at the position where the fact is
read, are scaled from 0 to what they are. With :math:`P(\alpha c)` the probability of the target
then, a memory vector is attributed

.. math:: c_i \int_0^1 \frac{\partial P(\alpha c)}{\partial c_i} \, d\alpha ,

by Gauss-Legendre quadrature. The attributions of a layer add up to :math:`P(c) - P(0)`, which is
checked in every layer.

**Changes.** A memory vector :math:`m` adds :math:`c\,m \cdot d` to the logit of a fact, along the
direction :math:`d` that the final norm and the unembedding read. Between two checkpoints this
changes by what comes of the coefficient, of the vector and of the readout:

.. math:: (c' - c)\,m \cdot d \;+\; c'\,(m' - m) \cdot d \;+\; c'\,m' \cdot (d' - d) .

Source: Dai et al., arXiv 2104.08696, equation 3 (there with 20 equal steps); Sundararajan et al.,
arXiv 1703.01365; Geva et al., arXiv 2203.14680, for the decomposition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.attribution import Readout
from probes.checking import hooked_model, takes, wide
from probes.corpus.token_batch import as_token_batch
from probes.memory.vectors import PromotedTokens, Vector, largest, used, written_tokens
from probes.prompts import LensItem, Text, lens_items
from probes.readout import unembed
from probes.running_model import RunningModel
from probes.shown import Result, frame_of
from probes.sites import HookPoint, Site

_BATCH_TOKENS = 2048  # tokens of the rows that run at once
_MOST = 8  # how many times as many steps a layer gets at most


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
    for some in rows.split(max(1, _BATCH_TOKENS // ids.shape[1])):
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


@dataclass(frozen=True, eq=False)
class FactChanges(Result):
    """What memory vectors add to the logit of a fact, in two checkpoints of a model.

    Attributes:
        about: the two.
        fact: prompt and target, as text.
        before: what each adds in the first, `[layer d_mlp]`.
        after: in the second.
        from_coefficient: the part of the difference that comes from the coefficient.
        from_vector: from the memory vector itself.
        from_readout: from norms and unembedding.
        moved: the distance between the two vectors over the norm of the first, `[layer d_mlp]`.
        vectors: layer and index of those with the largest differences, in order.
        written: the tokens that these promote and suppress in the second.
    """

    about: str
    fact: str
    before: Float[Tensor, "layer d_mlp"]
    after: Float[Tensor, "layer d_mlp"]
    from_coefficient: Float[Tensor, "layer d_mlp"]
    from_vector: Float[Tensor, "layer d_mlp"]
    from_readout: Float[Tensor, "layer d_mlp"]
    moved: Float[Tensor, "layer d_mlp"]
    vectors: tuple[Vector, ...]
    written: PromotedTokens

    @property
    def change(self) -> Float[Tensor, "layer d_mlp"]:
        """After less before."""
        return self.after - self.before

    def _facts(self) -> Mapping[str, Any]:
        parts = ("change", "from_coefficient", "from_vector", "from_readout")
        totals = {name.replace("_", " "): float(getattr(self, name).sum()) for name in parts}
        return {"": f"{self.fact}: {self.about}", **totals}

    def to_dataframe(self) -> Any:
        """One row per vector with a large difference, in their order."""
        at = tuple(torch.tensor(axis) for axis in zip(*self.vectors, strict=True))
        names = ("before", "after", "change", "from_coefficient", "from_vector", "from_readout")
        return frame_of(
            {
                "layer": at[0],
                "index": at[1],
                **{name: getattr(self, name)[at] for name in (*names, "moved")},
                "promoted": [list(words) for words in self.written.promoted],
            }
        )

    def by_layer(self) -> Any:
        """One row per layer: sums over its vectors, as a pandas DataFrame."""
        names = ("change", "from_coefficient", "from_vector", "from_readout")
        sums = {name: getattr(self, name).sum(dim=1) for name in names}
        return frame_of({"layer": range(len(self.before)), **sums})


@takes(before=hooked_model, after=hooked_model)
def fact_changes(
    before: RunningModel,
    after: RunningModel,
    prompt: Text,
    target: Text,
    *,
    n: int = 20,
    k: int = 10,
    prepend_bos: bool | None = None,
) -> FactChanges:
    """What was written where: the change of what memory vectors add to a fact.

    Args:
        before: one checkpoint of a model.
        after: another.
        prompt: one text, or its token ids.
        target: what follows it; the first token that tells it apart counts.
        n: how many vectors to name.
        k: how many promoted tokens of each.
        prepend_bos: of text, as `HookedModel.to_tokens`.

    Raises:
        ValueError: the two differ in shape or in how they split the prompt.
    """
    shapes = [
        (model.architecture.family, model.n_layers, model.d_mlp, model.d_model)
        for model in (before, after)
    ]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{before.name} has family, layers, d_mlp and d_model {shapes[0]}, {after.name} "
            f"{shapes[1]}; "
            "give two checkpoints of one model"
        )
    items = [
        lens_items(model, [prompt], [target], prepend_bos=prepend_bos)[0]
        for model in (before, after)
    ]
    if (items[0].read_ids, items[0].first_id) != (items[1].read_ids, items[1].first_id):
        raise ValueError(
            f"the tokenizers of {before.name} and {after.name} split this prompt differently; give "
            "two checkpoints of one model, or token ids"
        )
    item = items[0]
    place = len(item.read_ids) - 1
    one, two = (Readout.of(m, item.read_ids, place, [item.first_id]) for m in (before, after))
    parts = [_parts(one.mlp(layer)[:3], two.mlp(layer)[:3]) for layer in range(before.n_layers)]
    found = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    vectors = largest((found["after"] - found["before"]).abs(), n)
    texts = [item.prompt or str(item.prompt_ids), item.target or str(item.target_ids)]
    at = [f"{m.name} at {m.revision}" if m.revision else m.name for m in (before, after)]
    return FactChanges(
        about=f"{at[0]} to {at[1]}",
        fact=" → ".join(texts),
        vectors=tuple(vectors),
        written=written_tokens(after, vectors, k),
        **found,
    )


@torch.no_grad()
def _parts(
    before: tuple[Tensor, Tensor, Tensor], after: tuple[Tensor, Tensor, Tensor]
) -> dict[str, Tensor]:
    """The change of a layer, from coefficients, memory vectors and direction of either."""
    (c, m, d), (c_new, m_new, d_new) = before, after
    difference = m_new - m
    return {
        "before": c * (m @ d),
        "after": c_new * (m_new @ d_new),
        "from_coefficient": (c_new - c) * (m @ d),
        "from_vector": c_new * (difference @ d),
        "from_readout": c_new * (m_new @ (d_new - d)),
        "moved": difference.norm(dim=1) / m.norm(dim=1).clamp_min(torch.finfo(m.dtype).tiny),
    }
