"""Lens pass: run prompts and read every layer's stream at the positions asked for.

Only those positions are ever unembedded. `read_lens` reads all that a lens shows, `target_ranks`
the ranks alone, which is all that localization needs.

Where a target has several tokens, those before the one that is asked for are given (teacher
forcing).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from probes.checking import difference, each_of, hooked_model, takes, tolerance
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
from probes.places import Hooks
from probes.prompts import LensItem
from probes.readout import (
    LOGITS_BYTES,
    NO_RANK,
    Readout,
    Translate,
    joined_readouts,
    norm_and_unembed,
    read_ranks,
    read_streams,
)
from probes.refusals import shown, whole_number
from probes.rotary import rope_border
from probes.shown import Shown
from probes.sites import HookPoint, Site


@dataclass(frozen=True, kw_only=True)
class LensSettings:
    """What to read, and where."""

    positions: LensPositions | tuple[int, ...] = LensPositions.LAST
    """The readout position alone, all of the prompt, or some, from its start or (negative) end."""
    span: TargetSpan = TargetSpan.FIRST
    norm: bool = True  # whether streams go through the final norm before the unembedding
    embedding: bool = False  # whether the stream before block 0 is a layer
    top_k: int = 10  # how many of the most likely tokens to keep

    def __post_init__(self) -> None:
        if wrong := whole_number()(self.top_k):
            raise ValueError(f"top_k is {wrong}")


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


def _rows_of(
    index: int, item: LensItem, settings: LensSettings, controls: Mapping[str, Sequence[int]]
) -> list[Row]:
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


def _streams(
    model: HookedModel,
    items: Sequence[LensItem],
    rows: Sequence[Sequence[Row]],
    settings: LensSettings,
    *,
    checked: bool,
) -> Float[Tensor, "layer row d_model"]:
    """The streams of some items at the positions of their rows; the last is checked on request."""
    in_batch = torch.tensor([i for i, of_item in enumerate(rows) for _ in of_item])
    positions = torch.tensor([row.position for of_item in rows for row in of_item])
    batch = padded_batch(items, settings, model.engine.config)
    logits: list[Tensor] = []

    def cut_last(all_logits: Tensor, _point: HookPoint) -> None:
        logits.append(all_logits.detach()[in_batch[-1], positions[-1]])

    beside = [(HookPoint(Site.LOGITS, None), cut_last)] if checked else []
    embedding = settings.embedding
    streams = streams_at(model, batch, in_batch, positions, embedding=embedding, beside=beside)
    if checked:
        last = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
        last[in_batch[-1], positions[-1]] = True
        _require_readout(model, streams[-1, -1:], logits[-1][None], batch, last)
    return streams


def streams_at(
    model: HookedModel,
    batch: TokenBatch,
    rows: Int64[Tensor, "place"],
    positions: Int64[Tensor, "place"],
    *,
    embedding: bool,
    beside: Hooks = (),
) -> Float[Tensor, "layer place d_model"]:
    """Streams at some places of a batch after every block; first that before block 0, if asked."""
    kept: list[Tensor] = []

    def cut_out(stream: Tensor, _point: HookPoint) -> None:
        kept.append(stream.detach()[rows.to(stream.device), positions.to(stream.device)])

    points = [HookPoint(Site.RESID_PRE, 0)] * embedding
    points += [HookPoint(Site.RESID_POST, layer) for layer in range(model.n_layers)]
    run_hooked(model, batch, [*((point, cut_out) for point in points), *beside])
    return torch.stack([stream.to(model.device) for stream in kept])


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
"""Tokens of a prompt; what a model computes does not depend on how long its text is."""


def check_readout(model: HookedModel, item: LensItem) -> None:
    """Refuse a model whose logits are not the norm and unembedding of its last stream."""
    kept: list[Tensor] = []
    batch = as_token_batch({"input_ids": [list(item.prompt_ids[:CHECKED_TOKENS])]})
    last = HookPoint(Site.RESID_POST, model.n_layers - 1)

    def keep(stream: Tensor, _point: HookPoint) -> None:
        kept.append(stream.detach()[:, -1])

    with torch.no_grad(), model.evaluating(), model.hooks([(last, keep)]):
        logits = model.logits(batch)[:, -1]
    where = torch.arange(batch.input_ids.shape[1])[None] == batch.input_ids.shape[1] - 1
    _require_readout(model, kept[-1], logits, batch, where)


@torch.no_grad()
def _require_readout(
    model: HookedModel,
    stream: Float[Tensor, "1 d_model"],
    logits: Float[Tensor, "1 d_vocab"],
    batch: TokenBatch,
    where: Bool[Tensor, "batch pos"],
) -> None:
    """Refuse logits that are not the norm and unembedding of the last stream at the same place."""
    # After the pass, so that what the model computes is what is compared with.
    read = norm_and_unembed(model.anatomy, stream.to(model.device))
    require_finite(logits.amax(dim=-1), model, batch, where, "a logit of the first item")
    gap = difference(read, logits.to(read.device))
    if not gap <= tolerance(logits.dtype):
        raise ValueError(
            f"the readout of the last layer differs from the logits of {model.name} by {gap:.2g} "
            "of the largest; something changes the stream after the last block or the logits, so a "
            "lens would not show what the model computes"
        )


Read = TypeVar("Read")


def _read_items(
    model: HookedModel,
    items: Sequence[LensItem],
    settings: LensSettings,
    read: Callable[
        [Float[Tensor, "layer row d_model"], list[Row]], tuple[Read, Bool[Tensor, "layer row"]]
    ],
    *,
    controls: Mapping[str, Sequence[int]] | None = None,
    distributed: bool = False,
    on_items: Callable[[int], None] | None = None,
) -> list[tuple[list[Row], Read]]:
    """Run items, and read the rows of several batches together; `read` says which are finite."""
    if not items:
        raise ValueError("there are no items to read; give at least one prompt and target")
    # One pass both reads and checks, where the logits of all tokens cost less than another pass.
    few = (
        len(items) == 1 and 4 * model.d_vocab * len(_input_ids(items[0], settings)) <= LOGITS_BYTES
    )
    checked = settings.norm and few
    if settings.norm and not checked:
        check_readout(model, items[0])
    plan = [_rows_of(index, item, settings, controls or {}) for index, item in enumerate(items)]
    done: list[tuple[list[Row], Read]] = []
    rows: list[Row] = []
    streams: list[Tensor] = []

    def read_waiting() -> None:
        found, sound = read(torch.cat(streams, dim=1), rows)
        if not bool(sound.all()):
            raise _refusal(model, items, settings, rows, sound)
        done.append((list(rows), found))
        rows.clear()
        streams.clear()

    with torch.no_grad():
        for batch in own_share(batches_of(items, settings), distributed):
            of_items = [plan[i] for i in batch]
            some = [items[i] for i in batch]
            streams.append(_streams(model, some, of_items, settings, checked=checked))
            rows += [row for of_item in of_items for row in of_item]
            if len(rows) >= _ROWS_READ_TOGETHER:
                read_waiting()
            if on_items is not None:
                on_items(len(batch))
        if rows:
            read_waiting()
    return [pair for part in from_everywhere(done, distributed) for pair in part]


@dataclass(frozen=True)
class LensReadouts(Shown):
    """All that was read: one row per item, position and target token."""

    item: Int64[Tensor, "row"]
    position: Int64[Tensor, "row"]
    target: Int64[Tensor, "row"]  # the token id that was looked for there
    place: Int64[Tensor, "row"]
    """0 at the readout position, counting up along the target; -1 at earlier positions of the
    prompt, where its first token is looked for."""
    readout: Readout


def _refuse_misfits(
    items: Sequence[LensItem], translate: Any, controls: Mapping[str, Sequence[int]] | None
) -> None:
    if translate is not None and not callable(translate):
        raise ValueError(
            f"translators is {shown(translate)}; give probes.load_translators(folder, model)"
        )
    if controls is None:
        return
    if not isinstance(controls, Mapping):
        raise ValueError(f"controls is {shown(controls)}; give names and a token id for each item")
    for name, ids in controls.items():
        if len(ids) != len(items):
            raise ValueError(
                f"control {name!r} has {len(ids)} tokens for {len(items)} items; give one each"
            )


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
    _refuse_misfits(items, translate, controls)

    def read(streams: Tensor, rows: list[Row]) -> tuple[Readout, Tensor]:
        others = torch.tensor([row.controls for row in rows], device=streams.device).long()
        readout = read_streams(
            model.anatomy,
            streams,
            torch.tensor([row.target for row in rows], device=streams.device),
            top_k=settings.top_k,
            norm=settings.norm,
            embedding=settings.embedding,
            translate=translate,
            controls=others.reshape(len(rows), -1),
        )
        numbers = torch.stack([readout.log_prob, readout.entropy, readout.kl])
        return readout, numbers.isfinite().all(dim=0)

    done = _read_items(
        model,
        items,
        settings,
        read,
        controls=controls,
        distributed=distributed,
        on_items=on_items,
    )
    rows = [row for some, _ in done for row in some]
    order = sorted(range(len(rows)), key=lambda i: (rows[i].item, rows[i].position, rows[i].place))
    whole, index = joined_readouts([readout for _, readout in done]), torch.tensor(order)
    names = ("item", "position", "target", "place")
    columns = {name: torch.tensor([getattr(rows[i], name) for i in order]) for name in names}
    ordered = {f.name: getattr(whole, f.name)[:, index] for f in fields(Readout)}
    return LensReadouts(**columns, readout=Readout(**ordered))


some_items = each_of(LensItem, "one of analysis.lens(model, prompts, targets).items")


@takes(model=hooked_model, items=some_items)
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

    def read(streams: Tensor, rows: list[Row]) -> tuple[Tensor, Tensor]:
        targets = torch.tensor([row.target for row in rows], device=streams.device)
        ranks = read_ranks(model.anatomy, streams, targets)
        return ranks, ranks != NO_RANK

    parts = _read_items(model, items, LensSettings(), read, distributed=distributed)
    order = torch.tensor([row.item for rows, _ in parts for row in rows]).argsort()
    return torch.cat([ranks for _, ranks in parts], dim=1)[:, order]


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
