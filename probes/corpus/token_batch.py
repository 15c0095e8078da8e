"""What a batch of tokens is, and how documents are laid out in its rows.

`input_ids`, `attention_mask` and `segment_ids` have one shape, `[batch pos]`. The mask is 1 on
tokens and 0 on pads. A segment id is the running index of a document in the whole stream, -1 on
pads: rows that pack several documents carry several, and documents are what intervals resample.

    >>> batch = as_token_batch({"input_ids": [[5, 7, 0]], "attention_mask": [[1, 1, 0]]})
    >>> batch.segment_ids.tolist()
    [[0, 0, -1]]
    >>> [row.segments.tolist() for row in packed_rows([np.array([4, 5, 6]), np.array([7])], 2)]
    [[0, 0], [0, 1]]
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int, Int64, Integer
from torch import Tensor

from probes.shown import Shown

PAD_SEGMENT = -1
FIELDS = ("input_ids", "attention_mask", "segment_ids")
Batches = Iterable[Mapping[str, Any]] | Mapping[str, Any]
"""What a pass goes through: mappings with `input_ids`, or one of them."""


@dataclass(frozen=True, eq=False)
class TokenBatch(Shown, Mapping[str, Tensor]):
    """One batch; also a mapping with the names of its fields as keys."""

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Int64[Tensor, "batch pos"]
    """1 on tokens, 0 on pads."""
    segment_ids: Int64[Tensor, "batch pos"]
    """Running document index, -1 on pads."""

    def __getitem__(self, key: str) -> Int64[Tensor, "batch pos"]:
        if key not in FIELDS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(FIELDS)

    def __len__(self) -> int:
        return len(FIELDS)

    def to(self, device: torch.device | str) -> "TokenBatch":
        """The batch on another device."""
        return TokenBatch(*(self[key].to(device) for key in FIELDS))


def as_token_batch(batch: Mapping[str, Any], *, document_offset: int = 0) -> TokenBatch:
    """Turn any mapping with token ids into a `TokenBatch`."""
    if isinstance(batch, TokenBatch):
        return batch
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"a batch is a mapping with input_ids [batch pos], found {type(batch).__name__}: give "
            "what token_batches returns, or a list of mappings"
        )
    if "input_ids" not in batch:
        raise ValueError(
            f"a batch has no 'input_ids', only {', '.join(map(repr, batch)) or 'nothing'}: give a "
            f"mapping with input_ids [batch pos]"
        )
    ids = _integers(batch["input_ids"], "input_ids")
    given = batch.get("attention_mask")
    mask = torch.ones_like(ids) if given is None else _integers(given, "attention_mask", ids)
    if ((mask != 0) & (mask != 1)).any():
        raise ValueError(
            f"attention_mask holds values from {int(mask.min())} to {int(mask.max())}: give 1 for "
            f"tokens and 0 for pads"
        )
    real = mask.bool()
    given = batch.get("segment_ids")
    if given is None:
        # One document a row.
        rows = torch.arange(len(ids), device=ids.device) + document_offset
        segments = rows[:, None].expand_as(ids)
    else:
        segments = _integers(given, "segment_ids", ids)
        if (segments[real] < 0).any():
            raise ValueError(
                "segment_ids is negative on a token: number the documents of the stream from 0"
            )
    return TokenBatch(ids, mask, segments.masked_fill(~real, PAD_SEGMENT))


def left_padded(rows: Sequence[Sequence[int]]) -> dict[str, list[list[int]]]:
    """Rows of several lengths as one batch, with pads on the left."""
    width = max(map(len, rows))
    # Any token can pad, as none is seen; a row's own first is sure to be in the vocabulary.
    ids = [[row[0]] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": ids, "attention_mask": mask}


def as_batches(batches: Batches) -> Iterable[Mapping[str, Any]]:
    """Batches to go through; a mapping by itself is one batch, not its names."""
    return [batches] if isinstance(batches, Mapping) else batches


def _integers(
    values: Any, name: str, like: Int[Tensor, "batch pos"] | None = None
) -> Int64[Tensor, "batch pos"]:
    """`values` as an int64 tensor `[batch pos]`, of the shape and on the device of `like`."""
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is not a rectangle of numbers ({error}): pad the rows to one length"
        ) from error
    is_integer = not (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
    if tensor.numel() == 0 or tensor.ndim != 2 or not is_integer:
        raise ValueError(
            f"{name} is {tensor.dtype} of shape {list(tensor.shape)}: give integers [batch pos]"
        )
    if like is not None and tensor.shape != like.shape:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}, input_ids {list(like.shape)}: give one shape"
        )
    return tensor.to(like.device if like is not None else tensor.device, torch.int64)


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
        joined = Row(*map(np.concatenate, zip(*held, strict=True)))
        tokens %= length
        cut = len(joined.ids) - tokens
        for start in range(0, cut, length):
            stop = start + length
            yield Row(joined.ids[start:stop], joined.segments[start:stop])
        held = [Row(joined.ids[cut:], joined.segments[cut:])]
    if tokens:
        yield Row(*map(np.concatenate, zip(*held, strict=True)))


def grouped(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Lists of `size` rows; the last one may be shorter."""
    rows = iter(rows)
    while group := list(islice(rows, size)):
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


Batch = TypeVar("Batch")


def batches_by_length(
    lengths: Sequence[int], *, tokens: int, rows: int, more: int = 0, alike: bool = False
) -> Iterator[list[int]]:
    """Indices of items of about equal length (or of one), the longest first, within some tokens."""
    order = sorted(range(len(lengths)), key=lambda item: (-lengths[item], item))
    while order:
        longest = lengths[order[0]]
        batch = order[: min(rows, max(1, tokens // (longest + more)))]
        if alike:
            batch = [item for item in batch if lengths[item] == longest]
        yield batch
        order = order[len(batch) :]


def own_share(batches: Iterable[Batch], distributed: bool) -> Iterable[Batch]:
    """What this process of the default group runs: every so many batches, or all of them."""
    if not distributed:
        return batches
    from torch import distributed as dist

    return islice(batches, dist.get_rank(), None, dist.get_world_size())


def from_everywhere(found: Any, distributed: bool) -> list[Any]:
    """What each process has found; it should be small."""
    if not distributed:
        return [found]
    from torch import distributed as dist

    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, found)
    return parts
