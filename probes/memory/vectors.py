r"""Memory vectors of a prompt: which are used most at a position, and which tokens they write.

With the coefficient :math:`c` of a memory vector :math:`m`, its **contribution** is :math:`|c| \,
\|m\|`, how much of the stream it writes, and its **logit** what it adds to the logit of a token
(`probes.attribution`). The tokens that a vector promotes and suppresses are those whose logits it
raises and lowers most: the vector, divided by its own root mean square, times the weight of the
final norm, times the unembedding. No bias and no soft-cap is in these scores, since every vector
would get the same ones. Where a block norms what its MLP has written, that norm's weight is in.

Source: Geva et al., arXiv 2012.14913 and 2203.14680.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.attribution import OnePrompt, logit_attribution, mlp_norm
from probes.checking import hooked_model, takes, wide
from probes.choices import VectorOrder, as_choice
from probes.corpus.token_batch import as_token_batch
from probes.hooks import capture
from probes.projections import centred_as, kind_of, matrix_of, weight_of
from probes.prompts import Ids, one_prompt, place_in, shown_tokens
from probes.refusals import shown
from probes.running_model import RunningModel
from probes.shown import Result, frame_of
from probes.sites import Site

Vector = tuple[int, int]  # layer, and index of the memory vector in it
_SHOWN = 3  # tokens of a vector that a line has
_ROWS = 64  # vectors whose logits are computed at once


@dataclass(frozen=True, eq=False)
class PromotedTokens(Result):
    """The tokens that memory vectors raise and lower most, strongest first.

    Attributes:
        vectors: layer and index of each.
        promoted: tokens as text.
        promoted_scores: what is added to their logits by a vector of root mean square 1.
        suppressed: tokens as text.
        suppressed_scores: as above.
    """

    vectors: tuple[Vector, ...]
    promoted: tuple[tuple[str, ...], ...]
    promoted_scores: Float[Tensor, "vector k"]
    suppressed: tuple[tuple[str, ...], ...]
    suppressed_scores: Float[Tensor, "vector k"]

    def _facts(self) -> Mapping[str, Any]:
        return {
            f"L{layer} {index}": " ".join(tokens[:_SHOWN])
            for (layer, index), tokens in zip(self.vectors, self.promoted, strict=True)
        }

    def to_dataframe(self) -> Any:
        """One row per vector and rank, with the promoted and the suppressed token."""
        rows = [
            (*vector, rank, *both)
            for vector, *four in zip(
                self.vectors,
                self.promoted,
                self.promoted_scores.tolist(),
                self.suppressed,
                self.suppressed_scores.tolist(),
                strict=True,
            )
            for rank, both in enumerate(zip(*four, strict=True))
        ]
        names = ("layer", "index", "rank", "promoted", "promoted_score", "suppressed")
        columns = zip(*rows, strict=True)
        return frame_of(dict(zip((*names, "suppressed_score"), columns, strict=True)))


@takes(model=hooked_model)
def promoted_tokens(
    model: RunningModel, layer: int, index: int | Sequence[int], k: int = 10
) -> PromotedTokens:
    """The tokens that memory vectors of a layer promote and suppress.

    Args:
        model: the model.
        layer: their layer; below 0 from the last.
        index: of one vector, or of several.
        k: how many tokens of either kind.

    Raises:
        ValueError: the layer or a vector does not exist.
    """
    listed = [index] if isinstance(index, int) else list(index)
    return written_tokens(model, checked_vectors(model, [(layer, one) for one in listed]), k)


def checked_vectors(model: RunningModel, vectors: Any) -> list[Vector]:
    """Pairs of layer and index, both from 0."""
    found = []
    for vector in [vectors] if _is_pair(vectors) else vectors:
        if not _is_pair(vector):
            raise ValueError(
                f"a memory vector is a pair of layer and index, found {shown(vector)}; give a list "
                "of pairs, such as [(3, 17)]"
            )
        layer, index = vector
        point = model.hook_point((Site.MLP_COEFFICIENTS, layer))
        if not 0 <= index < model.d_mlp:
            raise ValueError(
                f"memory vector {index} does not exist; a layer of {model.name} has 0 to "
                f"{model.d_mlp - 1}"
            )
        assert point.layer is not None
        found.append((point.layer, int(index)))
    if not found:
        raise ValueError("there are no memory vectors; give pairs of layer and index")
    return found


def _is_pair(value: Any) -> bool:
    is_two = isinstance(value, tuple | list) and len(value) == 2
    return is_two and all(isinstance(number, Integral) for number in value)


@torch.no_grad()
def written_tokens(
    model: RunningModel, vectors: Sequence[Vector], k: int, signs: Sequence[float] | None = None
) -> PromotedTokens:
    """The tokens that vectors promote and suppress; a sign of -1 is a vector that is taken away."""
    k = min(k, model.d_vocab)
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1 token")
    factors = torch.ones(len(vectors)) if signs is None else torch.tensor(list(signs))
    rows = torch.stack([_added(model, vector) for vector in vectors]) * factors[:, None]
    columns = wide(matrix_of(model.anatomy.unembed))
    tops: list[list[Tensor]] = [[], [], [], []]
    for some in rows.split(_ROWS):
        scores = some.to(columns) @ columns * model.anatomy.logit_scale
        up, down = scores.topk(k), scores.topk(k, largest=False)
        parts = (up.indices, up.values, down.indices, down.values)
        for whole, part in zip(tops, parts, strict=True):
            whole.append(part.cpu())
    up_ids, up_scores, down_ids, down_scores = map(torch.cat, tops)
    return PromotedTokens(
        vectors=tuple(vectors),
        promoted=tuple(tuple(shown_tokens(model, row)) for row in up_ids.tolist()),
        promoted_scores=up_scores,
        suppressed=tuple(tuple(shown_tokens(model, row)) for row in down_ids.tolist()),
        suppressed_scores=down_scores,
    )


def _added(model: RunningModel, vector: Vector) -> Float[Tensor, "d_model"]:
    """A memory vector as the unembedding reads it, through the weights of norms."""
    anatomy = model.anatomy
    layer = anatomy.layers[vector[0]]
    row = wide(layer.memory_vectors[vector[1]]).cpu()
    for norm in filter(None, (mlp_norm(layer), anatomy.final_norm)):
        row = centred_as(kind_of(norm, anatomy.d_model), row)
        row = row / row.pow(2).mean().sqrt().clamp_min(torch.finfo(row.dtype).tiny)
        weight = weight_of(norm, anatomy.d_model)
        row = row * (weight.to(row) if isinstance(weight, Tensor) else weight)
    return row


@dataclass(frozen=True, eq=False)
class TopVectors(Result):
    """The memory vectors that a position of a prompt uses most, in order.

    Attributes:
        about: the model.
        prompt: its tokens.
        position: from the start.
        order: what they are put in order by.
        token: the token whose logit they add to, as text; None where none was asked for.
        vectors: layer and index of each.
        coefficient: with its sign, `[vector]`.
        contribution: absolute coefficient times the norm of the vector, `[vector]`.
        logit: what each adds to the token's logit, `[vector]`; NaN where none was asked for.
        written: the tokens that each promotes and suppresses there, its sign counted in.
    """

    about: str
    prompt: tuple[str, ...]
    position: int
    order: VectorOrder
    token: str | None
    vectors: tuple[Vector, ...]
    coefficient: Float[Tensor, "vector"]
    contribution: Float[Tensor, "vector"]
    logit: Float[Tensor, "vector"]
    written: PromotedTokens

    def _facts(self) -> Mapping[str, Any]:
        most = zip(self.vectors, self.written.promoted, strict=True)
        about = f"by {self.order}, {self.about}"
        return {"": about, **{f"L{n} {i}": " ".join(words[:_SHOWN]) for (n, i), words in most}}

    def to_dataframe(self) -> Any:
        """One row per vector, with its numbers, and its tokens in two columns."""
        frame = frame_of(
            {
                "layer": [layer for layer, _ in self.vectors],
                "index": [index for _, index in self.vectors],
                "coefficient": self.coefficient,
                "contribution": self.contribution,
                "logit": self.logit,
                "promoted": [list(words) for words in self.written.promoted],
                "suppressed": [list(words) for words in self.written.suppressed],
            }
        )
        return frame if self.token is not None else frame.drop(columns="logit")


@takes(model=hooked_model)
def top_vectors(
    model: RunningModel,
    prompt: OnePrompt,
    *,
    position: int = -1,
    n: int = 10,
    by: VectorOrder | str | None = None,
    token: str | int | None = None,
    layers: Sequence[int] | int | None = None,
    k: int = 10,
    prepend_bos: bool | None = None,
) -> TopVectors:
    """The memory vectors that a position of a prompt uses most.

    Args:
        model: the model; whatever is attached to it is in the pass.
        prompt: one text, or its token ids.
        position: below 0 from the end.
        n: how many vectors.
        by: `"coefficient"`, `"contribution"` or `"logit"`; None for the logit where there is a
            token, for the contribution otherwise.
        token: the token whose logit they add to, as text that is one token or as its id.
        layers: of this layer, or these, only.
        k: how many promoted and suppressed tokens of each.
        prepend_bos: of text, as `HookedModel.to_tokens`.

    Raises:
        ValueError: the position or a layer does not exist, or the order is by a logit and no token
            is given.
    """
    ids = one_prompt(model, prompt, prepend_bos)
    place = place_in(position, len(ids))
    order = as_choice(VectorOrder, by or ("contribution" if token is None else "logit"), "by")
    if order is VectorOrder.LOGIT and token is None:
        raise ValueError("by is 'logit', and there is no token; give the token whose logit it is")
    coefficients, contributions = used(model, ids, place)
    logits = torch.full_like(coefficients, float("nan"))
    if token is not None:
        logits = logit_attribution(model, list(ids), token, position=place).memory
    ordered = {
        VectorOrder.COEFFICIENT: coefficients.abs(),
        VectorOrder.CONTRIBUTION: contributions,
        VectorOrder.LOGIT: logits.abs(),
    }[order]
    vectors = largest(_only(model, ordered, layers), n)
    at = tuple(torch.tensor(axis) for axis in zip(*vectors, strict=True))
    return TopVectors(
        about=model.name,
        prompt=tuple(shown_tokens(model, ids)),
        position=place,
        order=order,
        token=token if token is None or isinstance(token, str) else shown_tokens(model, [token])[0],
        vectors=tuple(vectors),
        coefficient=coefficients[at],
        contribution=contributions[at],
        logit=logits[at],
        written=written_tokens(model, vectors, k, torch.sign(coefficients[at]).tolist()),
    )


def used(
    model: RunningModel, ids: Ids, place: int
) -> tuple[Float[Tensor, "layer d_mlp"], Float[Tensor, "layer d_mlp"]]:
    """Coefficients at a position, and contributions."""
    batch = as_token_batch({"input_ids": torch.tensor([ids])})
    found = capture(model, batch, Site.MLP_COEFFICIENTS)
    layers = range(model.n_layers)
    rows = [wide(found[Site.MLP_COEFFICIENTS, layer][0, place]).cpu() for layer in layers]
    coefficients = torch.stack(rows)
    with torch.no_grad():
        vectors = (wide(layer.memory_vectors) for layer in model.anatomy.layers)
        norms = torch.stack([rows.norm(dim=1).cpu() for rows in vectors])
    return coefficients, coefficients.abs() * norms


def _only(model: RunningModel, values: Tensor, layers: Sequence[int] | int | None) -> Tensor:
    if layers is None:
        return values
    kept = torch.full_like(values, -1.0)
    for layer in [layers] if isinstance(layers, int) else layers:
        number = model.hook_point((Site.MLP_COEFFICIENTS, layer)).layer
        kept[number] = values[number]
    return kept


def largest(values: Float[Tensor, "layer d_mlp"], n: int) -> list[Vector]:
    """Layers and indices of the largest values; those below 0 do not count."""
    if n < 1:
        raise ValueError(f"n is {n}; give at least 1 vector")
    top = values.flatten().topk(min(n, int((values >= 0).sum())))
    return [divmod(place, values.shape[1]) for place in top.indices.tolist()]


@dataclass(frozen=True, eq=False)
class SharedVectors(Result):
    """The memory vectors that are among those which two prompts use most.

    Attributes:
        about: the model.
        n: how many of each prompt were compared.
        expected: how many would be shared if each prompt drew its own at random.
        vectors: layer and index of the shared ones, by the smaller of their two numbers.
        first: coefficients in the first prompt, `[vector]`.
        second: in the second.
    """

    about: str
    n: int
    expected: float
    vectors: tuple[Vector, ...]
    first: Float[Tensor, "vector"]
    second: Float[Tensor, "vector"]

    @property
    def share(self) -> float:
        """Share of the n that both prompts use."""
        return len(self.vectors) / self.n

    def _facts(self) -> Mapping[str, Any]:
        found = f"{len(self.vectors)} of {self.n} ({self.share:.0%})"
        return {"": self.about, "shared": found, "at random": self.expected}

    def to_dataframe(self) -> Any:
        """One row per shared vector, with its coefficient in either prompt."""
        return frame_of(
            {
                "layer": [layer for layer, _ in self.vectors],
                "index": [index for _, index in self.vectors],
                "first": self.first,
                "second": self.second,
            }
        )


@takes(model=hooked_model)
def shared_vectors(
    model: RunningModel,
    first: OnePrompt,
    second: OnePrompt,
    *,
    n: int = 100,
    by: VectorOrder | str = VectorOrder.CONTRIBUTION,
    position: int = -1,
    prepend_bos: bool | None = None,
) -> SharedVectors:
    """The memory vectors that two prompts share, among the n that each uses most.

    Args:
        model: the model.
        first: one text, or its token ids.
        second: another.
        n: how many vectors of each.
        by: `"coefficient"` or `"contribution"`.
        position: in both, below 0 from the end.
        prepend_bos: of texts, as `HookedModel.to_tokens`.

    Raises:
        ValueError: the position does not exist in both, or the order needs a token.
    """
    order = as_choice(VectorOrder, by, "by")
    if order is VectorOrder.LOGIT:
        raise ValueError("by is 'logit'; give 'coefficient' or 'contribution' to compare prompts")
    found = []
    for prompt in (first, second):
        ids = one_prompt(model, prompt, prepend_bos)
        coefficients, contributions = used(model, ids, place_in(position, len(ids)))
        chosen = coefficients.abs() if order is VectorOrder.COEFFICIENT else contributions
        found.append((coefficients, chosen, largest(chosen, n)))
    (one, size_one, top_one), (two, size_two, top_two) = found
    smaller = torch.minimum(size_one, size_two)
    shared = sorted({*top_one} & {*top_two}, key=lambda vector: -float(smaller[vector]))
    n = len(top_one)
    return SharedVectors(
        about=model.name,
        n=n,
        expected=n * n / one.numel(),
        vectors=tuple(shared),
        first=torch.tensor([float(one[vector]) for vector in shared]),
        second=torch.tensor([float(two[vector]) for vector in shared]),
    )
