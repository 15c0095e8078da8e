"""How the tokens of documents are laid out in rows, and rows in a rectangle.

Pure functions on streams of arrays: nothing here knows of texts, tokenizers or models. A `Row` is
the tokens of one row without pads, each with the running index of its document.

    >>> import numpy as np
    >>> from probes.corpus.rows import packed_rows
    >>> [row.segments.tolist() for row in packed_rows([np.array([4, 5, 6]), np.array([7])], 2)]
    [[0, 0], [0, 1]]
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Integer

from probes.corpus.token_batch import PAD_SEGMENT, TokenBatch


class PaddingSide(StrEnum):
    """On which side of a short row the pads are."""

    LEFT = "left"
    RIGHT = "right"


class Row(NamedTuple):
    """The tokens of one row, without pads."""

    ids: Int64[np.ndarray, " pos"]
    segments: Int64[np.ndarray, " pos"]


def limited(
    documents: Iterable[Int64[np.ndarray, "_"]], max_tokens: int | None
) -> Iterator[Int64[np.ndarray, "_"]]:
    """The documents up to exactly `max_tokens` tokens; the last one may be cut."""
    left = max_tokens
    for ids in documents:
        if left is None:
            yield ids
            continue
        yield ids[:left]
        left -= min(left, len(ids))
        if not left:
            return


def row_limit(blocks: Sequence[Integer[np.ndarray, "_ _"]], max_tokens: int | None) -> int:
    """How many whole rows of `blocks`, from the first on, fit in `max_tokens`."""
    if max_tokens is None:
        return sum(map(len, blocks))
    left, rows = max_tokens, 0
    for block in blocks:
        fitting = min(len(block), left // block.shape[1])
        left, rows = left - fitting * block.shape[1], rows + fitting
        if fitting < len(block):
            break
    if not rows:
        width = blocks[0].shape[1]
        raise ValueError(
            f"max_tokens is {max_tokens} but a row has {width} tokens: give {width} or more"
        )
    return rows


def document_row(ids: Int64[np.ndarray, " pos"], index: int) -> Row:
    """A row that is one document, or a piece of one."""
    return Row(ids, np.full(len(ids), index, dtype=np.int64))


def packed_rows(documents: Iterable[Int64[np.ndarray, "_"]], length: int) -> Iterator[Row]:
    """Join the documents and cut rows of `length`; the last row may be shorter."""
    held: list[Row] = []
    tokens = 0
    for index, ids in enumerate(documents):
        held.append(document_row(ids, index))
        tokens += len(ids)
        if tokens < length:
            continue
        joined = _joined(held)
        tokens %= length
        cut = len(joined.ids) - tokens
        for start in range(0, cut, length):
            stop = start + length
            yield Row(joined.ids[start:stop], joined.segments[start:stop])
        held = [Row(joined.ids[cut:], joined.segments[cut:])]
    if tokens:
        yield _joined(held)


def _joined(rows: Sequence[Row]) -> Row:
    return Row(
        np.concatenate([row.ids for row in rows]), np.concatenate([row.segments for row in rows])
    )


def grouped(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Lists of `size` rows; the last one may be shorter."""
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def collate(
    rows: Sequence[Row], padding_side: PaddingSide, pad_id: int, width: int | None = None
) -> TokenBatch:
    """Pad rows to `width`, or to the longest of them."""
    width = width or max(len(row.ids) for row in rows)
    shape = len(rows), width
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, PAD_SEGMENT, dtype=np.int64)
    for index, row in enumerate(rows):
        start = width - len(row.ids) if padding_side is PaddingSide.LEFT else 0
        place = slice(start, start + len(row.ids))
        ids[index, place], segments[index, place], mask[index, place] = *row, 1
    return TokenBatch(*map(torch.from_numpy, (ids, mask, segments)))
