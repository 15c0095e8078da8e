"""Example rows: the examples of a batch as rows, with as few pads as may be.

Bucketed, an example is a row, the longest first; a batch cut into micro-batches loses the pads that
all rows of a piece have in common. Packed, rows take several examples
(`training.data.example_rows`), and a document mask keeps them apart, so that a model computes
for each what it would compute for it alone.

Example:
    >>> def example(length):
    ...     return Rendered((*range(length),), (False,) + (True,) * (length - 1), "", "kvr")
    >>> batch = rows_of_examples([example(n) for n in (4, 3, 3, 2)], ["kvr"] * 4, ["kvr"],
    ...     packing=Packing.PACKED, normalisation=LossNormalisation.TOKEN, longest_row=7)
    >>> batch.segment_ids.tolist()
    [[0, 0, 0, 0, 3, 3], [1, 1, 1, 2, 2, 2]]
"""

import heapq
from collections.abc import Sequence

import torch

from probes.corpus.token_batch import PAD_SEGMENT
from training.batches import IGNORED, TrainingBatch
from training.choices import LossNormalisation, Packing
from training.data.rendering import Rendered

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
    fitting = [rows for rows in dealt if _row_length(rows, lengths) <= limit]
    return min(fitting, key=lambda rows: _cost(len(rows), _row_length(rows, lengths)))


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


def _cost(rows: int, length: int) -> int:
    return rows * length * (TOKEN_COST + 2 * length)


def rows_of_examples(
    examples: Sequence[Rendered],
    names: Sequence[str],
    source_names: Sequence[str],
    *,
    packing: Packing,
    normalisation: LossNormalisation,
    longest_row: int | None = None,
) -> TrainingBatch:
    """A batch of examples."""
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
