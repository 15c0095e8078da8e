"""Measure: knowledge, attention and next-token entropy of a model over a corpus, in one pass.

The trunk runs once per batch. Coefficients are summed in the hook, on the device; attention entropy
comes from fused attention; the unembedding is computed for next-token entropy only.

By default the definitions are the paper's, with pads left out. `compat="official"` is the
released code's arithmetic for knowledge entropy instead: pads are counted and attended to, every
token weighs the same, and the logarithm has its `1e-9`.

Source: Kim et al., ICLR 2025: Eq. 2, Eq. 3, A.4.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from math import ceil, log
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probes.checking import batches as some_batches
from probes.checking import hooked_model, takes
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
from probes.corpus_means import (
    BatchWeights,
    BlockedMean,
    Interval,
    Resampling,
    Statistic,
    jackknife,
    weigh,
)
from probes.entropy import knowledge_entropy, next_token_entropy, official_knowledge_entropy
from probes.hooked_model import HookedModel
from probes.hooks import require_finite
from probes.places import HookFunction
from probes.readout import read_in_chunks
from probes.results import (
    AttentionEntropy,
    ConvergencePoint,
    EntropyResult,
    KnowledgeEntropy,
    NextTokenEntropy,
    provenance_of,
)
from probes.sites import HookPoint, Site


class Meter(ABC):
    """One entropy, measured during a pass."""

    kind: EntropyKind | None
    """Which entropy's convergence it shows; None for a variant measured on the side."""
    weights: BatchWeights  # weights of the batch that is running; set before it does
    batch: TokenBatch  # that batch

    def __init__(self, n_layers: int, resampling: Resampling) -> None:
        self.means = BlockedMean(n_layers, resampling.blocks)
        self._resampling = resampling

    def attached(self, model: HookedModel) -> AbstractContextManager[None]:
        """Attach to the model for a `with` block; nothing, where the stream is all it needs."""
        del model
        return nullcontext()

    def after_trunk(self, model: HookedModel, normed: Float[Tensor, "batch pos d_model"]) -> None:
        """Take the normed residual stream of a batch; called once a batch."""
        del model, normed
        self.means.count(self.weights)

    @abstractmethod
    def total(self, means: Tensor) -> float:
        """The one number that the means come to, in nats."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """Fields of `EntropyResult` that this meter fills."""

    def interval(self, statistic: Statistic | None = None) -> Interval | None:
        """The interval of the total, or of another statistic of the means."""
        return self._resampling.interval(self.means, statistic or self.total)

    def so_far(self) -> tuple[float, Interval | None]:
        """The total and its jackknife interval, in the middle of a pass."""
        return self.total(self.means.mean()), jackknife(self.means, self.total)


class KnowledgeMeter(Meter):
    """Mean coefficients of every memory vector (Eq. 2)."""

    def __init__(
        self,
        model: HookedModel,
        coefficient: Coefficient,
        resampling: Resampling,
        *,
        official: bool = False,
        kind: EntropyKind | None = EntropyKind.KNOWLEDGE,
    ) -> None:
        super().__init__(model.n_layers, resampling)
        self.kind = kind
        if coefficient is Coefficient.RELU_GATE and not model.architecture.gated:
            raise ValueError(
                f"coefficient 'relu_gate' needs an MLP with a gate, but {model.name} "
                f"({model.architecture.family}) has none; use 'abs' or 'relu_output'"
            )
        self._coefficient = coefficient
        self._formula = official_knowledge_entropy if official else knowledge_entropy
        self._norms = model.anatomy.memory_norms()
        contribution = coefficient is Coefficient.CONTRIBUTION
        self._scale = self._norms if contribution else torch.ones_like(self._norms)
        self._gate: dict[HookPoint, Tensor] = {}

    def attached(self, model: HookedModel) -> AbstractContextManager[None]:
        if self._coefficient is Coefficient.RELU_GATE:
            functions = {Site.MLP_GATE: self._keep_gate, Site.MLP_UP: self._add_relu_gate}
        else:
            functions = {Site.MLP_COEFFICIENTS: self._add}
        hooks: list[tuple[HookPoint, HookFunction]] = [
            (HookPoint(site, layer), function)
            for layer in range(model.n_layers)
            for site, function in functions.items()
        ]
        return model.hooks(hooks)

    def total(self, means: Tensor) -> float:
        return float(self._formula(means * self._scale).sum())

    def results(self) -> dict[str, Any]:
        found = {"knowledge": self._entropy(self._scale)}
        if self._coefficient is Coefficient.ABS:
            found["contribution"] = self._entropy(self._norms)
        return found

    def _add(self, coefficients: Tensor, point: HookPoint) -> None:
        flat = coefficients.flatten(0, 1)
        relu = self._coefficient is Coefficient.RELU_OUTPUT
        assert point.layer is not None
        self.means.add(point.layer, self.weights, flat.relu() if relu else flat.abs())

    def _keep_gate(self, gate: Tensor, point: HookPoint) -> None:
        self._gate[point] = gate

    def _add_relu_gate(self, up: Tensor, point: HookPoint) -> None:
        gate = self._gate.pop(HookPoint(Site.MLP_GATE, point.layer))
        self._add(gate.relu() * up, point)

    def _entropy(self, scale: Float[Tensor, "layer d_mlp"]) -> KnowledgeEntropy:
        mean = self.means.mean() * scale
        interval = self.interval(lambda means: float(self._formula(means * scale).sum()))
        return KnowledgeEntropy(self._formula(mean), mean, interval)


class AttentionMeter(Meter):
    """Mean attention entropy of every head (Eq. 3)."""

    kind = EntropyKind.ATTENTION

    def __init__(self, model: HookedModel, resampling: Resampling) -> None:
        super().__init__(model.n_layers, resampling)

    def attached(self, model: HookedModel) -> AbstractContextManager[None]:
        return model.attention_entropies(self._add)

    def total(self, means: Tensor) -> float:
        return float(means.mean(dim=1).sum())

    def results(self) -> dict[str, Any]:
        return {"attention": AttentionEntropy(self.means.mean(), self.interval())}

    def _add(self, entropies: Float[Tensor, "batch head query_pos"], layer: int) -> None:
        self.means.add(layer, self.weights, rearrange(entropies, "b h q -> (b q) h"))


class NextTokenMeter(Meter):
    """Mean next-token entropy over positions (A.4)."""

    kind = EntropyKind.NEXT_TOKEN

    def __init__(self, model: HookedModel, resampling: Resampling) -> None:
        super().__init__(1, resampling)
        self._d_vocab = model.d_vocab

    def after_trunk(self, model: HookedModel, normed: Float[Tensor, "batch pos d_model"]) -> None:
        super().after_trunk(model, normed)
        flat = normed.flatten(0, 1)
        tokens = self.weights.tokens
        counted = flat if tokens is None else flat[tokens.to(flat.device)]
        entropies = read_in_chunks(
            model.anatomy, counted, lambda logits, _rows: next_token_entropy(logits)
        )
        real = self.batch.attention_mask.bool()
        require_finite(entropies, model, self.batch, real, "next-token entropy")
        kept = BatchWeights(self.weights.matrix, self.weights.blocks, None)
        self.means.add(0, kept, entropies[:, None])

    def total(self, means: Tensor) -> float:
        return float(means.sum())

    def results(self) -> dict[str, Any]:
        mean, interval = self.total(self.means.mean()), self.interval()
        return {"next_token": NextTokenEntropy(mean, log(self._d_vocab), interval)}


_GROWTH_TO_STOP, _GROWTH_TO_DRAW = 1.05, 1.5


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """How tokens are weighed, and when the pass ends."""

    weighting: Weighting = Weighting.INSTANCE
    compat: Compat | None = None
    blocks: int = Resampling.blocks
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
    with torch.no_grad(), model.evaluating(), ExitStack() as stack:
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
                points = [
                    ConvergencePoint(kind, seen.documents, seen.tokens, *meter.so_far())
                    for kind, meter in watched.items()
                ]
                seen.convergence += points
                width, intervals = settings.until_interval, [p.interval for p in points]
                if width is not None and all(i and i.width <= width for i in intervals):
                    seen.narrow_enough = True
                    break
    if settings.distributed:
        from torch import distributed as dist

        sums, documents = torch.tensor([seen.rows, seen.tokens]), torch.tensor(seen.documents)
        dist.all_reduce(sums)
        # The highest that any process has seen.
        dist.all_reduce(documents, op=dist.ReduceOp.MAX)
        seen.rows, seen.tokens, seen.documents = *sums.tolist(), int(documents)
        for meter in meters:
            meter.means.all_reduce()
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


ALL_KINDS = tuple(EntropyKind)


@takes(model=hooked_model, batches=some_batches)
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
    beside: Sequence[Meter] = (),
    on_batch: Callable[[int], None] | None = None,
) -> EntropyResult:
    """Measure the entropies of a model over batches of tokens.

    Args:
        model: the hooked model.
        batches: from `token_batches`, or mappings with `input_ids` and `attention_mask`,
            `[batch pos]`, of which one row is one document; a mapping by itself is one batch.
        kinds: which entropies; a string by itself is one.
        coefficient: how coefficients become weights on memory vectors.
        variants: further ways, measured in the same pass.
        weighting: whether instances (rows), as in Eq. 2, or tokens count the same.
        compat: `"official"` for the released code's knowledge entropy.
        interval: how intervals are made.
        blocks: how many blocks the documents are dealt into; memory grows with it.
        until_interval: stop as soon as every jackknife interval is at most so wide, in nats.
        distributed: share the batches out over the processes of the default group; every process
            returns the result of all.
        beside: other meters that see the same pass; their results are their own.
        on_batch: called with the number of tokens of every batch when it is done.

    Returns:
        The entropies in nats, with intervals and provenance.

    Raises:
        ValueError: an argument is none of the choices, the model has no gates for `relu_gate`,
            `compat` has no code for an entropy, there are no batches, or attention cannot be read.
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
    make: dict[EntropyKind, Callable[[], Meter]] = {
        EntropyKind.KNOWLEDGE: lambda: KnowledgeMeter(model, chosen, resampling, official=official),
        EntropyKind.ATTENTION: lambda: AttentionMeter(model, resampling),
        EntropyKind.NEXT_TOKEN: lambda: NextTokenMeter(model, resampling),
    }
    meters = [make[kind]() for kind in asked]
    aside = {
        name: KnowledgeMeter(model, name, resampling, official=official, kind=None)
        for name in as_choices(Coefficient, variants, "variants")
    }
    seen = run_pass(model, batches, [*meters, *aside.values(), *beside], settings, on_batch)
    parts = {name: part for meter in meters for name, part in meter.results().items()}
    configuration = {
        **{"backend": model.backend, "kinds": asked, "coefficient": chosen},
        **asdict(settings),
        **asdict(resampling),
        **getattr(batches, "configuration", {}),
    }
    return EntropyResult(
        provenance=provenance_of(
            model,
            configuration,
            documents=seen.documents,
            rows=seen.rows,
            tokens=seen.tokens,
            corpus=configuration.pop("corpus", None),
            corpus_licence=getattr(getattr(batches, "corpus", None), "licence", None),
            corpus_sha256=getattr(batches, "content_hash", None),
        ),
        notes=_notes(model, settings, seen),
        variants={name: meter.results()["knowledge"] for name, meter in aside.items()},
        convergence=tuple(seen.convergence),
        **parts,
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
    width = settings.until_interval
    if width is not None and not width > 0:
        raise ValueError(f"until_interval must be a positive width in nats, found {width}")
    if width is not None and settings.distributed:
        raise ValueError(
            "until_interval needs to see all batches in turn, which processes that share them do "
            "not; leave it out, or run one process"
        )
