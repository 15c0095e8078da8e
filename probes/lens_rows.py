"""Lens rows: prompts run in batches, and the streams cut out of them that are to be read.

Items are sorted by length and run in batches of about equal numbers of tokens. Pads stand on the
right, where causal attention cannot see them, so fused attention needs no mask. Streams are cut out
inside the hook, and rows of several batches are handed on together, since the unembedding is a
matrix that is dear to load.

Example:
    >>> from probes.lens_items import LensItem
    >>> items = [LensItem((3, 4, 5), (6,)), LensItem((7, 8), (9,))]
    >>> list(batches_of(items, LensSettings()))
    [[0, 1]]
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.choices import LensPositions, TargetSpan
from probes.corpus.token_batch import TokenBatch, as_token_batch
from probes.hooked_model import HookedModel
from probes.hooks import run_hooked
from probes.lens_items import LensItem
from probes.lens_settings import LensSettings
from probes.sequence_rope import rope_border
from probes.sites import HookPoint, Site

_BATCH_TOKENS, _BATCH_ROWS = 1024, 64
_ROWS_READ_TOGETHER = 64


@dataclass(frozen=True)
class Row:
    """A stream to read: of which item, after which of its tokens, and what to look for there."""

    item: int
    position: int
    target: int
    place: int
    controls: tuple[int, ...]


@dataclass
class Rows:
    """Rows that were run and are not read yet."""

    rows: list[Row] = field(default_factory=list)
    streams: list[Float[Tensor, "layer row d_model"]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, more: "Rows") -> None:
        """Take the rows of another batch in."""
        self.rows += more.rows
        self.streams += more.streams


def groups_of_rows(
    model: HookedModel,
    items: Sequence[LensItem],
    plan: Sequence[Sequence[Row]],
    settings: LensSettings,
    distributed: bool,
    on_items: Callable[[int], None] | None,
) -> Iterator[Rows]:
    """Run this process's share of the items; rows of several batches are read together."""
    waiting = Rows()
    for batch in _own_share(batches_of(items, settings), distributed):
        waiting.add(_run(model, [items[i] for i in batch], [plan[i] for i in batch], settings))
        if len(waiting) >= _ROWS_READ_TOGETHER:
            yield waiting
            waiting = Rows()
        if on_items is not None:
            on_items(len(batch))
    if len(waiting):
        yield waiting


def rows_of(
    index: int, item: LensItem, settings: LensSettings, controls: Mapping[str, Sequence[int]]
) -> list[Row]:
    """The rows of one item.

    Raises:
        ValueError: a position lies outside the prompt.
    """
    others = tuple(ids[index] for ids in controls.values())
    last, target = len(item.prompt_ids) - 1, item.target_ids
    places = [item.first] if settings.span is TargetSpan.FIRST else list(range(len(target)))
    before = [p for p in _positions(item, settings.positions) if p - last not in places]
    rows = [Row(index, position, item.first_id, -1, others) for position in before]
    return rows + [Row(index, last + i, target[i], i, others) for i in places]


def _positions(item: LensItem, asked: LensPositions | tuple[int, ...]) -> list[int]:
    length = len(item.prompt_ids)
    if asked == LensPositions.LAST:
        return []
    if asked == LensPositions.ALL:
        return list(range(length))
    found = [int(position) for position in asked]
    for position in found:
        if not -length <= position < length:
            raise ValueError(
                f"position {position} does not exist in {item.prompt or 'a prompt'!r}, which has "
                f"{length} tokens: 0 to {length - 1}, or {-length} to -1"
            )
    return sorted({position % length for position in found})


def _input_ids(item: LensItem, settings: LensSettings) -> tuple[int, ...]:
    if settings.span is TargetSpan.FIRST:
        return item.read_ids
    return item.prompt_ids + item.target_ids[:-1]


def batches_of(items: Sequence[LensItem], settings: LensSettings) -> Iterator[list[int]]:
    """Indices of items of about equal length, the longest first."""
    lengths = [len(_input_ids(item, settings)) for item in items]
    order = sorted(range(len(items)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = min(_BATCH_ROWS, max(1, _BATCH_TOKENS // lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _own_share(batches: Iterator[list[int]], distributed: bool) -> Iterator[list[int]]:
    if not distributed:
        return batches
    from torch import distributed as dist

    return islice(batches, dist.get_rank(), None, dist.get_world_size())


def _run(
    model: HookedModel,
    items: Sequence[LensItem],
    plan: Sequence[Sequence[Row]],
    settings: LensSettings,
) -> Rows:
    rows = [row for of_item in plan for row in of_item]
    in_batch = torch.tensor([i for i, of_item in enumerate(plan) for _ in of_item])
    positions = torch.tensor([row.position for row in rows])
    kept: list[Tensor] = []

    def cut_out(stream: Tensor, _point: HookPoint) -> None:
        device = stream.device
        kept.append(stream.detach()[in_batch.to(device), positions.to(device)])

    points = [HookPoint(Site.RESID_POST, layer) for layer in range(model.n_layers)]
    if settings.embedding:
        points.insert(0, HookPoint(Site.RESID_PRE, 0))
    batch = padded_batch(items, settings, model.engine.config)
    run_hooked(model, batch, [(point, cut_out) for point in points])
    return Rows(rows, [torch.stack([stream.to(model.device) for stream in kept])])


def padded_batch(items: Sequence[LensItem], settings: LensSettings, config: Any) -> TokenBatch:
    """Rows padded on the right with a token of their own; masked only where their length counts."""
    rows = [_input_ids(item, settings) for item in items]
    width = max(map(len, rows))
    ids = [row + (row[-1],) * (width - len(row)) for row in rows]
    border = rope_border(config)
    if border is None or width <= border:
        return as_token_batch({"input_ids": ids})
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
    return as_token_batch({"input_ids": ids, "attention_mask": mask})
