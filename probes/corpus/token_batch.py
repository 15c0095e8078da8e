"""What a batch of tokens is: ids, which of them are real, and which document each comes from.

`input_ids`, `attention_mask` and `segment_ids` have one shape, `[batch pos]`. The mask is 1 on
tokens and 0 on pads. A segment id is the running index of a document in the whole stream, -1 on
pads: rows that pack several documents carry several, and documents are what intervals resample.

    >>> from probes.corpus.token_batch import as_token_batch
    >>> batch = as_token_batch({"input_ids": [[5, 7, 0]], "attention_mask": [[1, 1, 0]]})
    >>> batch.segment_ids.tolist()
    [[0, 0, -1]]
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

PAD_SEGMENT = -1
FIELDS = ("input_ids", "attention_mask", "segment_ids")
Batches = Iterable[Mapping[str, Tensor]] | Mapping[str, Tensor]
"""What a pass goes through: mappings with `input_ids`, or one of them."""


@dataclass(frozen=True, eq=False)
class TokenBatch(Mapping[str, Tensor]):
    """One batch; also a mapping with the names of its fields as keys.

    Attributes:
        input_ids: token ids, `[batch pos]`.
        attention_mask: 1 on tokens, 0 on pads, `[batch pos]`.
        segment_ids: running document index, -1 on pads, `[batch pos]`.
    """

    input_ids: Int64[Tensor, "batch pos"]
    attention_mask: Int64[Tensor, "batch pos"]
    segment_ids: Int64[Tensor, "batch pos"]

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
        segments = _row_segments(ids, document_offset)
    else:
        segments = _integers(given, "segment_ids", ids)
        if (segments[real] < 0).any():
            raise ValueError(
                "segment_ids is negative on a token: number the documents of the stream from 0"
            )
    return TokenBatch(ids, mask, pad_segments(segments, real))


def as_batches(batches: Batches) -> Iterable[Mapping[str, Tensor]]:
    """Batches to go through; a mapping by itself is one batch, not its names."""
    return [batches] if isinstance(batches, Mapping) else batches


def _row_segments(
    ids: Int64[Tensor, "batch pos"], document_offset: int
) -> Int64[Tensor, "batch pos"]:
    """One document a row, counted from `document_offset`."""
    rows = torch.arange(len(ids), device=ids.device) + document_offset
    return rows[:, None].expand_as(ids)


def pad_segments(
    segments: Int64[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]
) -> Int64[Tensor, "batch pos"]:
    """The segment ids with -1 wherever there is no real token."""
    return segments.masked_fill(~real, PAD_SEGMENT)


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
    if tensor.numel() == 0 or tensor.ndim != 2 or not _is_integer(tensor):
        raise ValueError(
            f"{name} is {tensor.dtype} of shape {list(tensor.shape)}: give integers [batch pos]"
        )
    if like is not None and tensor.shape != like.shape:
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}, input_ids {list(like.shape)}: give one shape"
        )
    return tensor.to(like.device if like is not None else tensor.device, torch.int64)


def _is_integer(tensor: Tensor) -> bool:
    return not (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
