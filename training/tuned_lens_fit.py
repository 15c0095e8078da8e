"""How a tuned lens is trained, and whether it is nearer to the model than the logit lens.

The model is frozen. A step runs one batch, draws some positions from it and moves the translators
of all layers towards a smaller KL divergence from the model's output, in nats.

The two lenses are compared on text held out: for each layer the mean over positions of the KL
divergence of the model's final distribution from what a lens reads there; smaller is nearer. Both
read the same positions, so the difference comes with a standard error over positions (which is a
little too small, since positions of one document are alike).

Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens",
arXiv 2303.08112, sections 3 and 4.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from probes.anatomy import Anatomy
from probes.checking import all_finite, refuse_not_finite, what_makes_finite
from probes.choices import SampleBy, as_choice
from probes.corpus.sources import MORE_DOCUMENTS, Corpus, ReadCounts, load_corpus
from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch
from probes.hooked_model import HookedModel
from probes.hooks import require_finite, run_hooked
from probes.readout import CHUNK_BYTES, Translate, norm_and_unembed, read_streams
from probes.shown import Result
from probes.sites import HookPoint, Site
from probes.translators import Translators, identity_translators
from training.choices import TranslatorOptimizer


@dataclass(frozen=True, eq=False)
class LensComparison(Result):
    """Mean KL divergence from the model's output by layer, in nats; the last layer is left out.

    Attributes:
        layer_labels: `"embed"` for the stream before block 0, then numbers of blocks.
        logit: of the logit lens.
        tuned: of the tuned lens.
        difference_error: standard error of `tuned - logit`.
        positions: how many positions the means are over.
    """

    layer_labels: tuple[str, ...]
    logit: Float[Tensor, "layer"]
    tuned: Float[Tensor, "layer"]
    difference_error: Float[Tensor, "layer"]
    positions: int

    @property
    def layers_nearer(self) -> int:
        """At how many layers the tuned lens is nearer to the model."""
        return int((self.tuned < self.logit).sum())

    def _facts(self) -> Mapping[str, Any]:
        nearer = f"{self.layers_nearer} of {len(self.logit)} layers nearer than the logit lens"
        means = {"mean KL": f"{float(self.tuned.mean()):.4g} nats, logit {self.logit.mean():.4g}"}
        return {"": nearer, **means, "positions": self.positions}

    def to_dataframe(self) -> Any:
        """One row per layer, as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(
            {
                "layer": self.layer_labels,
                "logit_kl": self.logit.tolist(),
                "tuned_kl": self.tuned.tolist(),
                "difference": (self.tuned - self.logit).tolist(),
                "difference_standard_error": self.difference_error.tolist(),
                "positions": self.positions,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "layer_labels": list(self.layer_labels),
            "logit_kl": self.logit.tolist(),
            "tuned_kl": self.tuned.tolist(),
            "difference_standard_error": self.difference_error.tolist(),
            "positions": self.positions,
            "layers_nearer": self.layers_nearer,
        }


def compare_lenses(
    model: HookedModel,
    batches: Batches,
    translators: Translators,
    *,
    rows_per_batch: int = 64,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> LensComparison:
    """Compare a tuned lens with the logit lens."""
    generator = torch.Generator().manual_seed(seed)
    logit, tuned = [], []
    for batch in map(as_token_batch, as_batches(batches)):
        streams = sampled_streams(model, batch, rows_per_batch, generator)
        logit.append(_divergences(model, streams, None))
        tuned.append(_divergences(model, streams, translators))
        if on_batch is not None:
            on_batch(1)
    if not logit:
        raise ValueError("there were no batches to compare the lenses on; pass at least one")
    of_logit, of_tuned = torch.cat(logit, dim=1), torch.cat(tuned, dim=1)
    positions = of_logit.shape[1]
    return LensComparison(
        layer_labels=("embed", *map(str, range(model.n_layers - 1))),
        logit=of_logit.mean(dim=1),
        tuned=of_tuned.mean(dim=1),
        difference_error=(of_tuned - of_logit).std(dim=1, correction=0) / positions**0.5,
        positions=positions,
    )


def _divergences(
    model: HookedModel, streams: Float[Tensor, "layer row d_model"], translate: Translate | None
) -> Float[Tensor, "layer_but_last row"]:
    # The target is of no concern here, but a readout asks for one.
    targets = torch.zeros(streams.shape[1], dtype=torch.long, device=streams.device)
    with torch.no_grad():
        read = read_streams(
            model.anatomy, streams, targets, top_k=1, embedding=True, translate=translate
        )
    _require_finite_layers(model, read.kl[:-1], "the KL divergence")
    return read.kl[:-1].double()


def _require_finite_layers(
    model: HookedModel, values: Float[Tensor, "layer *rest"], of: str
) -> None:
    """Refuse values of the layers but the last, of which one is not finite."""
    if all_finite(values):
        return
    layers = {f"layer {layer - 1}": found for layer, found in enumerate(values)}
    weights = model.engine.state_dict()
    refuse_not_finite(layers, of, what_makes_finite(model.name, weights, model.dtype))


def sampled_streams(
    model: HookedModel, batch: TokenBatch, count: int, generator: torch.Generator
) -> Float[Tensor, "layer row d_model"]:
    """Residual streams at some positions of a batch, from before block 0 to after the last."""
    real = torch.nonzero(batch.attention_mask.cpu())
    chosen = real[torch.randperm(len(real), generator=generator)[:count]]
    kept: list[Tensor] = []

    def cut_out(stream: Tensor, _point: HookPoint) -> None:
        row, position = chosen.to(stream.device).unbind(dim=1)
        kept.append(stream.detach()[row, position])

    points = [HookPoint(Site.RESID_PRE, 0)]
    points += [HookPoint(Site.RESID_POST, layer) for layer in range(model.n_layers)]
    run_hooked(model, batch, [(point, cut_out) for point in points])
    streams = torch.stack([stream.to(model.device) for stream in kept])
    sums = streams.float().sum(dim=(0, 2))
    if not all_finite(sums):
        # Any one of them will do: the pass that follows finds out where it began.
        place = tuple(chosen[int((~sums.isfinite()).nonzero()[0, 0])])
        one = torch.zeros_like(batch.attention_mask, dtype=torch.bool)
        one[place] = True
        require_finite(sums.new_full((1,), torch.nan), model, batch, one, "a residual stream")
    return streams


HELD_OUT_OF = 8
"""One document in so many is held out."""


def learning_and_heldout(
    corpus: str,
    heldout: str | None,
    *,
    column: str | None,
    sample_by: SampleBy = SampleBy.DOCUMENT,
) -> tuple[Corpus, Corpus]:
    """Open the text to learn from and the text to compare on."""
    if heldout == corpus:
        raise ValueError(
            f"--held-out {heldout} is the corpus itself; give another, or leave it out"
        )
    learning = load_corpus(corpus, column=column, sample_by=sample_by)
    if heldout is not None:
        return learning, load_corpus(heldout, column=column, sample_by=sample_by)
    if learning.open_texts is None:
        raise ValueError(
            f"{corpus} holds rows of token ids, of which none is known to be another document; "
            "name the text to judge on with --held-out"
        )
    if sum(1 for _, _ in zip(range(HELD_OUT_OF), learning.documents(), strict=False)) < HELD_OUT_OF:
        raise ValueError(
            f"{corpus} has fewer than {HELD_OUT_OF} documents, too few to hold any out; name the "
            f"text to judge on with --held-out, or {MORE_DOCUMENTS}"
        )

    def part(name: str, *, held_out: bool) -> Corpus:
        def texts() -> Iterator[str]:
            for index, text in enumerate(learning.documents()):
                if (index % HELD_OUT_OF == HELD_OUT_OF - 1) == held_out:
                    yield text

        name = f"{learning.name} ({name})"
        return replace(learning, name=name, open_texts=texts, counts=ReadCounts())

    return part("without held out", held_out=False), part("held out", held_out=True)


DEFAULT_RATES = {TranslatorOptimizer.ADAM: 1e-3, TranslatorOptimizer.SGD: 1.0}
"""The rates to start from, where none is given."""


@dataclass(frozen=True, kw_only=True)
class TranslatorSettings:
    """How to fit translators; see `train_translators`."""

    steps: int = 150
    rows_per_step: int = 32
    optimizer: TranslatorOptimizer = TranslatorOptimizer.ADAM
    learning_rate: float | None = None
    momentum: float = 0.9
    largest_gradient: float = 1.0
    seed: int = 0
    validate_every: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "rows_per_step", "validate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more")
        for name in ("rate", "largest_gradient"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} is {getattr(self, name)}; give a positive number")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; give a number between 0 and 1")

    @property
    def rate(self) -> float:
        """The learning rate of the first step."""
        return DEFAULT_RATES[self.optimizer] if self.learning_rate is None else self.learning_rate


