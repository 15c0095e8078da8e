"""Training batches, and where they come from: rows of tokens, or data of one's own.

A source gives the batch of every step as a pure function of the step's number, so that a run that
goes on after being killed needs no other cursor. Labels are Hugging Face's: the token at each
position, or -100 where it is not trained on. A row of one's own is a list of token ids, or a
mapping with `input_ids`, `labels` and `attention_mask`; text is packed by `training.corpus_source`.

Example:
    >>> source = ExampleSource([[5, 6, 7], [8, 9]], batch_size=2)
    >>> source.batch(0).labels.tolist()
    [[5, 6, 7], [8, 9, -100]]
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from probes.corpus.sources import ContentHash
from probes.refusals import not_callable_with, shown
from training.runs.records import InjectionRecord
from training.settings import LoopSettings

IGNORED = -100  # the label of a token that is not trained on
_TENSORS = ("input_ids", "labels", "attention_mask", "segment_ids", "sources", "weights")


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Rows of tokens, and which of them are trained on.

    Attributes:
        labels: the tokens themselves, or -100.
        attention_mask: 1 on tokens, 0 on pads.
        segment_ids: a number for each document in a row; where given, attention stays inside a
            document and its positions count from 0. The first token of a document is then still
            predicted from the last of the document before, unless its label is -100.
        sources: which of its source's `source_names` each token is from; where given, the loss is
            also recorded for each of them.
        weights: how much the loss of each token counts: where given, the loss is a weighted mean.
        examples: how many examples there are, where rows are packed with several.
    """

    input_ids: Int64[Tensor, "batch pos"]
    labels: Int64[Tensor, "batch pos"]
    attention_mask: Int64[Tensor, "batch pos"]
    segment_ids: Int64[Tensor, "batch pos"] | None = None
    sources: Int64[Tensor, "batch pos"] | None = None
    weights: Float[Tensor, "batch pos"] | None = None
    examples: int | None = None

    @property
    def n_rows(self) -> int:
        """Rows."""
        return self.input_ids.shape[0]

    @property
    def trained_tokens(self) -> int:
        """Tokens that are predicted and count in the loss; the first of a row cannot be."""
        return int(self._trained().sum())

    @property
    def trained_weight(self) -> float:
        """What the summed loss is divided by: the trained tokens, each by its weight."""
        if self.weights is None:
            return float(self.trained_tokens)
        return float(self.weights[:, 1:][self._trained()].double().sum())

    def trained_by_source(self, sources: int) -> Int64[Tensor, " source"]:
        """Trained tokens of each of so many sources."""
        assert self.sources is not None
        return self.sources[:, 1:][self._trained()].bincount(minlength=sources)

    def rows(self, which: slice) -> "TrainingBatch":
        """Some of the rows."""
        return self._each(lambda tensor: tensor[which])

    def share(self, rank: int, processes: int) -> "TrainingBatch":
        """The block of rows that one of several processes takes.

        All blocks have as many rows; the last are filled up with rows that are not trained on.
        """
        each = math.ceil(self.n_rows / processes)
        own = self.rows(slice(rank * each, (rank + 1) * each))
        last = self.rows(slice(-1, None))
        filling = replace(last, labels=torch.full_like(last.labels, IGNORED))
        return joined([own, *[filling] * (each - own.n_rows)])

    def cut(self, rows: int | None) -> list["TrainingBatch"]:
        """The batch in pieces of so many rows, the last perhaps of fewer; None for one piece.

        Columns at the end of a piece that hold nothing but pads are left out.
        """
        size, pieces = rows or self.n_rows, []
        for first in range(0, self.n_rows, size):
            piece = self.rows(slice(first, first + size))
            used = ((piece.attention_mask != 0) | (piece.labels != IGNORED)).any(dim=0).nonzero()
            width = int(used[-1]) + 1 if len(used) else 1
            pieces.append(piece._each(itemgetter((slice(None), slice(width)))))
        return pieces

    def _trained(self) -> Bool[Tensor, "batch following"]:
        return self.labels[:, 1:] != IGNORED

    def _each(self, function: Callable[[Tensor], Tensor]) -> "TrainingBatch":
        given = ((name, getattr(self, name)) for name in _TENSORS)
        tensors: dict[str, Any] = {name: function(t) for name, t in given if t is not None}
        return replace(self, **tensors)


@runtime_checkable
class BatchSource(Protocol):
    """Gives the global batch of every step, always the same for the same step."""

    steps_available: int | None
    """How many batches there are; None for any number."""

    def batch(self, step: int) -> TrainingBatch:
        """What update `step + 1` is made from; steps count from 0."""

    def describe(self) -> dict[str, Any]:
        """Everything that decides the batches, as JSON takes it."""


@runtime_checkable
class NamedSources(BatchSource, Protocol):
    """A source whose tokens are from several data sets, and whose batches say from which."""

    source_names: tuple[str, ...]  # what the numbers in `TrainingBatch.sources` stand for


@runtime_checkable
class InjectingSource(BatchSource, Protocol):
    """A source that puts passages into some of its batches, and answers for them."""

    def injections_at(self, step: int) -> InjectionRecord | None:
        """What was put into `batch(step)`; None where nothing was."""

    def assert_complete(self, steps_done: int) -> None:
        """Assert that after so many steps every planned encounter has happened."""


