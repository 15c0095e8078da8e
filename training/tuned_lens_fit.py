"""How a tuned lens is trained.

The model is frozen. A step runs one batch, draws some positions from it and moves the translators
of all layers towards a smaller KL divergence from the model's output, in nats.

Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens",
arXiv 2303.08112, section 3.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from probes.anatomy import Anatomy
from probes.checking import refuse_not_finite
from probes.choices import Lens, as_choice
from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch
from probes.hooked_model import HookedModel
from probes.readout import CHUNK_BYTES, norm_and_unembed
from probes.translators import Translators, identity_translators
from training.choices import TranslatorOptimizer
from training.lens_fits import (
    LensComparison,
    compare_lenses,
    model_of_fit,
    remaining,
    require_finite_layers,
    sampled_streams,
    text_origin,
)

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
    """Translators on their way, and what was seen of them: losses by step, and comparisons."""

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
        self.kl: list[Tensor] = []
        self.seen: dict[int, LensComparison] = {}

    def step(self, batch: TokenBatch) -> None:
        """Learn from one batch, after noting the mean KL divergence of every layer, in nats."""
        weight, bias = self._fitted.weight, self._fitted.bias
        count = self._settings.rows_per_step
        streams = sampled_streams(self._model, batch, count, self._generator)
        inner, final = streams[:-1].float(), streams[-1]
        moved = inner + torch.baddbmm(bias[:, None], inner, weight.mT)
        kl, slope = kl_and_slope(self._model.anatomy, moved, final)
        named = {"a translated stream": moved, "the KL divergence": kl, "its gradient": slope}
        for what, values in named.items():
            require_finite_layers(self._model, values, what)
        # By hand, since autograd would keep the streams of all layers for the same two products.
        weight.grad, bias.grad = slope.mT @ inner, slope.sum(dim=1)
        _clip(weight.grad, bias.grad, self._settings.largest_gradient)
        self._optimizer.step()
        self._decay.step()
        self.positions += inner.shape[1]
        self.kl.append(kl.cpu())

    def state_dict(self) -> dict[str, Any]:
        seen = {step: {**vars(one), "lens": str(one.lens)} for step, one in self.seen.items()}
        learnt = {"weight": self._fitted.weight, "bias": self._fitted.bias}
        moved_by = {"optimizer": self._optimizer.state_dict(), "decay": self._decay.state_dict()}
        noted = {"positions": self.positions, "kl": self.kl, "seen": seen}
        return {**learnt, **moved_by, **noted, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self._fitted.weight.copy_(state["weight"])
            self._fitted.bias.copy_(state["bias"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._decay.load_state_dict(state["decay"])
        self._generator.set_state(state["generator"].cpu())
        self.positions, self.kl = state["positions"], state["kl"]
        self.seen = {
            step: LensComparison(**{**kept, "lens": Lens(kept["lens"])})
            for step, kept in state["seen"].items()
        }

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
    kept_in: str | Path | None = None,
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
        kept_in: a file to keep the fit in every half minute; a fit that was stopped goes on from
            it. It stays there at the end.
        on_step: called with 1 after every step.

    Returns:
        The translators, and what happened.

    Raises:
        ValueError: a number is out of range, there are no batches, only one of `validation` and
            `validate_every` is given, something that is computed is not finite, or `kept_in` holds
            the fit of another model, text or setting.
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
    left = remaining(
        fit,
        iter(text),
        kept_in=None if kept_in is None else Path(kept_in),
        belongs_to={**model_of_fit(model), **asdict(settings), "batching": text.configuration},
        content_hash=lambda: text.content_hash,
        most=steps,
        on_batch=on_step,
    )
    for step, batch in left:
        fit.step(batch)
        if validation is not None and validate_every is not None and step % validate_every == 0:
            fit.seen[step] = compare_lenses(model, validation, fit.translators(), seed=seed)
    history = TranslatorHistory(torch.stack(fit.kl), fit.positions, text.passes, fit.seen)
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

    @property
    def content_hash(self) -> str | None:
        return getattr(self._batches, "content_hash", None)

    @property
    def configuration(self) -> Any:
        return getattr(self._batches, "configuration", None)

    def origin(self) -> dict[str, Any]:
        """What tells the text from others: of all of it after a pass, else of what was read."""
        return text_origin(self._batches, self._whole)
