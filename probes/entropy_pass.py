"""One pass over batches with meters attached; where it may stop early or share the work.

**Stopping early.** With `until_interval` the pass ends as soon as the jackknife interval of every
total is as narrow as asked, in nats. It is looked at whenever the documents seen have grown by a
twentieth, so that looking costs little; without it, whenever they have grown by half, for the
convergence curve.

**Several processes.** Each takes every n-th batch, whatever their number, and one reduction at the
end adds up sums and weights; documents keep their blocks, so intervals are those of one process.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from math import ceil

import torch

from probes.choices import Compat, EntropyKind, Weighting
from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch
from probes.finite import require_finite
from probes.hooked_model import HookedModel
from probes.meters import Meter
from probes.results import ConvergencePoint
from probes.weighting import weigh

_GROWTH_TO_STOP, _GROWTH_TO_DRAW = 1.05, 1.5


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """How tokens are weighed, and when the pass ends."""

    weighting: Weighting
    compat: Compat | None
    blocks: int
    until_interval: float | None
    distributed: bool


@dataclass
class Seen:
    """What a pass has gone through, and how its totals settled."""

    documents: int = 0
    rows: int = 0
    tokens: int = 0
    convergence: list[ConvergencePoint] = field(default_factory=list)
    narrow_enough: bool = False


def run_pass(
    model: HookedModel,
    batches: Batches,
    meters: Sequence[Meter],
    settings: PassSettings,
    on_batch: Callable[[int], None] | None,
) -> Seen:
    """Run all batches, or as many as are needed, and let the meters see them.

    Args:
        model: the model to run.
        batches: what to run it on.
        meters: what to measure; those with a kind are watched for convergence.
        settings: how.
        on_batch: called with the number of tokens of every batch when it is done.

    Raises:
        ValueError: there are no tokens, or the model gives something that is not finite.
    """
    watched = {meter.kind: meter for meter in meters if meter.kind is not None}
    seen, look_at = Seen(), 2
    growth = _GROWTH_TO_DRAW if settings.until_interval is None else _GROWTH_TO_STOP
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(model.evaluating())
        for meter in meters:
            stack.enter_context(meter.attached(model))
        for batch in _own_share(_numbered(batches, settings.compat), settings.distributed):
            tokens = _run_batch(model, batch, meters, settings)
            seen.documents = max(seen.documents, int(batch.segment_ids.max()) + 1)
            seen.rows += len(batch.input_ids)
            seen.tokens += tokens
            if on_batch is not None:
                on_batch(tokens)
            if seen.documents >= look_at and not settings.distributed:
                look_at = ceil(seen.documents * growth) + 1
                seen.convergence += (points := _points(watched, seen))
                if _is_narrow(points, settings.until_interval):
                    seen.narrow_enough = True
                    break
    if settings.distributed:
        _add_up(seen, meters)
    if not seen.tokens:
        raise ValueError("no tokens to measure: there were no batches, or nothing but pads")
    return seen


def _numbered(batches: Batches, compat: Compat | None) -> Iterable[TokenBatch]:
    """Batches whose documents are numbered through, also where a row is a document."""
    documents = 0
    for mapping in as_batches(batches):
        batch = as_token_batch(mapping, document_offset=documents)
        if compat is Compat.OFFICIAL:
            # The released code passes no mask to the model and sums over every position.
            batch = as_token_batch({"input_ids": batch.input_ids}, document_offset=documents)
        documents = max(documents, int(batch.segment_ids.max()) + 1)
        yield batch


def _own_share(batches: Iterable[TokenBatch], distributed: bool) -> Iterable[TokenBatch]:
    if not distributed:
        return batches
    from torch import distributed as dist

    return islice(batches, dist.get_rank(), None, dist.get_world_size())


def _run_batch(
    model: HookedModel, batch: TokenBatch, meters: Sequence[Meter], settings: PassSettings
) -> int:
    weights = weigh(batch, settings.weighting, settings.blocks)
    for meter in meters:
        meter.weights, meter.batch = weights, batch
    normed = model.trunk(batch)
    real = batch.attention_mask.bool()
    streams = normed if weights.tokens is None else normed[real.to(normed.device)]
    require_finite(streams.flatten(0, -2), model, batch, real, "the residual stream")
    for meter in meters:
        meter.after_trunk(model, normed)
    return int(batch.attention_mask.sum())


def _points(meters: Mapping[EntropyKind, Meter], seen: Seen) -> list[ConvergencePoint]:
    found = []
    for kind, meter in meters.items():
        total, interval = meter.so_far()
        found.append(ConvergencePoint(kind, seen.documents, seen.tokens, total, interval))
    return found


def _is_narrow(points: Sequence[ConvergencePoint], width: float | None) -> bool:
    if width is None:
        return False
    return all(p.interval is not None and p.interval.width <= width for p in points)


def _add_up(seen: Seen, meters: Sequence[Meter]) -> None:
    """Sums over processes; the number of documents is the highest that any has seen."""
    from torch import distributed as dist

    counts = torch.tensor([seen.rows, seen.tokens], dtype=torch.int64)
    documents = torch.tensor([seen.documents], dtype=torch.int64)
    dist.all_reduce(counts)
    dist.all_reduce(documents, op=dist.ReduceOp.MAX)
    seen.rows, seen.tokens, seen.documents = *counts.tolist(), int(documents)
    for meter in meters:
        meter.means.all_reduce()