class RowSource:
    """Batches of plain rows, all of whose tokens are trained on.

    Every epoch goes through all rows once, in an order of its own if they are shuffled; the rows
    that do not fill a last batch are dropped (other ones every epoch, then).

    Args:
        rows: token ids, all rows of one length.
        batch_size: rows of a batch.
        epochs: how often to go through the rows.
        shuffle_seed: of the orders; None for the order given, in every epoch.

    Raises:
        ValueError: there are fewer rows than a batch has, a row has fewer than two tokens, or
            there is no epoch.
    """

    def __init__(
        self,
        rows: Int[np.ndarray, "row pos"],
        batch_size: int,
        *,
        epochs: int = 1,
        shuffle_seed: int | None = None,
    ) -> None:
        if batch_size < 1 or epochs < 1:
            raise ValueError(
                f"batch_size and epochs must be 1 or more, found {batch_size} and {epochs}"
            )
        if not isinstance(rows, np.ndarray) or rows.ndim != 2:
            raise ValueError(
                f"rows is {shown(rows)}; give an array [row pos], or rows of any length to "
                "training.ExampleSource"
            )
        if len(rows) < batch_size:
            raise ValueError(
                f"{len(rows)} rows do not fill one batch of {batch_size}; give more text, shorter "
                f"rows or a smaller batch" + f", of {len(rows)} at most" * bool(len(rows))
            )
        if rows.shape[1] < 2:
            raise ValueError(f"rows of {rows.shape[1]} tokens predict nothing; give longer rows")
        self._rows, self._batch_size = rows, batch_size
        self._epochs, self._shuffle_seed = epochs, shuffle_seed
        self._per_epoch = len(rows) // batch_size
        self.steps_available: int | None = self._per_epoch * epochs

    def batch(self, step: int) -> TrainingBatch:
        """What update `step + 1` is made from.

        Raises:
            ValueError: there are not so many batches.
        """
        return as_training_batch(torch.from_numpy(self._rows[self.rows_at(step)].astype(np.int64)))

    def rows_at(self, step: int) -> Int[np.ndarray, " batch"]:
        """Which rows `batch(step)` has."""
        assert self.steps_available is not None
        if not 0 <= step < self.steps_available:
            raise ValueError(f"there is no batch {step}; these rows give {self.steps_available}")
        epoch, within = divmod(step, self._per_epoch)
        order = np.arange(len(self._rows))
        if self._shuffle_seed is not None:
            order = _shuffled(len(self._rows), self._shuffle_seed, epoch)
        return order[within * self._batch_size :][: self._batch_size]

    def describe(self) -> dict[str, Any]:
        """The number and length of the rows, and how they are gone through."""
        return {
            "kind": "rows",
            "rows": len(self._rows),
            "row_length": self._rows.shape[1],
            "batch_size": self._batch_size,
            "epochs": self._epochs,
            "shuffle_seed": self._shuffle_seed,
            "rows_dropped_each_epoch": len(self._rows) % self._batch_size,
        }


