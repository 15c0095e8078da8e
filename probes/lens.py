"""Lens pass: run prompts and read every layer's stream at the positions asked for.

Only those positions are ever unembedded. `read_lens` reads all that a lens shows, `target_ranks`
the ranks alone, which is all that localization needs.

Where a target has several tokens, those before the one that is asked for are given (teacher
forcing).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from probes.checking import all_finite, difference, tolerance
from probes.choices import LensPositions, TargetSpan
from probes.corpus.token_batch import (
    TokenBatch,
    as_token_batch,
    batches_by_length,
    from_everywhere,
    own_share,
)
from probes.hooked_model import HookedModel
from probes.hooks import refusal, require_finite, run_hooked
from probes.prompts import LensItem
from probes.readout import (
    NO_RANK,
    Readout,
    Translate,
    joined_readouts,
    norm_and_unembed,
    read_ranks,
    read_streams,
)
from probes.rotary import rope_border
from probes.sites import HookPoint, Site


@dataclass(frozen=True, kw_only=True)
class LensSettings:
    """What to read, and where.

    Attributes:
        positions: the readout position alone (`last`), all of the prompt, or some positions of it,
            counted from its start or, if negative, from its end.
        span: the target's first token alone, or all of them.
        norm: whether streams go through the final norm before the unembedding.
        embedding: whether the stream before block 0 is a layer.
        top_k: how many of the most likely tokens to keep.
    """

    positions: LensPositions | tuple[int, ...] = LensPositions.LAST
    span: TargetSpan = TargetSpan.FIRST
    norm: bool = True
    embedding: bool = False
    top_k: int = 10

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; keep at least one token")


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
    for batch in own_share(batches_of(items, settings), distributed):
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
    """The rows of one item."""
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
    return batches_by_length(lengths, tokens=_BATCH_TOKENS, rows=_BATCH_ROWS)


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


CHECKED_TOKENS = 8
"""Of a prompt; what a model computes does not depend on how long its text is."""


def check_readout(model: HookedModel, item: LensItem) -> None:
    """Refuse a model whose logits are not the norm and unembedding of its last stream."""
    kept: list[Tensor] = []
    batch = as_token_batch({"input_ids": [list(item.prompt_ids[:CHECKED_TOKENS])]})
    last = HookPoint(Site.RESID_POST, model.n_layers - 1)

    def keep(stream: Tensor, _point: HookPoint) -> None:
        kept.append(stream.detach())

    with torch.no_grad(), model.evaluating(), model.hooks([(last, keep)]):
        logits = model.logits(batch)[:, -1]
        # After the pass, so that what the model computes is what is compared with.
        read = norm_and_unembed(model.anatomy, kept[-1][:, -1])
    last_token = torch.arange(batch.input_ids.shape[1])[None] == batch.input_ids.shape[1] - 1
    require_finite(logits.amax(dim=-1), model, batch, last_token, "a logit of the first item")
    gap = difference(read, logits)
    if not gap <= tolerance(logits.dtype):
        raise ValueError(
            f"the readout of the last layer differs from the logits of {model.name} by {gap:.2g} "
            "of the largest; something changes the stream after the last block or the logits, so a "
            "lens would not show what the model computes"
        )


_Done = list[tuple[list[Row], Readout]]


@dataclass(frozen=True)
class LensReadouts:
    """All that was read: one row per item, position and target token.

    Attributes:
        item: which item each row is of.
        position: the position whose stream was read.
        target: the token id that was looked for there.
        place: its place in the target: 0 at the readout position, counting up along the target's
            tokens, and -1 at earlier positions of the prompt, where its first token is looked for.
        readout: what the streams said, `layer row`.
    """

    item: Int64[Tensor, "row"]
    position: Int64[Tensor, "row"]
    target: Int64[Tensor, "row"]
    place: Int64[Tensor, "row"]
    readout: Readout


def read_lens(
    model: HookedModel,
    items: Sequence[LensItem],
    settings: LensSettings,
    *,
    translate: Translate | None = None,
    controls: Mapping[str, Sequence[int]] | None = None,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> LensReadouts:
    """Read items through the lens."""
    if not items:
        raise ValueError("there are no items to read; give at least one prompt and target")
    if settings.norm:
        check_readout(model, items[0])
    plan = [rows_of(index, item, settings, controls or {}) for index, item in enumerate(items)]
    groups = groups_of_rows(model, items, plan, settings, distributed, on_items)
    done = []
    for group in groups:
        rows, readout = _read(model, group, settings, translate)
        read = torch.stack([readout.log_prob, readout.entropy, readout.kl])
        if not all_finite(read):
            raise _refusal(model, items, settings, rows, read.isfinite().all(dim=0))
        done.append((rows, readout))
    return _in_order([pair for part in from_everywhere(done, distributed) for pair in part])


def target_ranks(
    model: HookedModel, items: Sequence[LensItem], *, distributed: bool = False
) -> Int64[Tensor, "layer item"]:
    """Ranks of targets' first tokens at the readout position: what `localize` takes.

    The same numbers as `read_lens` gives, without what it reads beside them, for a little more than
    a forward pass.

    Args:
        model: the hooked model; whatever is attached to it is in what is read.
        items: prompts and targets.
        distributed: share the items out over the processes of the default group.

    Raises:
        ValueError: there are no items, the last layer's readout is not what the model computes,
            or a layer's is not finite.
    """
    if not items:
        raise ValueError("there are no items to read; give at least one prompt and target")
    check_readout(model, items[0])
    settings = LensSettings()
    plan = [rows_of(index, item, settings, {}) for index, item in enumerate(items)]
    done = []
    with torch.no_grad():
        for group in groups_of_rows(model, items, plan, settings, distributed, None):
            targets = torch.tensor([row.target for row in group.rows], device=model.device)
            ranks = read_ranks(model.anatomy, torch.cat(group.streams, dim=1), targets)
            if (ranks == NO_RANK).any():
                raise _refusal(model, items, settings, group.rows, ranks != NO_RANK)
            done.append(([row.item for row in group.rows], ranks))
    parts = [pair for part in from_everywhere(done, distributed) for pair in part]
    order = torch.tensor([item for places, _ in parts for item in places]).argsort()
    return torch.cat([ranks for _, ranks in parts], dim=1)[:, order]


def _read(
    model: HookedModel, waiting: Rows, settings: LensSettings, translate: Translate | None
) -> tuple[list[Row], Readout]:
    streams = torch.cat(waiting.streams, dim=1)
    targets = torch.tensor([row.target for row in waiting.rows], device=streams.device)
    controls = torch.tensor([row.controls for row in waiting.rows], device=streams.device)
    with torch.no_grad():
        readout = read_streams(
            model.anatomy,
            streams,
            targets,
            top_k=settings.top_k,
            norm=settings.norm,
            embedding=settings.embedding,
            translate=translate,
            controls=controls.long().reshape(len(targets), -1),
        )
    return waiting.rows, readout


def _refusal(
    model: HookedModel,
    items: Sequence[LensItem],
    settings: LensSettings,
    rows: Sequence[Row],
    sound: Bool[Tensor, "layer row"],
) -> ValueError:
    """What to raise for readouts that are not finite; the first of such items runs once more."""
    layer, place = (~sound).nonzero()[0].tolist()
    row = rows[place]
    batch = padded_batch([items[row.item]], settings, model.engine.config)
    real = torch.ones_like(batch.input_ids, dtype=torch.bool)

    def named(_row: int, pos: int) -> str:
        text = items[row.item].prompt
        return f"item {row.item}{'' if text is None else f' ({text[:40]!r})'}, token {pos}"

    label = layer - settings.embedding
    what = f"the readout of {'the embedding' if label < 0 else f'layer {label}'}"
    return refusal(model, what, lambda: model.trunk(batch), real, named, (0, row.position))


def _in_order(done: _Done) -> LensReadouts:
    rows = [row for some, _ in done for row in some]
    order = sorted(range(len(rows)), key=lambda i: (rows[i].item, rows[i].position, rows[i].place))
    whole = joined_readouts([readout for _, readout in done])
    index = torch.tensor(order)
    return LensReadouts(
        item=torch.tensor([rows[i].item for i in order]),
        position=torch.tensor([rows[i].position for i in order]),
        target=torch.tensor([rows[i].target for i in order]),
        place=torch.tensor([rows[i].place for i in order]),
        readout=Readout(**{f.name: getattr(whole, f.name)[:, index] for f in fields(Readout)}),
    )
