"""Mixed batches: a stage's examples and its mix, as batches for the training loop.

Batches say of every token which data set it is from, so that the loop records the loss of each. By
tokens, as in the paper, the mix makes up most of a loss: 50 words against the few of a factoid.

`OfficialSource` gives what the released trainer trains on, which differs from the paper in this:

- Every row is padded to the longest of the data set. Pads are end tokens, attended to, and trained;
  they count as a data set of their own here, so that losses are recorded without them as well.
- The mix is appended to the examples, and of the two together only the first so many are kept: sets
  that are not cut to size before lose their whole mix to this.
- The order is drawn once, and the same in every epoch. Each process drops what does not fill a last
  batch of its own: those examples are never trained on.
- The loss is the mean over processes of the mean over a process's tokens.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: 4, and the
released trainer.

Example:
    >>> own = [Rendered((5, 6, 2), (False, True, True), str(i), "kvr") for i in range(4)]
    >>> mix = [Rendered((7, 8, 9, 2), (False, True, True, True), str(i), "mix") for i in range(8)]
    >>> source = MixedSource(own, mix, batch_size=3, epochs=2, seed=0, mixing="batch")
    >>> source.steps_available, source.batch(0).examples, source.source_names
    (8, 3, ('kvr', 'mix'))
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from probes.corpus.token_batch import PAD_SEGMENT
from training.batches import IGNORED, TrainingBatch
from training.choices import LossNormalisation, Mixing, Packing
from training.data.rendering import Rendered, rows_hash

TOKEN_COST = 4096
"""Multiplications of a token in a layer, attention left out, over the width of the model. That of
models of a hundred million parameters, halved as masked attention is slow at multiplying. Little
hangs on it: ten times as many make rows two thirds longer, with three pads in a hundred less."""
PADS = "pads"  # what the pads of official batches count for


def packed_rows(lengths: Sequence[int], *, longest_row: int | None = None) -> list[list[int]]:
    """Which examples share a row, the first the longest in each."""
    limit = max(*lengths, longest_row or 0)
    fewest = -(-sum(lengths) // limit)

    def longest(rows: Sequence[Sequence[int]]) -> int:
        return max(sum(lengths[i] for i in row) for row in rows)

    def cost(rows: Sequence[Sequence[int]]) -> int:
        return len(rows) * longest(rows) * (TOKEN_COST + 2 * longest(rows))

    dealt = (_dealt_to_rows(lengths, rows) for rows in range(fewest, len(lengths) + 1))
    return min((rows for rows in dealt if longest(rows) <= limit), key=cost)


def _dealt_to_rows(lengths: Sequence[int], n_rows: int) -> list[list[int]]:
    """The longest first, each to the emptiest row."""
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    loads = [(0, row) for row in range(n_rows)]
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, row = loads[0]
        rows[row].append(example)
        heapq.heapreplace(loads, (load + lengths[example], row))
    return rows


def rows_of_examples(
    examples: Sequence[Rendered],
    names: Sequence[str],
    source_names: Sequence[str],
    *,
    packing: Packing,
    normalisation: LossNormalisation,
    longest_row: int | None = None,
) -> TrainingBatch:
    """A batch of examples: bucketed, one in a row, the longest first; packed, several in a row,
    which a document mask keeps apart, so that a model computes for each what it would alone.
    """
    lengths = [len(example.input_ids) for example in examples]
    packed = packing is Packing.PACKED
    if packed:
        rows = packed_rows(lengths, longest_row=longest_row)
    else:
        rows = [[i] for i in sorted(range(len(examples)), key=lambda i: -lengths[i])]
    shape = (len(rows), max(sum(lengths[i] for i in row) for row in rows))
    ids, sources = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels, segments = torch.full(shape, IGNORED), torch.full(shape, PAD_SEGMENT)
    weights = torch.ones(shape)
    weight_of = example_weights(examples, names, normalisation)
    for row, members in enumerate(rows):
        start = 0
        for member in members:
            place = (row, slice(start, start + lengths[member]))
            ids[place], labels[place] = _ids_and_labels(examples[member])
            segments[place] = member
            sources[place] = source_names.index(names[member])
            weights[place] = weight_of[member]
            start += lengths[member]
    return TrainingBatch(
        ids,
        labels,
        (segments != PAD_SEGMENT).long(),
        segments if packed else None,
        sources,
        None if normalisation is LossNormalisation.TOKEN else weights,
        len(examples),
    )


def _ids_and_labels(example: Rendered) -> tuple[Int64[Tensor, " pos"], Int64[Tensor, " pos"]]:
    ids = torch.tensor(example.input_ids)
    return ids, torch.where(torch.tensor(example.trained), ids, IGNORED)


def example_weights(
    examples: Sequence[Rendered], names: Sequence[str], normalisation: LossNormalisation
) -> list[float]:
    """How much a trained token of each example counts in a weighted mean over a batch."""
    tokens = [example.trained_tokens for example in examples]
    match normalisation:
        case LossNormalisation.TOKEN:
            return [1.0 for _ in tokens]
        case LossNormalisation.EXAMPLE:
            return [1 / count for count in tokens]
        case LossNormalisation.SOURCE:
            totals: Counter[str] = Counter()
            for name, count in zip(names, tokens, strict=True):
                totals[name] += count
            return [1 / totals[name] for name in names]


def _named_sources(
    primary: Sequence[Rendered], mix: Sequence[Rendered]
) -> tuple[list[str], tuple[str, ...]]:
    """The data set that each example counts for, and all of them in the order of their first."""
    groups = (("primary", primary), ("mix", mix))
    names = [example.source or unnamed for unnamed, group in groups for example in group]
    return names, tuple(dict.fromkeys(names))


@lru_cache(maxsize=4)
def _epoch_order(
    primary: int, mix: int, mixing: Mixing, seed: int, epoch: int
) -> Int64[np.ndarray, " example"]:
    """The order of an epoch, the mix numbered after the stage's own: a function of the seed and the
    epoch, and of nothing before. Mixed by batch, those of each kind are spread evenly.
    """
    generator, size = np.random.default_rng([seed, epoch]), primary + mix
    if mixing is Mixing.EXAMPLE:
        return generator.permutation(size)
    is_own = np.diff(np.arange(size + 1) * primary // size) == 1
    found = np.empty(size, dtype=np.int64)
    found[is_own] = generator.permutation(primary)
    found[~is_own] = primary + generator.permutation(mix)
    return found


class MixedSource:
    """Batches of a stage's own examples and of what is mixed in.

    Every example is in every epoch once. Epochs follow each other without a gap; only the last
    batch is filled up, with the beginning of an epoch that is not to come.

    Args:
        primary: the stage's own examples.
        mix: what is mixed in; empty for nothing.
        batch_size: examples of a batch.
        epochs: how often to go through all of them.
        seed: of the orders.
        mixing: "example" (all shuffled together) or "batch" (the same share in every batch).
        loss_normalisation: "token", "example" or "source".
        packing: "packed" or "bucketed".
        positions: what the model takes at most (`HookedModel.n_positions`), which packed rows
            may have; None for rows as long as the longest example of a batch, which hold more pads.

    Attributes:
        source_names: the data sets, as batches number them.
        steps_available: batches in all.

    Raises:
        ValueError: there is no example or no epoch, fewer examples than a batch takes, or, mixed by
            batch, too few of one kind for every batch to have some.
    """

    def __init__(
        self,
        primary: Sequence[Rendered],
        mix: Sequence[Rendered] = (),
        *,
        batch_size: int,
        epochs: int = 1,
        seed: int = 0,
        mixing: Mixing | str = Mixing.EXAMPLE,
        loss_normalisation: LossNormalisation | str = LossNormalisation.TOKEN,
        packing: Packing | str = Packing.PACKED,
        positions: int | None = None,
    ) -> None:
        if batch_size < 1 or epochs < 1:
            raise ValueError(
                f"batch_size and epochs must be 1 or more, found {batch_size} and {epochs}"
            )
        if not primary or len(primary) + len(mix) < batch_size:
            raise ValueError(
                f"{len(primary)} examples and {len(mix)} mixed in do not make a batch of "
                f"{batch_size} with any of the stage's own: give more, or a smaller batch"
            )
        self._examples = (*primary, *mix)
        self._primary, self._mix, self._size = len(primary), len(mix), len(self._examples)
        self._names, self.source_names = _named_sources(primary, mix)
        self._batch_size, self._epochs, self._seed = batch_size, epochs, seed
        self._mixing, self._packing = Mixing(mixing), Packing(packing)
        self._normalisation, self._positions = LossNormalisation(loss_normalisation), positions
        self._refuse_uneven()
        self.steps_available: int | None = self.steps_of_epochs(epochs)
        self._given: set[int] = set()

    def _refuse_uneven(self) -> None:
        """Make sure that, mixed by `batch`, every batch has some of both."""
        if self._mixing is not Mixing.BATCH:
            return
        if not self._mix:
            raise ValueError("mixing 'batch' has nothing to mix in: give a mix, or use 'example'")
        needed = -(-self._size // min(self._primary, self._mix))
        if self._batch_size < needed:
            raise ValueError(
                f"batches of {self._batch_size} cannot all have some of {self._primary} examples "
                f"and of {self._mix} mixed in: give a batch_size of at least {needed}, or use "
                "mixing 'example'"
            )

    def batch(self, step: int) -> TrainingBatch:
        """What update `step + 1` is made from."""
        chosen = self.examples_at(step)
        self._given.add(step)
        return rows_of_examples(
            [self._examples[i] for i in chosen],
            [self._names[i] for i in chosen],
            self.source_names,
            packing=self._packing,
            normalisation=self._normalisation,
            longest_row=self._positions,
        )

    def examples_at(self, step: int) -> Int64[np.ndarray, " example"]:
        """Which examples `batch(step)` has; the mix is numbered after the stage's own."""
        _refuse_beyond(step, self.steps_available)
        start = step * self._batch_size
        stop = start + self._batch_size
        epochs = range(start // self._size, -(-stop // self._size))
        sizes = (self._primary, self._mix, self._mixing)
        orders = [_epoch_order(*sizes, self._seed, epoch) for epoch in epochs]
        before = epochs.start * self._size
        return np.concatenate(orders)[start - before : stop - before]

    def steps_of_epochs(self, epochs: int) -> int:
        """After how many updates so many epochs are complete."""
        return -(-self._size * epochs // self._batch_size)

    def assert_complete(self, steps_done: int) -> None:
        """Assert that so many steps have shown every example as often as epochs were complete.

        Steps before the first batch that this object gave are a run's that it goes on from.
        """
        started = min(self._given, default=steps_done)
        missed = [step for step in range(started, steps_done) if step not in self._given]
        if missed:
            raise AssertionError(
                f"{len(missed)} batches were never made in {steps_done} steps, the first is number "
                f"{missed[0]}"
            )
        seen = np.zeros(self._size, dtype=np.int64)
        for step in range(steps_done):
            np.add.at(seen, self.examples_at(step), 1)
        complete = steps_done * self._batch_size // self._size
        if seen.min(initial=complete) < complete:
            left_out = int(seen.argmin())
            raise AssertionError(
                f"{complete} epochs are over, but example "
                f"{self._examples[left_out].identifier!r} was shown {seen[left_out]} times"
            )

    def describe(self) -> dict[str, Any]:
        """The examples and how they are gone through: everything that decides the batches."""
        return {
            "kind": "mixed",
            "primary": self._primary,
            "mix": self._mix,
            "sources": list(self.source_names),
            "content_hash": rows_hash(self._examples),
            "batch_size": self._batch_size,
            "epochs": self._epochs,
            "seed": self._seed,
            "mixing": str(self._mixing),
            "loss_normalisation": str(self._normalisation),
            "packing": str(self._packing),
            "positions": self._positions,
        }


def _refuse_beyond(step: int, steps: int | None) -> None:
    assert steps is not None
    if not 0 <= step < steps:
        raise ValueError(f"there is no batch {step}; these examples give {steps}")


class OfficialSource:
    """Batches as the released trainer makes them.

    Args:
        primary: the stage's own examples, rendered with `compat="official"`, which trains the line
            breaks after answers, too.
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
        self._settings = {
            "batch_size": batch_size,
            "processes": processes,
            "epochs": epochs,
            "seed": seed,
            "keep": keep,
        }
        for name, number in self._settings.items():
            if name != "seed" and number is not None and number < 1:
                raise ValueError(f"{name} is {number}: give 1 or more")
        if batch_size % processes:
            raise ValueError(
                f"{processes} processes cannot share batches of {batch_size} evenly: give a "
                "multiple"
            )
        self._examples = (*primary, *mix)[:keep]
        self._processes, self._end_id = processes, end_id
        self.mix_kept = max(len(self._examples) - len(primary), 0)
        self._names, every_name = _named_sources(primary, mix)
        assert PADS not in every_name
        self.source_names = (*every_name, PADS)
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
        """What update `step + 1` is made from; the rows of each process come together."""
        chosen = self.examples_at(step).tolist()
        shape = (len(chosen), self._width)
        ids, labels = torch.full(shape, self._end_id), torch.full(shape, self._end_id)
        sources = torch.full(shape, self.source_names.index(PADS))
        for row, number in enumerate(chosen):
            place = (row, slice(len(self._examples[number].input_ids)))
            ids[place], labels[place] = _ids_and_labels(self._examples[number])
            sources[place] = self.source_names.index(self._names[number])
        weights = None
        if self._processes > 1:
            # Every process counts the same, however many tokens it trains.
            of_row = (labels[:, 1:] != IGNORED).sum(dim=1)
            of_process = of_row.view(self._processes, -1).sum(dim=1)
            each = (1 / of_process.float()).repeat_interleave(len(chosen) // self._processes)
            weights = each[:, None].repeat(1, self._width)
        return TrainingBatch(ids, labels, torch.ones_like(ids), None, sources, weights)

    def examples_at(self, step: int) -> Int64[Tensor, " example"]:
        """Which examples `batch(step)` has; the mix is numbered after the stage's own."""
        _refuse_beyond(step, self.steps_available)
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
            **self._settings,
            "never_trained": list(self.never_trained),
        }


def _dealt(
    examples: int, batch_size: int, processes: int, seed: int
) -> Int64[Tensor, "step example"]:
    """Which examples each batch of an epoch has, as torch's samplers deal them out."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(seed))
    each, own = -(-examples // processes), batch_size // processes
    dealt = order.repeat(processes)[: each * processes].view(each, processes).T
    steps = each // own
    by_process = dealt[:, : steps * own].reshape(processes, steps, own)
    return by_process.transpose(0, 1).reshape(steps, batch_size)
