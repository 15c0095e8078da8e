"""Sharing out: which items run together, and which batches each process runs."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

Batch = TypeVar("Batch")


def batches_by_length(
    lengths: Sequence[int], *, tokens: int, rows: int, more: int = 0, alike: bool = False
) -> Iterator[list[int]]:
    """Indices of items of about equal length, the longest first.

    Args:
        lengths: tokens of each item.
        tokens: at most so many in a batch, pads counted, unless one item has more.
        rows: at most so many items in a batch.
        more: how many tokens will be added to each item.
        alike: whether only items of one length run together.
    """
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