@lru_cache(maxsize=4)
def _shuffled(rows: int, seed: int, epoch: int) -> Int64[np.ndarray, " row"]:
    """The order of an epoch: a function of the seed and the epoch, and of nothing before."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def joined(batches: Sequence[TrainingBatch]) -> TrainingBatch:
    """The rows of batches with the same fields, one after the other."""
    given = [name for name in _TENSORS if getattr(batches[0], name) is not None]
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(batch, name) for batch in batches]) for name in given
    }
    return replace(batches[0], **tensors)


def as_training_batch(ids: Int64[Tensor, "batch pos"], **given: Any) -> TrainingBatch:
    """A batch of full rows, all of whose tokens are trained on; fields can be given otherwise."""
    fields: Mapping[str, Any] = {"labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    return TrainingBatch(input_ids=ids, **{**fields, **given})


Data = BatchSource | Iterable[Any] | Callable[[int], Any]
"""What the loop takes: a source, rows, or a function from a step to its batch."""
_PACKED = "training.corpus_source(probes.load_corpus(texts), model.tokenizer, 512, batch_size)"


class ExampleSource(RowSource):
    """Batches of rows of one's own, shorter ones padded on the right and not trained on there.

    Args:
        rows: lists of token ids, or mappings with `input_ids` and perhaps `labels` and
            `attention_mask`; gone through once, and kept in memory.
        batch_size: rows of a batch.
        epochs: how often to go through the rows.
        shuffle_seed: of the orders; None for the order given, in every epoch.

    Raises:
        ValueError: a row is none, or there are too few.

    Example:
        >>> rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9]}]
        >>> ExampleSource(rows, batch_size=2).batch(0).trained_tokens
        3
    """

    def __init__(
        self,
        rows: Iterable[Any],
        batch_size: int,
        *,
        epochs: int = 1,
        shuffle_seed: int | None = None,
    ) -> None:
        whole = [_row(row, number) for number, row in enumerate(rows)]
        if not whole:
            raise ValueError("there are no rows to train on; an iterator that was used up has none")
        content = ContentHash()
        shape = (3, len(whole), max(len(ids) for ids, _, _ in whole))
        # Ids, labels and mask.
        filled = np.zeros(shape, dtype=np.int64)
        filled[1] = IGNORED
        for place, row in enumerate(whole):
            for part, values in zip(filled, row, strict=True):
                part[place, : len(values)] = values
                content.add_row(values)
        super().__init__(filled[0], batch_size, epochs=epochs, shuffle_seed=shuffle_seed)
        self._filled, self._sha256 = filled, content.value

    def batch(self, step: int) -> TrainingBatch:
        """What update `step + 1` is made from.

        Raises:
            ValueError: there are not so many batches.
        """
        return TrainingBatch(*torch.from_numpy(self._filled[:, self.rows_at(step)]))

    def describe(self) -> dict[str, Any]:
        """The rows, by their hash, and how they are gone through."""
        return {**super().describe(), "kind": "examples", "sha256": self._sha256}


class FunctionSource:
    """Batches that a function makes, always the same for the same step.

    Args:
        function: from the step, counted from 0, to a `TrainingBatch`, to token ids `[batch pos]`
            of full rows, or to a list of rows as for `ExampleSource`.
        steps: how many batches there are; None for any number.

    Example:
        >>> source = FunctionSource(lambda step: [[step, 1, 2], [step, 3]])
        >>> source.batch(7).input_ids[:, 0].tolist()
        [7, 7]
    """

    def __init__(self, function: Callable[[int], Any], steps: int | None = None) -> None:
        self._function = function
        self.steps_available = steps

    def batch(self, step: int) -> TrainingBatch:
        """What update `step + 1` is made from.

        Raises:
            ValueError: the function returns something else than a batch.
        """
        made = self._function(step)
        if isinstance(made, TrainingBatch):
            return made
        if isinstance(made, np.ndarray | torch.Tensor) and made.ndim == 2:
            whole = torch.as_tensor(made)
            if whole.is_floating_point() or whole.is_complex():
                raise ValueError(f"the data for step {step} are of {whole.dtype}; return token ids")
            return as_training_batch(whole.long())
        if not isinstance(made, list | tuple):
            raise ValueError(
                f"the data for step {step} are {shown(made)}; return a TrainingBatch, token ids "
                "[batch pos], or a list of rows"
            )
        return ExampleSource(made, len(made)).batch(0)

    def describe(self) -> dict[str, Any]:
        """The function's name; what it does is not known."""
        kind = self._function if hasattr(self._function, "__qualname__") else type(self._function)
        name = f"{kind.__module__}.{kind.__qualname__}"
        return {"kind": "function", "function": name, "steps": self.steps_available}


def as_source(data: Data, settings: LoopSettings) -> BatchSource:
    """A source of what the loop is given; rows are shuffled, as often as the steps need them."""
    if isinstance(data, BatchSource):
        return data
    if callable(data):
        return FunctionSource(data)
    rows = [*data]
    per_epoch = max(1, len(rows) // settings.batch_size)
    epochs = -(-settings.steps // per_epoch)
    return ExampleSource(rows, settings.batch_size, epochs=epochs, shuffle_seed=settings.seed)


def some_data(value: Any) -> str | None:
    """What is wrong with a value as data to train on (a check of `probes.checking`)."""
    if callable(value) and not isinstance(value, type | BatchSource):
        if (error := not_callable_with(value, 0)) is None:
            return None
        return f"a function that cannot be called with the step ({error}); give one of the step"
    is_text = isinstance(value, str | bytes | Mapping | type)
    if not is_text and (isinstance(value, BatchSource | Iterable) or callable(value)):
        return None
    return (
        f"{shown(value)}; give rows of token ids, a function from the step to its batch, or a "
        "source such as training.RowSource(rows, 8)"
    )


def _row(row: Any, number: int) -> tuple[Int64[np.ndarray, " pos"], ...]:
    if isinstance(row, str) or (isinstance(row, Mapping) and "input_ids" not in row):
        found = shown(row) if isinstance(row, str) else f"a mapping of {', '.join(map(str, row))}"
        raise ValueError(
            f"row {number} is {found}, where token ids are wanted (input_ids); for texts give "
            f"{_PACKED}"
        )
    fields = row if isinstance(row, Mapping) else {"input_ids": row}
    ids = _numbers(fields["input_ids"], number)
    mask = _numbers(fields.get("attention_mask", np.ones_like(ids)), number)
    labels = _numbers(fields.get("labels", np.where(mask == 1, ids, IGNORED)), number)
    if not len(ids) == len(labels) == len(mask):
        raise ValueError(
            f"row {number} has {len(ids)} ids, {len(labels)} labels and a mask of {len(mask)}; "
            "make them as long"
        )
    return ids, labels, mask


def _numbers(values: Any, number: int) -> Int64[np.ndarray, " pos"]:
    try:
        found = np.asarray(values)
    except ValueError:
        found = np.empty(())
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise ValueError(f"row {number} holds {shown(values)}; give one list of token ids a row")
    return found.astype(np.int64)
