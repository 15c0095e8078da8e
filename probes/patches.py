"""Patches: values of one run put into another, many patches in one batch.

A patch names the hook points that it replaces together, at which positions, and of which head where
it is of one alone. Every row of a batch has a patch of its own, so a sweep over layers and
positions runs as many passes as its rows fill batches. Causal tracing (`probes.causal`) and
activation patching (`probes.activation_patching`) are such sweeps.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probes.checking import all_finite
from probes.corpus.token_batch import as_token_batch
from probes.hooks import refusal, run_hooked
from probes.places import Hooks
from probes.readout import CHUNK_BYTES, read_in_chunks
from probes.running_model import RunningModel
from probes.sites import HookPoint, Site

BATCH_TOKENS = 2048
"""Tokens of the rows that run at once."""
OF_HEADS = (
    *(Site.QUERY, Site.KEY, Site.VALUE, Site.ROTATED_QUERY, Site.ROTATED_KEY),
    *(Site.MIXED_VALUES, Site.HEAD_RESULTS, Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN),
)
"""Sites with an axis for heads."""
_HEADS_FIRST = (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN)


class Patch(NamedTuple):
    """What one row takes from another run."""

    points: tuple[HookPoint, ...]
    positions: tuple[int, ...]
    head: int | None = None
    """None for all."""


Values = Mapping[HookPoint, Tensor]
"""What another run has had at hook points: tensors of one row, `[pos ...]` or, of attention scores
and patterns, `[head query_pos key_pos]`."""


def keeping(points: Sequence[HookPoint], values: dict[HookPoint, Tensor]) -> Hooks:
    """Hooks that keep the first row's values."""

    def keep(tensor: Tensor, point: HookPoint) -> None:
        values[point] = tensor.detach()[0].clone()

    return [(point, keep) for point in points]


def patching(patches: Sequence[Patch], values: Values) -> Hooks:
    """Hooks that put kept values into the rows of a batch, each where its patch says."""
    rows: dict[HookPoint, list[tuple[int, int, int | None]]] = defaultdict(list)
    for row, patch in enumerate(patches):
        for point in patch.points:
            rows[point] += [(row, position, patch.head) for position in patch.positions]

    def put(tensor: Tensor, point: HookPoint) -> Tensor:
        new, kept = tensor.clone(), values[point].to(tensor)
        # Views, so that writing into them writes into the tensor.
        into, of = new, kept
        if point.site in _HEADS_FIRST:
            into, of = new.transpose(1, 2), kept.transpose(0, 1)
        row, position, head = zip(*rows[point], strict=True)
        which = [torch.tensor(axis, device=tensor.device) for axis in (row, position)]
        if head[0] is None:
            into[which[0], which[1]] = of[which[1]]
        else:
            heads = torch.tensor(head, device=tensor.device)
            into[which[0], which[1], heads] = of[which[1], heads]
        return new

    return [(point, put) for point in rows]


def run_patched(
    model: RunningModel,
    ids: Sequence[int],
    patches: Sequence[Patch],
    values: Values,
    read: Callable[[Float[Tensor, "row d_vocab"]], Float[Tensor, "row"]],
    *,
    what: tuple[str, str],
    position: int = -1,
    others: Callable[[slice], Hooks] = lambda _rows: [],
) -> Float[Tensor, "patch"]:
    """What is read off the logits at a position of a prompt, under each patch by itself.

    Args:
        model: the model.
        ids: the prompt.
        patches: a row each; those with a head and those without may not share a hook point.
        values: what patches put in.
        read: from logits to numbers.
        what: what is read, and of which prompt, for a refusal.
        position: where logits are read, below 0 from the end.
        others: further hooks for some of the rows.

    Raises:
        ValueError: what is read is not finite.
    """
    found, size = [], max(1, BATCH_TOKENS // len(ids))
    for some in (slice(start, start + size) for start in range(0, len(patches), size)):
        mine = patches[some]
        batch = as_token_batch({"input_ids": torch.tensor([list(ids)]).expand(len(mine), -1)})
        hooks = [*others(some), *patching(mine, values)]
        normed = run_hooked(model, batch, hooks)
        assert normed is not None
        with torch.no_grad():
            at = normed[:, position]
            got = read_in_chunks(model.anatomy, at, lambda logits, _: read(logits), CHUNK_BYTES)
        if not all_finite(got):
            raise refusal(
                model,
                what[0],
                partial(run_hooked, model, batch, hooks),
                torch.ones_like(batch.input_ids, dtype=torch.bool),
                lambda _row, pos: f"{what[1]}, token {pos}",
                (int((~got.isfinite()).nonzero()[0]), position % len(ids)),
            )
        found.append(got.double().cpu())
    return torch.cat(found)