class TranslatorFit:
    """Translators on their way; `positions` counts what they have learnt from."""

    def __init__(self, model: HookedModel, settings: TranslatorSettings) -> None:
        self._model, self._settings = model, settings
        self._fitted = identity_translators(model)
        self._generator = torch.Generator().manual_seed(settings.seed)
        parameters, momentum = [self._fitted.weight, self._fitted.bias], settings.momentum
        self._optimizer: torch.optim.Optimizer
        if settings.optimizer is TranslatorOptimizer.ADAM:
            self._optimizer = torch.optim.Adam(parameters, settings.rate, betas=(momentum, 0.999))
        else:
            # The rate is that of a step that goes on for ever; momentum multiplies it by 1/(1 - m).
            rate = settings.rate * (1 - momentum)
            self._optimizer = torch.optim.SGD(parameters, rate, momentum=momentum, nesterov=True)
        # It reaches 0 after the last step.
        self._decay = LinearLR(self._optimizer, 1.0, 0.0, total_iters=settings.steps)
        self.positions = 0

    def step(self, batch: TokenBatch) -> Float[Tensor, "layer"]:
        """Learn from one batch; the mean KL divergence of every layer, in nats, before that."""
        weight, bias = self._fitted.weight, self._fitted.bias
        count = self._settings.rows_per_step
        streams = sampled_streams(self._model, batch, count, self._generator)
        inner, final = streams[:-1].float(), streams[-1]
        moved = inner + torch.baddbmm(bias[:, None], inner, weight.mT)
        kl, slope = kl_and_slope(self._model.anatomy, moved, final)
        named = {"a translated stream": moved, "the KL divergence": kl, "its gradient": slope}
        for what, values in named.items():
            _require_finite_layers(self._model, values, what)
        # By hand, since autograd would keep the streams of all layers for the same two products.
        weight.grad, bias.grad = slope.mT @ inner, slope.sum(dim=1)
        _clip(weight.grad, bias.grad, self._settings.largest_gradient)
        self._optimizer.step()
        self._decay.step()
        self.positions += inner.shape[1]
        return kl.cpu()

    def translators(self) -> Translators:
        """What the translators are by now; further steps leave these as they are."""
        weight, bias = self._fitted.weight.detach().clone(), self._fitted.bias.detach().clone()
        refuse_not_finite(
            {"weight": weight, "bias": bias}, "a translator", "try a lower learning rate"
        )
        return replace(self._fitted, weight=weight, bias=bias)


