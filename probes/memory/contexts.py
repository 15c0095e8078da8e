"""Contexts of memory vectors: the places of a corpus where each has its largest coefficient.

One streaming pass: for every vector only the best k contexts so far are kept, each a window of
tokens with their coefficients, so memory does not grow with the corpus. A row of a batch gives one
context at most, at the position of its largest absolute coefficient, so that the contexts of a
vector come from different texts; a window does not leave its document. The first token of a row
does not count: many models have coefficients of another order there, whatever the token.

Source: Geva et al., arXiv 2012.14913, whose trigger examples these are.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from probes.checking import batches as batches_given
from probes.checking import hooked_model, takes, wide
from probes.corpus.token_batch import PAD_SEGMENT, Batches, TokenBatch, as_batches, as_token_batch
from probes.hooks import stream
from probes.memory.vectors import TopVectors, Vector, checked_vectors
from probes.prompts import shown_tokens
from probes.running_model import RunningModel
from probes.shown import Result, Shown, frame_of
from probes.sites import HookPoint, Site

_NOTHING = -1  # stands for no token, no document


@dataclass(frozen=True, eq=False)
class Context(Shown):
    """One place of a corpus, with what stands around it."""

    document: int  # running number in the corpus
    position: int  # in its row
    coefficient: float
    tokens: tuple[str, ...]
    coefficients: tuple[float, ...]  # the same vector's, of every token of the window
    at: int  # which of the tokens it is

    @property
    def text(self) -> str:
        """The window, with its token between angle quotes."""
        shown = list(self.tokens)
        shown[self.at] = f"\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}{shown[self.at]}" + (
            "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"
        )
        return "".join(shown)


@dataclass(frozen=True, eq=False)
class TopContexts(Result):
    """The contexts in which memory vectors have their largest coefficients.

    Attributes:
        about: the model.
        vectors: layer and index of each.
        contexts: of each vector, the largest absolute coefficient first.
        documents: how many documents were read.
        tokens: how many tokens.
    """

    about: str
    vectors: tuple[Vector, ...]
    contexts: tuple[tuple[Context, ...], ...]
    documents: int
    tokens: int

    def _facts(self) -> Mapping[str, Any]:
        read = {"documents": self.documents, "tokens": self.tokens}
        return {"": self.about, "vectors": len(self.vectors), **read}

    def to_dataframe(self) -> Any:
        """One row per vector and context."""
        rows = [
            (*vector, rank, one.document, one.position, one.coefficient, one.text)
            for vector, contexts in zip(self.vectors, self.contexts, strict=True)
            for rank, one in enumerate(contexts)
        ]
        names = ("layer", "index", "rank", "document", "position", "coefficient", "text")
        columns = zip(*rows, strict=True)
        return frame_of(dict(zip(names, columns, strict=True)))


@takes(model=hooked_model, batches=batches_given)
def top_contexts(
    model: RunningModel,
    batches: Batches,
    vectors: Sequence[Vector] | TopVectors,
    *,
    k: int = 5,
    before: int = 24,
    after: int = 8,
) -> TopContexts:
    """The contexts of a corpus in which each of some memory vectors has its largest coefficients.

    Args:
        model: the model; whatever is attached to it is in every pass.
        batches: `input_ids` and `attention_mask`, `[batch pos]`; gone through once.
        vectors: pairs of layer and index, or what `top_vectors` has found.
        k: how many contexts of each, from different rows.
        before: how many tokens of a context to keep before its own.
        after: how many after it.

    Raises:
        ValueError: a vector does not exist, there are no batches, or a setting is out of range.
    """
    if k < 1 or before < 0 or after < 0:
        raise ValueError(
            f"k is {k}, before {before} and after {after}; give 1 or more, 0 or more, 0 or more"
        )
    given = vectors.vectors if isinstance(vectors, TopVectors) else list(vectors)
    wanted = list(dict.fromkeys(checked_vectors(model, given)))
    of_layer: dict[int, list[int]] = defaultdict(list)
    for layer, index in wanted:
        of_layer[layer].append(index)
    source = _Noted(batches)
    reducers: dict[str | HookPoint, Any] = {
        HookPoint(Site.MLP_COEFFICIENTS, layer): Contexts(source, indices, k, (before, after))
        for layer, indices in of_layer.items()
    }
    found = stream(model, source, reducers)
    by_vector = {
        (point.layer, index): contexts
        for point, state in found.items()
        if isinstance(point, HookPoint) and point.layer is not None
        for index, contexts in zip(
            of_layer[point.layer], _listed(model, state, before), strict=True
        )
    }
    return TopContexts(
        about=model.name,
        vectors=tuple(wanted),
        contexts=tuple(tuple(by_vector[vector]) for vector in wanted),
        documents=source.documents,
        tokens=source.tokens,
    )


class _Noted:
    def __init__(self, batches: Batches) -> None:
        self._batches = as_batches(batches)
        self.documents = self.tokens = 0
        self.now: TokenBatch | None = None

    def __iter__(self) -> Iterator[TokenBatch]:
        for batch in self._batches:
            self.now = as_token_batch(batch, document_offset=self.documents)
            self.documents = max(self.documents, int(self.now.segment_ids.max()) + 1)
            self.tokens += int(self.now.attention_mask.sum())
            yield self.now


@dataclass(frozen=True)
class State:
    """The best contexts so far; `slot` runs over them, the largest coefficient first."""

    coefficient: Float[Tensor, "vector slot"]
    document: Int64[Tensor, "vector slot"]
    position: Int64[Tensor, "vector slot"]
    ids: Int64[Tensor, "vector slot window"]
    coefficients: Float[Tensor, "vector slot window"]

    def best(self, k: int) -> "State":
        """The k contexts with the largest absolute coefficients."""
        strength = self.coefficient.abs().where(self.document != _NOTHING, -1.0)
        kept = strength.topk(min(k, strength.shape[1]), dim=1).indices

        def take(part: Tensor) -> Tensor:
            index = kept if part.ndim == 2 else kept[..., None].expand(-1, -1, part.shape[2])
            return part.gather(1, index)

        return State(*(take(getattr(self, field.name)) for field in fields(State)))

    def with_others(self, other: "State") -> "State":
        names = [field.name for field in fields(State)]
        return State(*(torch.cat([getattr(self, n), getattr(other, n)], dim=1) for n in names))


class Contexts:
    """Keeps the best contexts of some memory vectors of a layer, as coefficients come by."""

    def __init__(
        self, source: _Noted, indices: Sequence[int], k: int, around: tuple[int, int]
    ) -> None:
        self._source, self._k = source, k
        self._indices = torch.tensor(indices)
        self._window = torch.arange(-around[0], around[1] + 1)
        self._state: State | None = None

    def update(
        self, values: Float[Tensor, "batch pos d_mlp"], mask: Bool[Tensor, "batch pos"]
    ) -> None:
        chosen = wide(values[..., self._indices.to(values.device)])
        # The first token stays out, unless it is the only one.
        later = mask & (mask.cumsum(dim=1) > 1)
        there = later.where(later.any(dim=1, keepdim=True), mask)[..., None].to(values.device)
        place = chosen.abs().where(there, -1.0).argmax(dim=1).T
        batch = self._source.now
        assert batch is not None
        self._add(self._contexts(batch, chosen.permute(2, 0, 1).cpu(), place.cpu()))

    def merge(self, other: "Contexts") -> None:
        if other._state is not None:
            self._add(other._state)

    def result(self) -> State:
        assert self._state is not None
        return self._state

    def _add(self, found: State) -> None:
        whole = found if self._state is None else self._state.with_others(found)
        self._state = whole.best(self._k)

    def _contexts(
        self,
        batch: TokenBatch,
        coefficients: Float[Tensor, "vector batch pos"],
        place: Int64[Tensor, "vector batch"],
    ) -> State:
        """One context of every row for every vector."""
        ids, segments = batch.input_ids.cpu(), batch.segment_ids.cpu()
        rows = torch.arange(len(ids)).expand_as(place)
        document = segments[rows, place]
        around = place[..., None] + self._window
        inside = (around >= 0) & (around < ids.shape[1])
        around = around.clamp(0, ids.shape[1] - 1)
        near = rows[..., None]
        inside &= (segments[near, around] == document[..., None]) & (document != PAD_SEGMENT)[
            ..., None
        ]
        return State(
            coefficient=coefficients.gather(2, place[..., None])[..., 0],
            document=document,
            position=place,
            ids=ids[near, around].where(inside, _NOTHING),
            coefficients=coefficients.gather(2, around),
        )


def _listed(model: RunningModel, state: State, before: int) -> Iterator[list[Context]]:
    columns = [getattr(state, field.name).tolist() for field in fields(State)]
    for coefficient, document, position, ids, coefficients in zip(*columns, strict=True):
        slots = zip(coefficient, document, position, ids, coefficients, strict=True)
        yield [_context(model, before, *slot) for slot in slots if slot[1] != _NOTHING]


def _context(
    model: RunningModel,
    before: int,
    coefficient: float,
    document: int,
    position: int,
    ids: list[int],
    coefficients: list[float],
) -> Context:
    there = [place for place, token in enumerate(ids) if token != _NOTHING]
    values = [coefficients[place] for place in there]
    return Context(
        document=document,
        position=position,
        coefficient=coefficient,
        tokens=tuple(shown_tokens(model, [ids[place] for place in there])),
        coefficients=tuple(values),
        at=there.index(before),
    )
