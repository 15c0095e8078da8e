"""Data of one's own: rows of any kind, or a function of the step, as batches for the loop.

A row is a list of token ids, or a mapping with `input_ids` and, as transformers has them, `labels`
(-100 where a token is not trained on) and `attention_mask` (0 on pads). Rows may differ in length.
A `datasets.Dataset` of such rows is an iterable of them; text is packed into rows by
`training.corpus_source`.

Example:
    >>> source = ExampleSource([[5, 6, 7], [8, 9]], batch_size=2)
    >>> source.batch(0).labels.tolist()
    [[5, 6, 7], [8, 9, -100]]
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from probes.argument_checks import shown
from probes.corpus.sources import ContentHash
from training.batches import IGNORED, BatchSource, RowSource, TrainingBatch, as_training_batch
from training.settings import LoopSettings

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
            return as_training_batch(torch.as_tensor(made).long())
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
    """What is wrong with a value as data to train on (a check of `probes.argument_checks`)."""
    is_text = isinstance(value, str | bytes | Mapping | type)
    if not is_text and (isinstance(value, BatchSource | Iterable) or callable(value)):
        return None
    return (
        f"{shown(value)}; give rows of token ids, a function from the step to its batch, or a "
        "source such as training.RowSource(rows, 8)"
    )


def _row(row: Any, number: int) -> tuple[Int64[np.ndarray, " pos"], ...]:
    """Ids, labels and mask of a row."""
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
