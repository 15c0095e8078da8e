"""Official batches: what the released trainer of the continual memorization paper trains on.

It differs from `training.data.mixed_batches`, and from the paper, in this:

- Every row is padded to the longest of the whole data set. Pads are end tokens, attended to, and
  **trained**: after its end a model learns to say the end again, and these tokens count in the loss
  as all others do.
- The mix is appended to the examples, and of the two together only the first so many are **kept**.
  Sets that are not cut to size before lose their whole mix to this.
- The order is drawn once, and the same in every epoch. Each process drops what does not fill a last
  batch of its own: those examples are **never** trained on.
- The loss is the mean over processes of the mean over a process's tokens.

Pads count as a data set of their own here, so that losses are recorded without them as well. Rows
are to be rendered with `compat="official"`, which trains the line breaks after answers, too.

Source: the released trainer of Chen et al., "Continual Memorization of Factoids in Large Language
Models", 2024.

Example:
    >>> own = [Rendered((5, 6, 2), (False, True, True), str(i), "kvr") for i in range(5)]
    >>> mix = [Rendered((7, 8, 9, 2), (False, True, True, True), "0", "mix")]
    >>> source = OfficialSource(own, mix, batch_size=4, end_id=2, epochs=2, processes=2)
    >>> source.steps_available, source.source_names, len(source.never_trained)
    (2, ('kvr', 'mix', 'pads'), 2)
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from training.batches import IGNORED, TrainingBatch
from training.data.mixed_batches import named_sources
from training.data.rendering import Rendered, rows_hash

PADS = "pads"
"""What the pads count for."""


class OfficialSource:
    """Batches as the released trainer makes them.

    Args:
        primary: the stage's own examples, rendered with `compat="official"`.
        mix: what is appended to them; empty for nothing.
        batch_size: examples of a batch, over all processes.
        end_id: the tokenizer's end token, which pads.
        epochs: how often to go through the examples.
        seed: of their one order.
        processes: how many the released trainer would have run.
        keep: how many of the examples and the mix together; None for all.

    Attributes:
        source_names: the data sets, and the pads, as batches number them.
        steps_available: batches in all.
        never_trained: identifiers of the examples that no batch has.

    Raises:
        ValueError: there are too few examples for a batch, the processes do not share a batch
            evenly, or a number is too small.
    """

    def __init__(
        self,
        primary: Sequence[Rendered],
        mix: Sequence[Rendered] = (),
        *,
        batch_size: int,
        end_id: int,
        epochs: int = 20,
        seed: int = 0,
        processes: int = 2,
        keep: int | None = None,
    ) -> None:
        _refuse_numbers(batch_size, epochs, processes, keep)
        self._examples = (*primary, *mix)[:keep]
        self._batch_size, self._epochs, self._seed = batch_size, epochs, seed
        self._processes, self._end_id, self._keep = processes, end_id, keep
        self.mix_kept = max(len(self._examples) - len(primary), 0)
        names, every_name = named_sources(primary, mix)
        assert PADS not in every_name
        self._names, self.source_names = names[:keep], (*every_name, PADS)
        self._batches = _dealt(len(self._examples), batch_size, processes, seed)
        if not len(self._batches):
            raise ValueError(
                f"{len(self._examples)} examples do not fill one batch of {batch_size}: give more, "
                "or a smaller batch"
            )
        self._width = max(len(example.input_ids) for example in self._examples)
        self.steps_available: int | None = len(self._batches) * epochs
        shown = set(self._batches.flatten().tolist())
        self.never_trained = tuple(
            example.identifier for i, example in enumerate(self._examples) if i not in shown
        )

    def batch(self, step: int) -> TrainingBatch:
        """What update `step + 1` is made from; the rows of each process come together.

        Raises:
            ValueError: there are not so many batches.
        """
        chosen = self.examples_at(step).tolist()
        shape = (len(chosen), self._width)
        ids, labels = torch.full(shape, self._end_id), torch.full(shape, self._end_id)
        sources = torch.full(shape, len(self.source_names) - 1)
        for row, number in enumerate(chosen):
            example = self._examples[number]
            tokens, trained = torch.tensor(example.input_ids), torch.tensor(example.trained)
            place = (row, slice(0, len(tokens)))
            ids[place] = tokens
            labels[place] = torch.where(trained, tokens, IGNORED)
            sources[place] = self.source_names.index(self._names[number])
        weights = self._weights(labels) if self._processes > 1 else None
        return TrainingBatch(ids, labels, torch.ones_like(ids), None, sources, weights)

    def examples_at(self, step: int) -> Int64[Tensor, " example"]:
        """Which examples `batch(step)` has; the mix is numbered after the stage's own.

        Raises:
            ValueError: there are not so many batches.
        """
        assert self.steps_available is not None
        if not 0 <= step < self.steps_available:
            raise ValueError(
                f"there is no batch {step}; these examples give {self.steps_available}"
            )
        return self._batches[step % len(self._batches)]

    def describe(self) -> dict[str, Any]:
        """The examples and how they are gone through: everything that decides the batches."""
        return {
            "kind": "official_mixed",
            "primary": len(self._examples) - self.mix_kept,
            "mix": self.mix_kept,
            "sources": list(self.source_names),
            "content_hash": rows_hash(self._examples),
            "row_length": self._width,
            "end_id": self._end_id,
            "batch_size": self._batch_size,
            "processes": self._processes,
            "epochs": self._epochs,
            "seed": self._seed,
            "keep": self._keep,
            "never_trained": list(self.never_trained),
        }

    def _weights(self, labels: Int64[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
        """Every process counts the same, however many tokens it trains."""
        each = self._batch_size // self._processes
        trained = (labels[:, 1:] != IGNORED).sum(dim=1).view(self._processes, each).sum(dim=1)
        return (1 / trained.float()).repeat_interleave(each)[:, None].repeat(1, labels.shape[1])


def _dealt(
    examples: int, batch_size: int, processes: int, seed: int
) -> Int64[Tensor, "step example"]:
    """Which examples each batch of an epoch has, as torch's samplers deal them out."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed))
    each = -(-examples // processes)
    dealt = order.repeat(processes)[: each * processes].view(each, processes).T
    own = batch_size // processes
    steps = each // own
    return (
        dealt[:, : steps * own]
        .reshape(processes, steps, own)
        .transpose(0, 1)
        .reshape(steps, batch_size)
    )


def _refuse_numbers(batch_size: int, epochs: int, processes: int, keep: int | None) -> None:
    found = {"batch_size": batch_size, "epochs": epochs, "processes": processes, "keep": keep}
    for name, number in found.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}: give 1 or more")
    if batch_size % processes:
        raise ValueError(
            f"{processes} processes cannot share batches of {batch_size} evenly: give a multiple"
        )
