r"""Changes of a fact: what each memory vector adds to it before and after training.

A memory vector :math:`m` with coefficient :math:`c` adds :math:`c\,m \cdot d` to the logit of a
fact, along the direction :math:`d` that the final norm and the unembedding read. Between two
checkpoints this changes by

.. math:: (c' - c)\,m \cdot d \;+\; c'\,(m' - m) \cdot d \;+\; c'\,m' \cdot (d' - d),

so in three parts that add up: when the vector is used (its coefficient), what is written (the
vector itself), and how the stream is read.

Source: Geva et al., arXiv 2203.14680, for the decomposition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.argument_checks import hooked_model, takes
from probes.attribution import Readout
from probes.memory.vectors import PromotedTokens, Vector, largest, written_tokens
from probes.prompts import Text, lens_items
from probes.running_model import RunningModel
from probes.shown import Result, frame_of


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
    shapes = [(model.n_layers, model.d_mlp, model.d_model) for model in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{before.name} has layers, d_mlp and d_model {shapes[0]}, {after.name} {shapes[1]}; "
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
