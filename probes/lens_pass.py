"""Lens pass: run prompts and read every layer's stream at the positions asked for.

Only those positions are ever unembedded. `read_lens` reads all that a lens shows, `target_ranks`
the ranks alone, which is all that localization needs.

Where a target has several tokens, those before the one that is asked for are given (teacher
forcing).

Example:
    >>> import probes
    >>> from probes.lens_items import lens_items
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                   # doctest: +SKIP
    >>> items = lens_items(model, ["The capital of France is"], [" Paris"])     # doctest: +SKIP
    >>> int(read_lens(model, items, LensSettings()).readout.rank[-1, 0])        # doctest: +SKIP
    0
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from probes.checking import all_finite
from probes.finite import refusal
from probes.hooked_model import HookedModel
from probes.lens_items import LensItem
from probes.lens_readout import (
    NO_RANK,
    Readout,
    Translate,
    joined_readouts,
    read_ranks,
    read_streams,
)
from probes.lens_rows import Row, Rows, groups_of_rows, padded_batch, rows_of
from probes.lens_settings import LensSettings
from probes.readout_check import check_readout

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
    """Read items through the lens.

    Args:
        model: the hooked model; whatever is attached to it is in what is read.
        items: prompts and targets.
        settings: what to read.
        translate: of a tuned lens; None for the logit lens.
        controls: by name, another token id for each item, ranked where the target's first is.
        distributed: share the items out over the processes of the default group; every process
            returns the rows of all.
        on_items: called with the number of items of every batch when it is done.

    Returns:
        Rows by item, then by position; `control_rank` has the controls in their order.

    Raises:
        ValueError: a position lies outside a prompt, the last layer's readout is not what the
            model computes, or a layer's is not finite.
    """
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
    return _in_order(_from_everywhere(done) if distributed else done)


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
    parts = _from_everywhere(done) if distributed else done
    order = torch.tensor([item for places, _ in parts for item in places]).argsort()
    return torch.cat([ranks for _, ranks in parts], dim=1)[:, order]


def _from_everywhere(done: list[Any]) -> list[Any]:
    """What all processes have read; it is small, since nothing in it has the vocabulary's size."""
    from torch import distributed as dist

    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, done)
    return [pair for part in parts for pair in part]


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
