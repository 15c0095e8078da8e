"""Mixed batches: a stage's examples and its mix, as batches for the training loop.

The mix is REMIX's: words or passages that have nothing to do with what is to be learnt, rehearsed
examples of an earlier stage, or nothing. Batches say of every token which data set it is from, so
that the loop records the loss of each.

What counts the same in the loss of a batch is a choice (`LossNormalisation`). By tokens, as in the
paper, the mix makes up most of it: 50 words against the few tokens of a factoid.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: 4.

Example:
    >>> own = [Rendered((5, 6, 2), (False, True, True), str(i), "kvr") for i in range(4)]
    >>> mix = [Rendered((7, 8, 9, 2), (False, True, True, True), str(i), "mix") for i in range(8)]
    >>> source = MixedSource(own, mix, batch_size=3, epochs=2, seed=0, mixing="batch")
    >>> source.steps_available, source.batch(0).examples, source.source_names
    (8, 3, ('kvr', 'mix'))
    >>> {name: round(share, 2) for name, share in loss_shares(source, range(8)).items()}
    {'kvr': 0.25, 'mix': 0.75}
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from probes.corpus.token_batch import PAD_SEGMENT
from training.batches import IGNORED, NamedSources, TrainingBatch
from training.choices import LossNormalisation, Mixing, Packing
from training.data.rendering import Rendered, rows_hash

TOKEN_COST = 4096
"""Multiplications of a token in a layer, attention left out, over the width of the model. That of
models of a hundred million parameters, halved as masked attention is slow at multiplying. Little
hangs on it: ten times as many make rows two thirds longer, with three pads in a hundred less."""


def packed_rows(lengths: Sequence[int], *, longest_row: int | None = None) -> list[list[int]]:
    """Which examples share a row, the first the longest in each."""
    longest = max(lengths)
    limit = max(longest, longest_row or 0)
    fewest = -(-sum(lengths) // limit)
    dealt = (_dealt(lengths, rows) for rows in range(fewest, len(lengths) + 1))

    def cost(rows: Sequence[Sequence[int]]) -> int:
        length = _row_length(rows, lengths)
        return len(rows) * length * (TOKEN_COST + 2 * length)

    return min((rows for rows in dealt if _row_length(rows, lengths) <= limit), key=cost)


def _dealt(lengths: Sequence[int], n_rows: int) -> list[list[int]]:
    """The longest first, each to the emptiest row."""
    rows: list[list[int]] = [[] for _ in range(n_rows)]
    loads = [(0, row) for row in range(n_rows)]
    for example in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        load, row = loads[0]
        rows[row].append(example)
        heapq.heapreplace(loads, (load + lengths[example], row))
    return rows


def _row_length(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return max(sum(lengths[i] for i in row) for row in rows)


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
    ids = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    segments = torch.full(shape, PAD_SEGMENT)
    sources = torch.zeros(shape, dtype=torch.long)
    weights = torch.ones(shape)
    weight_of = example_weights(examples, names, normalisation)
    for row, members in enumerate(rows):
        start = 0
        for example in members:
            place = (row, slice(start, start + lengths[example]))
            tokens = torch.tensor(examples[example].input_ids)
            trained = torch.tensor(examples[example].trained)
            ids[place] = tokens
            labels[place] = torch.where(trained, tokens, IGNORED)
            segments[place] = example
            sources[place] = source_names.index(names[example])
            weights[place] = weight_of[example]
            start += lengths[example]
    return TrainingBatch(
        ids,
        labels,
        (segments != PAD_SEGMENT).long(),
        segments if packed else None,
        sources,
        None if normalisation is LossNormalisation.TOKEN else weights,
        len(examples),
    )


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
            totals = dict.fromkeys(names, 0)
            for name, count in zip(names, tokens, strict=True):
                totals[name] += count
            return [1 / totals[name] for name in names]


@dataclass(frozen=True)
class MixedOrder:
    """The stream of examples; the stage's own are numbered from 0, then the mix."""

    primary: int
    mix: int
    seed: int
    mixing: Mixing

    @property
    def size(self) -> int:
        """Examples of an epoch."""
        return self.primary + self.mix

    def stream(self, start: int, stop: int) -> Int64[np.ndarray, " example"]:
        """The examples from one place of the stream up to another."""
        epochs = range(start // self.size, -(-stop // self.size))
        orders = [_epoch_order(self, epoch) for epoch in epochs]
        first = epochs.start * self.size
        return np.concatenate(orders)[start - first : stop - first]

    def refuse_uneven(self, batch_size: int) -> None:
        """Make sure that, mixed by `batch`, every batch has some of both."""
        if self.mixing is not Mixing.BATCH:
            return
        if not self.mix:
            raise ValueError("mixing 'batch' has nothing to mix in: give a mix, or use 'example'")
        rarer = min(self.primary, self.mix)
        needed = -(-self.size // rarer)
        if batch_size < needed:
            raise ValueError(
                f"batches of {batch_size} cannot all have some of {self.primary} examples and of "
                f"{self.mix} mixed in: give a batch_size of at least {needed}, or use mixing "
                "'example'"
            )


@lru_cache(maxsize=4)
def _epoch_order(order: MixedOrder, epoch: int) -> Int64[np.ndarray, " example"]:
    """The order of an epoch: a function of the seed and the epoch, and of nothing before."""
    generator = np.random.default_rng([order.seed, epoch])
    if order.mixing is Mixing.EXAMPLE:
        return generator.permutation(order.size)
    own = generator.permutation(order.primary)
    return _interleaved(own, order.primary + generator.permutation(order.mix))


def _interleaved(
    own: Int64[np.ndarray, " own"], mix: Int64[np.ndarray, " mix"]
) -> Int64[np.ndarray, " example"]:
    """Two orders as one, in which those of each kind are spread evenly."""
    size = len(own) + len(mix)
    ends = np.arange(size + 1) * len(own) // size
    is_own = np.diff(ends) == 1
    found = np.empty(size, dtype=np.int64)
    found[is_own], found[~is_own] = own, mix
    return found


UNNAMED = ("primary", "mix")
"""What examples count for that name no data set."""


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
        self._names, self.source_names = named_sources(primary, mix)
        self._order = MixedOrder(len(primary), len(mix), seed, Mixing(mixing))
        self._order.refuse_uneven(batch_size)
        self._batch_size, self._epochs = batch_size, epochs
        self._normalisation = LossNormalisation(loss_normalisation)
        self._packing, self._positions = Packing(packing), positions
        self.steps_available: int | None = -(-self._order.size * epochs // batch_size)
        self._given: set[int] = set()

    def batch(self, step: int) -> TrainingBatch:
        """What update `step + 1` is made from.

        Raises:
            ValueError: there are not so many batches.
        """
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
        """Which examples `batch(step)` has; the mix is numbered after the stage's own.

        Raises:
            ValueError: there are not so many batches.
        """
        assert self.steps_available is not None
        if not 0 <= step < self.steps_available:
            raise ValueError(
                f"there is no batch {step}; these examples give {self.steps_available}"
            )
        first = step * self._batch_size
        return self._order.stream(first, first + self._batch_size)

    def steps_of_epochs(self, epochs: int) -> int:
        """After how many updates so many epochs are complete."""
        return -(-self._order.size * epochs // self._batch_size)

    def assert_complete(self, steps_done: int) -> None:
        """Assert that so many steps have shown every example as often as epochs were complete.

        Steps before the first batch that this object gave are a run's that it goes on from.

        Raises:
            AssertionError: an example was left out, or a batch in between was not asked for.
        """
        started = min(self._given, default=steps_done)
        missed = [step for step in range(started, steps_done) if step not in self._given]
        if missed:
            raise AssertionError(
                f"{len(missed)} batches were never made in {steps_done} steps, the first is number "
                f"{missed[0]}"
            )
        seen = np.zeros(self._order.size, dtype=np.int64)
        for step in range(steps_done):
            np.add.at(seen, self.examples_at(step), 1)
        complete = steps_done * self._batch_size // self._order.size
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
            "primary": self._order.primary,
            "mix": self._order.mix,
            "sources": list(self.source_names),
            "content_hash": rows_hash(self._examples),
            "batch_size": self._batch_size,
            "epochs": self._epochs,
            "seed": self._order.seed,
            "mixing": str(self._order.mixing),
            "loss_normalisation": str(self._normalisation),
            "packing": str(self._packing),
            "positions": self._positions,
        }


def named_sources(
    primary: Sequence[Rendered], mix: Sequence[Rendered]
) -> tuple[list[str], tuple[str, ...]]:
    """The data set that each example counts for, and all of them in the order of their first."""
    groups = zip(UNNAMED, (primary, mix), strict=True)
    names = [example.source or unnamed for unnamed, group in groups for example in group]
    return names, tuple(dict.fromkeys(names))


def loss_shares(source: NamedSources, steps: Iterable[int]) -> dict[str, float]:
    """How much of the loss is made up by the trained tokens of each data set, on average.

    Args:
        source: of batches that say where their tokens are from.
        steps: the batches to look at.

    Returns:
        A share for every data set; they sum to 1.
    """
    looked_at = list(steps)
    found: Counter[str] = Counter()
    for step in looked_at:
        batch = source.batch(step)
        assert batch.sources is not None
        weights = torch.ones(batch.labels.shape) if batch.weights is None else batch.weights
        trained = batch.labels[:, 1:] != IGNORED
        parts = batch.sources[:, 1:][trained].bincount(
            weights[:, 1:][trained].double(), minlength=len(source.source_names)
        )
        for name, part in zip(source.source_names, (parts / parts.sum()).tolist(), strict=True):
            found[name] += part / len(looked_at)
    return dict(found)
