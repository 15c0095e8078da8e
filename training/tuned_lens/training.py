"""How a tuned lens is trained: the model predicts, and every layer learns to say the same.

The model is frozen. A step runs one batch, draws some positions from it and moves the translators
of all layers towards a smaller KL divergence from the model's output, in nats; what exactly a step
does is in `training.tuned_lens.fit`, and whether it helped in `training.tuned_lens.evaluation`.

Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens",
arXiv 2303.08112, section 3.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                   # doctest: +SKIP
    >>> corpus = probes.load_corpus("general-train")                            # doctest: +SKIP
    >>> batches = probes.token_batches(corpus, model.tokenizer, sequence_length=128)
    ...                                                                         # doctest: +SKIP
    >>> translators, history = train_translators(model, batches, steps=50)      # doctest: +SKIP
    >>> translators.save("runs/tuned")                                          # doctest: +SKIP
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch
from probes.hooked_model import HookedModel
from probes.translators import Translators
from training.choices import TranslatorOptimizer
from training.tuned_lens.evaluation import LensComparison, compare_lenses
from training.tuned_lens.fit import TranslatorFit, TranslatorSettings


@dataclass(frozen=True, eq=False)
class TranslatorHistory:
    """What happened while translators were fitted.

    Attributes:
        kl: mean KL divergence over the positions of every step, before it, in nats.
        positions: how many positions were learnt from.
        passes: how often the batches were gone through to their end.
        validation: by the number of steps done, how the lenses compared on the validation text.
    """

    kl: Float[Tensor, "step layer"]
    positions: int
    passes: int
    validation: Mapping[int, LensComparison]


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
        validate_every: how many steps lie between two looks at it.
        on_step: called with 1 after every step.

    Returns:
        The translators, and what happened.

    Raises:
        ValueError: a number is out of range, there are no batches, or only one of `validation` and
            `validate_every` is given.
    """
    settings = TranslatorSettings(
        steps=steps,
        rows_per_step=rows_per_step,
        optimizer=_optimizer(optimizer),
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


def _optimizer(given: TranslatorOptimizer | str) -> TranslatorOptimizer:
    try:
        return TranslatorOptimizer(given)
    except ValueError:
        known = ", ".join(TranslatorOptimizer)
        raise ValueError(f"optimizer must be one of {known}, found {given!r}") from None


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
