"""Measure: knowledge, attention and next-token entropy of a model over a corpus, in one pass.

The model's trunk runs once per batch. Coefficients are summed inside the hook, on the device, and
never kept; attention entropy comes from fused attention without a pattern; the unembedding is
computed for next-token entropy only, a few positions at a time. Means are kept apart in blocks of
documents, so that every total has a jackknife interval.

`until_interval` ends the pass as soon as the intervals are narrow enough, and under `torchrun` the
batches are shared out.

By default the definitions are the paper's, with pads left out. `compat="official"` is the
released code's arithmetic for knowledge entropy instead: pads are counted and attended to, every
token weighs the same, and the logarithm has its `1e-9`.

Source: Kim et al., ICLR 2025: Eq. 2, Eq. 3, A.4.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from math import ceil
from typing import Any

import torch

from probes.choices import (
    Coefficient,
    Compat,
    EntropyKind,
    IntervalMethod,
    Weighting,
    as_choice,
    as_choices,
)
from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch, own_share
from probes.given import hooked_model, takes
from probes.hooked_model import HookedModel
from probes.hooks import require_finite
from probes.intervals import Resampling
from probes.meters import AttentionMeter, KnowledgeMeter, Meter, NextTokenMeter
from probes.results import ConvergencePoint, EntropyResult, Provenance, provenance_of
from probes.streaming import weigh

_GROWTH_TO_STOP, _GROWTH_TO_DRAW = 1.05, 1.5


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """How tokens are weighed, and when the pass ends."""

    weighting: Weighting
    blocks: int
    compat: Compat | None = None
    until_interval: float | None = None
    distributed: bool = False


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
    """Run all batches, or as many as are needed, and let the meters see them."""
    watched = {meter.kind: meter for meter in meters if meter.kind is not None}
    seen, look_at = Seen(), 2
    growth = _GROWTH_TO_DRAW if settings.until_interval is None else _GROWTH_TO_STOP
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(model.evaluating())
        for meter in meters:
            stack.enter_context(meter.attached(model))
        for batch in own_share(_numbered(batches, settings.compat), settings.distributed):
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


ALL_KINDS = tuple(EntropyKind)


@takes(model=hooked_model)
def measure_entropy(
    model: HookedModel,
    batches: Batches,
    kinds: Sequence[EntropyKind | str] | str = ALL_KINDS,
    *,
    coefficient: Coefficient | str = Coefficient.ABS,
    variants: Sequence[Coefficient | str] | str = (),
    weighting: Weighting | str = Weighting.INSTANCE,
    compat: Compat | str | None = None,
    interval: IntervalMethod | str = IntervalMethod.JACKKNIFE,
    blocks: int = Resampling.blocks,
    until_interval: float | None = None,
    distributed: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> EntropyResult:
    """Measure the entropies of a model over batches of tokens.

    Args:
        model: the hooked model.
        batches: from `token_batches`, or any iterable of mappings with `input_ids` and
            `attention_mask`, `[batch pos]`; one row is then one document. A mapping by itself is
            one batch.
        kinds: which entropies; a string by itself is one.
        coefficient: how coefficients become weights on memory vectors.
        variants: further ways, measured in the same pass.
        weighting: whether instances (rows), as in Eq. 2, or tokens count the same.
        compat: `"official"` for the released code's knowledge entropy.
        interval: how intervals are made.
        blocks: how many blocks the documents are dealt into; as many as documents to resample
            documents themselves. Memory grows with it.
        until_interval: stop as soon as the jackknife interval of every total is at most this wide,
            in nats; None to run all batches.
        distributed: share the batches out over the processes of the default group; every process
            returns the result of all.
        on_batch: called with the number of tokens of every batch when it is done.

    Returns:
        The entropies in nats, with intervals and provenance.

    Raises:
        ValueError: an argument is none of the choices, `relu_gate` is asked of a model without
            gates, `compat` of an entropy that has no official code, there are no batches, or
            the model computes attention in a way that cannot be read.
    """
    asked = as_choices(EntropyKind, kinds, "kinds")
    chosen = as_choice(Coefficient, coefficient, "coefficient")
    resampling = Resampling(as_choice(IntervalMethod, interval, "interval"), blocks)
    settings = PassSettings(
        weighting=as_choice(Weighting, weighting, "weighting"),
        compat=None if compat is None else as_choice(Compat, compat, "compat"),
        blocks=blocks,
        until_interval=until_interval,
        distributed=distributed,
    )
    if not asked:
        raise ValueError(f"kinds is empty; choose from {', '.join(EntropyKind)}")
    _refuse_uncovered(asked, settings)
    official = settings.compat is Compat.OFFICIAL
    meters = _meters(model, asked, chosen, resampling, official)
    aside = {
        name: KnowledgeMeter(model, name, resampling, official=official, kind=None)
        for name in as_choices(Coefficient, variants, "variants")
    }
    seen = run_pass(model, batches, [*meters, *aside.values()], settings, on_batch)
    parts: dict[str, Any] = {}
    for meter in meters:
        parts.update(meter.results())
    configuration = {
        "backend": model.backend,
        "kinds": asked,
        "coefficient": chosen,
        **asdict(settings),
    }
    return EntropyResult(
        provenance=_provenance(model, batches, configuration | asdict(resampling), seen),
        notes=_notes(model, settings, seen),
        variants={name: meter.results()["knowledge"] for name, meter in aside.items()},
        convergence=tuple(seen.convergence),
        **parts,
    )


def _meters(
    model: HookedModel,
    kinds: Sequence[EntropyKind],
    coefficient: Coefficient,
    resampling: Resampling,
    official: bool,
) -> list[Meter]:
    made: list[Meter] = []
    for kind in kinds:
        match kind:
            case EntropyKind.KNOWLEDGE:
                made.append(KnowledgeMeter(model, coefficient, resampling, official=official))
            case EntropyKind.ATTENTION:
                made.append(AttentionMeter(model, resampling))
            case EntropyKind.NEXT_TOKEN:
                made.append(NextTokenMeter(model, resampling))
    return made


def _provenance(
    model: HookedModel, batches: Any, settings: dict[str, Any], seen: Seen
) -> Provenance:
    configuration = settings | getattr(batches, "configuration", {})
    return provenance_of(
        model,
        configuration,
        documents=seen.documents,
        rows=seen.rows,
        tokens=seen.tokens,
        corpus=configuration.pop("corpus", None),
        corpus_licence=getattr(getattr(batches, "corpus", None), "licence", None),
        corpus_sha256=getattr(batches, "content_hash", None),
    )


def _notes(model: HookedModel, settings: PassSettings, seen: Seen) -> tuple[str, ...]:
    notes = []
    if seen.documents < 2:
        notes.append("One document only: intervals need at least two.")
    if settings.until_interval is not None:
        width = f"{settings.until_interval:g} nats"
        notes.append(
            f"Stopped after {seen.documents} documents, with every interval at most {width} wide."
            if seen.narrow_enough
            else f"The corpus ended before every interval was at most {width} wide."
        )
    if settings.compat is Compat.OFFICIAL:
        notes.append("Released code's arithmetic: pads counted, log(p + 1e-9).")
    if model.dtype in (torch.bfloat16, torch.float16):
        notes.append("Half-precision weights: coefficients are rounded before they are summed.")
    return tuple(notes)


def _refuse_uncovered(kinds: tuple[EntropyKind, ...], settings: PassSettings) -> None:
    if settings.compat is Compat.OFFICIAL and kinds != (EntropyKind.KNOWLEDGE,):
        raise ValueError(
            f"compat='official' was asked for {', '.join(kinds)}, but the released code "
            "has knowledge entropy only; pass kinds=('knowledge',)"
        )
    if settings.until_interval is not None and not settings.until_interval > 0:
        raise ValueError(
            f"until_interval must be a positive width in nats, found {settings.until_interval}"
        )
    if settings.until_interval is not None and settings.distributed:
        raise ValueError(
            "until_interval needs to see all batches in turn, which processes that share them do "
            "not; leave it out, or run one process"
        )
