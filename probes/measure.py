"""Measure: knowledge, attention and next-token entropy of a model over a corpus, in one pass.

The model's trunk runs once per batch. Coefficients are summed inside the hook, on the device, and
never kept; attention entropy comes from fused attention without a pattern; the unembedding is
computed for next-token entropy only, a few positions at a time. Means are kept apart in blocks of
documents, so that every total has a jackknife interval.

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

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from probes.choices import Coefficient, Compat, EntropyKind, Weighting
from probes.corpus.token_batch import TokenBatch, as_token_batch
from probes.meters import AttentionMeter, KnowledgeMeter, Meter, NextTokenMeter
from probes.models import HookedModel
from probes.results import EntropyResult, Provenance
from probes.weighting import weigh

ALL_KINDS = tuple(EntropyKind)
# Ten blocks of documents: a t quantile of 2.26 instead of 1.96, for ten copies of the sums.
BLOCKS = 10


def measure_entropy(
    model: HookedModel,
    batches: Iterable[Mapping[str, Tensor]],
    kinds: Sequence[EntropyKind | str] = ALL_KINDS,
    *,
    coefficient: Coefficient | str = Coefficient.ABS,
    weighting: Weighting | str = Weighting.INSTANCE,
    compat: Compat | str | None = None,
    blocks: int = BLOCKS,
    on_batch: Callable[[int], None] | None = None,
) -> EntropyResult:
    """Measure the entropies of a model over batches of tokens.

    Args:
        model: the hooked model.
        batches: from `token_batches`, or any iterable of mappings with `input_ids` and
            `attention_mask`, `[batch pos]`; one row is then one document.
        kinds: which entropies.
        coefficient: how coefficients become weights on memory vectors.
        weighting: whether instances (rows), as in Eq. 2, or tokens count the same.
        compat: `"official"` for the released code's knowledge entropy.
        blocks: how many blocks of documents the jackknife leaves out in turn.
        on_batch: called with the number of tokens of every batch when it is done.

    Returns:
        The entropies in nats, with intervals and provenance.

    Raises:
        ValueError: an argument is none of the choices, `relu_gate` is asked of a model without
            gates, `compat` of an entropy that has no official code, there are no batches, or
            the model computes attention in a way that cannot be read.
    """
    asked = _choices(EntropyKind, kinds, "kinds")
    settings = _Settings(
        kinds=asked,
        coefficient=_choice(Coefficient, coefficient, "coefficient"),
        weighting=_choice(Weighting, weighting, "weighting"),
        compat=None if compat is None else _choice(Compat, compat, "compat"),
        blocks=blocks,
    )
    _refuse_uncovered(settings)
    meters = _meters(model, settings)
    seen = _run(model, batches, list(meters.values()), settings, on_batch)
    return _result(model, batches, meters, settings, seen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    kinds: tuple[EntropyKind, ...]
    coefficient: Coefficient
    weighting: Weighting
    compat: Compat | None
    blocks: int


@dataclasses.dataclass
class _Seen:
    documents: int = 0
    rows: int = 0
    tokens: int = 0


def _run(
    model: HookedModel,
    batches: Iterable[Mapping[str, Tensor]],
    meters: Sequence[Meter],
    settings: _Settings,
    on_batch: Callable[[int], None] | None,
) -> _Seen:
    seen = _Seen()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(model.evaluating())
        for meter in meters:
            stack.enter_context(meter.attached(model))
        for mapping in batches:
            batch = as_token_batch(mapping, document_offset=seen.documents)
            if settings.compat is Compat.OFFICIAL:
                batch = _with_pads_counted(batch, seen.documents)
            weights = weigh(batch, settings.weighting, settings.blocks)
            for meter in meters:
                meter.weights = weights
            normed = model.trunk(batch)
            for meter in meters:
                meter.after_trunk(model, normed)
            tokens = int(batch.attention_mask.sum())
            seen.documents = max(seen.documents, int(batch.segment_ids.max()) + 1)
            seen.rows += len(batch.input_ids)
            seen.tokens += tokens
            if on_batch is not None:
                on_batch(tokens)
    if not seen.tokens:
        raise ValueError("no tokens to measure: there were no batches, or nothing but pads")
    return seen


def _with_pads_counted(batch: TokenBatch, first_document: int) -> TokenBatch:
    """The released code passes no mask to the model and sums over every position."""
    return as_token_batch({"input_ids": batch.input_ids}, document_offset=first_document)


def _meters(model: HookedModel, settings: _Settings) -> dict[EntropyKind, Meter]:
    official = settings.compat is Compat.OFFICIAL
    made: dict[EntropyKind, Meter] = {}
    for kind in settings.kinds:
        match kind:
            case EntropyKind.KNOWLEDGE:
                made[kind] = KnowledgeMeter(model, settings.coefficient, settings.blocks, official)
            case EntropyKind.ATTENTION:
                made[kind] = AttentionMeter(model, settings.blocks)
            case EntropyKind.NEXT_TOKEN:
                made[kind] = NextTokenMeter(model, settings.blocks)
    return made


def _result(
    model: HookedModel,
    batches: Any,
    meters: Mapping[EntropyKind, Meter],
    settings: _Settings,
    seen: _Seen,
) -> EntropyResult:
    parts: dict[str, Any] = {}
    for meter in meters.values():
        parts.update(meter.results())
    return EntropyResult(
        provenance=_provenance(model, batches, settings, seen),
        notes=_notes(model, settings, seen),
        **parts,
    )


def _provenance(model: HookedModel, batches: Any, settings: _Settings, seen: _Seen) -> Provenance:
    configuration = dataclasses.asdict(settings) | getattr(batches, "configuration", {})
    return Provenance(
        model=model.name,
        revision=model.revision,
        weights_sha256=model.content_hash(),
        architecture=model.architecture.family,
        dtype=str(model.dtype).removeprefix("torch."),
        device=_device_name(model.device),
        corpus=configuration.pop("corpus", None),
        corpus_licence=getattr(getattr(batches, "corpus", None), "licence", None),
        corpus_sha256=getattr(batches, "content_hash", None),
        documents=seen.documents,
        rows=seen.rows,
        tokens=seen.tokens,
        configuration=configuration,
        versions={name: version(name) for name in ("mnemoscope", "torch", "transformers")},
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _notes(model: HookedModel, settings: _Settings, seen: _Seen) -> tuple[str, ...]:
    notes = []
    if seen.documents < 2:
        notes.append("One document only: intervals need at least two.")
    if settings.compat is Compat.OFFICIAL:
        notes.append("Released code's arithmetic: pads counted, log(p + 1e-9).")
    if model.dtype in (torch.bfloat16, torch.float16):
        notes.append("Half-precision weights: coefficients are rounded before they are summed.")
    return tuple(notes)


def _refuse_uncovered(settings: _Settings) -> None:
    if settings.compat is Compat.OFFICIAL and settings.kinds != (EntropyKind.KNOWLEDGE,):
        raise ValueError(
            f"compat='official' was asked for {', '.join(settings.kinds)}, but the released code "
            "has knowledge entropy only; pass kinds=('knowledge',)"
        )
    if settings.blocks < 2:
        raise ValueError(f"blocks must be at least 2 for an interval, found {settings.blocks}")


def _choices(choices: Any, given: Any, name: str) -> tuple[Any, ...]:
    chosen = tuple(_choice(choices, value, name) for value in given)
    if not chosen:
        raise ValueError(f"{name} is empty; choose from {', '.join(choices)}")
    return tuple(dict.fromkeys(chosen))


def _choice(choices: Any, given: Any, name: str) -> Any:
    try:
        return choices(given)
    except ValueError:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, found {given!r}") from None