def _clip(
    weight: Float32[Tensor, "layer d_model d_model"],
    bias: Float32[Tensor, "layer d_model"],
    largest: float,
) -> None:
    """Bring the gradient of each layer to at most a norm, in place."""
    norm = (weight.square().sum(dim=(1, 2)) + bias.square().sum(dim=1)).sqrt()
    factor = (largest / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1.0)
    weight.mul_(factor[:, None, None])
    bias.mul_(factor[:, None])


def kl_and_slope(
    anatomy: Anatomy,
    moved: Float[Tensor, "layer row d_model"],
    final: Float[Tensor, "row d_model"],
) -> tuple[Float[Tensor, "layer"], Float[Tensor, "layer row d_model"]]:
    """Mean KL divergence of the final distribution from each layer's, and its gradient."""
    fit_at_once = max(1, CHUNK_BYTES // (4 * anatomy.d_vocab))
    kl, slope = moved.new_zeros(len(moved)), torch.empty_like(moved)
    for rows in torch.arange(moved.shape[1]).split(fit_at_once):
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        with torch.no_grad():
            target = norm_and_unembed(anatomy, final[some]).float().log_softmax(dim=-1)
        for layers in torch.arange(len(moved)).split(max(1, fit_at_once // len(rows))):
            group = slice(int(layers[0]), int(layers[-1]) + 1)
            found, slope[group, some] = _of_chunk(anatomy, moved[group, some], target, final.dtype)
            kl[group] += found
    return kl / moved.shape[1], slope / moved.shape[1]


def _of_chunk(
    anatomy: Anatomy,
    moved: Float[Tensor, "layer row d_model"],
    target: Float[Tensor, "row d_vocab"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "layer"], Float[Tensor, "layer row d_model"]]:
    with torch.enable_grad():
        leaf = moved.detach().requires_grad_()
        log_probs = norm_and_unembed(anatomy, leaf.to(dtype)).float().log_softmax(dim=-1)
        probs = target.exp()
        cross = (probs * log_probs).sum(dim=(1, 2))
        kl = (probs * target).sum() - cross
        # Of this leaf alone: nothing is added to the gradients of the model's weights.
        (slope,) = torch.autograd.grad(kl.sum(), leaf)
    return kl.detach(), slope


@dataclass(frozen=True, eq=False)
class TranslatorHistory:
    """What happened while translators were fitted."""

    kl: Float[Tensor, "step layer"]  # mean over the positions of every step, before it, in nats
    positions: int  # that were learnt from
    passes: int  # how often the batches were gone through to their end
    validation: Mapping[int, LensComparison]  # on the validation text, by steps done


def train_translators(
    model: HookedModel,
    batches: Batches,
    *,
    steps: int = 150,
    rows_per_step: int = 32,
    optimizer: TranslatorOptimizer | str = TranslatorOptimizer.ADAM,
    learning_rate: float | None = None,
    momentum: float = 0.9,
    largest_gradient: float = 1.0,
    seed: int = 0,
    validation: Batches | None = None,
    validate_every: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Translators, TranslatorHistory]:
    """Fit the translators of all layers of a model.

    Args:
        model: the hooked model; no gradient and no change reaches its weights.
        batches: text to learn from, one batch a step; gone through again if it is too short.
        steps: how many steps to take.
        rows_per_step: how many positions of each batch to learn from, drawn without pads.
        optimizer: `"adam"` or `"sgd"`.
        learning_rate: of the first step, falling to 0 in a straight line; None for 1e-3 (Adam) or
            1.0 (SGD).
        momentum: of SGD; the decay of Adam's mean gradient.
        largest_gradient: norm that each layer's gradient is clipped to.
        seed: of the draw of positions.
        validation: other text, to follow the lenses on.
        validate_every: steps from one evaluation on it to the next.
        on_step: called with 1 after every step.

    Returns:
        The translators, and what happened.

    Raises:
        ValueError: a number is out of range, there are no batches, only one of `validation` and
            `validate_every` is given, or something that is computed is not finite.
    """
    settings = TranslatorSettings(
        steps=steps,
        rows_per_step=rows_per_step,
        optimizer=as_choice(TranslatorOptimizer, optimizer, "optimizer"),
        learning_rate=learning_rate,
        momentum=momentum,
        largest_gradient=largest_gradient,
        seed=seed,
        validate_every=validate_every,
    )
    if (validation is None) != (validate_every is None):
        raise ValueError("validation needs validate_every, and the other way round; give both")
    text = _Text(batches)
    fit = TranslatorFit(model, settings)
    kl, seen = [], {}
    for step, batch in zip(range(1, steps + 1), text, strict=False):
        kl.append(fit.step(batch))
        if validation is not None and validate_every is not None and step % validate_every == 0:
            seen[step] = compare_lenses(model, validation, fit.translators(), seed=seed)
        if on_step is not None:
            on_step(1)
    history = TranslatorHistory(torch.stack(kl), fit.positions, text.passes, seen)
    training = {**asdict(settings), "learning_rate": settings.rate, **text.origin()}
    training["positions"] = fit.positions
    return replace(fit.translators(), training=training), history


class _Text:
    """Batches without an end, and what was read of them."""

    def __init__(self, batches: Batches) -> None:
        self._batches = as_batches(batches)
        self._whole: str | None = None
        self.passes = 0

    def __iter__(self) -> Iterator[TokenBatch]:
        while True:
            count = 0
            for batch in self._batches:
                yield as_token_batch(batch)
                count += 1
            if not count:
                raise ValueError(
                    "there are no batches (left) to learn from; give more text, fewer steps, or "
                    "batches that can be gone through again"
                )
            self.passes += 1
            self._whole = getattr(self._batches, "content_hash", None)

    def origin(self) -> dict[str, Any]:
        """What tells the text from others: of all of it after a pass, else of what was read."""
        corpus = getattr(self._batches, "corpus", None)
        return {
            "corpus": getattr(corpus, "name", None),
            "corpus_licence": getattr(corpus, "licence", None),
            "corpus_sha256": self._whole or getattr(self._batches, "content_hash", None),
            "batching": getattr(self._batches, "configuration", None),
        }
