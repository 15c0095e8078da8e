"""Measure: knowledge, attention and next-token entropy of a model over a corpus, in one pass.

The model's trunk runs once per batch. Coefficients are summed inside the hook, on the device, and
never kept; attention entropy comes from fused attention without a pattern; the unembedding is
computed for next-token entropy only, a few positions at a time. Means are kept apart in blocks of
documents, so that every total has a jackknife interval.

`until_interval` ends the pass as soon as the intervals are narrow enough, and under `torchrun` the
batches are shared out (`probes.entropy_pass`).

By default the definitions are the paper's, with pads left out. `compat="official"` is the
released code's arithmetic for knowledge entropy instead: pads are counted and attended to, every
token weighs the same, and the logarithm has its `1e-9`.

Source: Kim et al., ICLR 2025: Eq. 2, Eq. 3, A.4.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                  # doctest: +SKIP
    >>> corpus = probes.load_corpus("general", max_documents=64)               # doctest: +SKIP
    >>> batches = probes.token_batches(corpus, model.tokenizer)                # doctest: +SKIP
    >>> probes.measure_entropy(model, batches).knowledge.total                 # doctest: +SKIP
    215.4
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
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
from probes.corpus.token_batch import Batches
from probes.entropy_pass import PassSettings, Seen, run_pass
from probes.given import hooked_model, takes
from probes.hooked_model import HookedModel
from probes.meters import AttentionMeter, KnowledgeMeter, Meter, NextTokenMeter
from probes.provenance import Provenance, provenance_of
from probes.resampling import Resampling
from probes.results import EntropyResult

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
