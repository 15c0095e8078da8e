r"""Gradient alignment: does learning one set of items pull the loss on another up or down?

A small step along \(-\nabla L(\theta; D_B)\) changes the loss on \(D_A\) by minus the learning rate
times \(\nabla L(\theta; D_A) \cdot \nabla L(\theta; D_B)\). A product below zero means that
learning B makes A worse there. `GradientAlignmentObserver` looks at fixed samples of the data sets
along a run, and records the inner products, part by part, of

- the samples' gradients now (`A`, `B`, `M`),
- the same at the run's start (`A@start`), which is where a stage begins,
- the way the weights have moved since (`moved`): \((\theta - \theta_{start}) \cdot \nabla
  L(\theta_{start}; D_A)\) is the first-order term of what the loss on A has changed by, whatever
  the optimizer (`training.forgetting_terms` goes on from there).

`alignment` reads one pair from a record. The sign of a product is claimed only where neither
gradient is near zero and the product's interval over items leaves out zero: a gradient that has
converged away points anywhere, and a few items need not stand for all.

Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory" (2017), Eq. 2, for the sign; Chen et al.,
"Continual Memorization of Factoids in Large Language Models", 2024: section 3.2, appendix A.

Example:
    >>> import probes
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                  # doctest: +SKIP
    >>> samples = [gradient_sample("A", facts), gradient_sample("B", others)]  # doctest: +SKIP
    >>> observer = GradientAlignmentObserver(
    ...     samples, Cadence(every=20), start_weights(model)
    ... )                                                                      # doctest: +SKIP
    >>> (record,) = observer.observe(model, 0)                                 # doctest: +SKIP
    >>> alignment(record, "A", "B").cosine                                     # doctest: +SKIP
"""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float64
from torch import Tensor

from probes.hooked_model import HookedModel
from training.gradient_reading import MOVED, NEAR_ZERO, START, Alignment, alignment, at_start
from training.kept_weights import Weights, refuse_others, start_weights, with_weights
from training.observers import Cadence
from training.parameter_parts import parameter_parts
from training.runs.records import GradientAlignmentRecord, Record
from training.sample_gradients import (
    GradientReader,
    GradientSample,
    SampleGradient,
    gradient_sample,
)
from training.weight_products import products_by_part

__all__ = [
    "MOVED",
    "NEAR_ZERO",
    "Alignment",
    "GradientAlignmentObserver",
    "alignment",
    "at_start",
    "gradient_sample",
    "start_weights",
]


class GradientAlignmentObserver:
    """Looks at how the gradients of some samples lie to each other.

    Each look costs two forward and backward passes over the samples, and a gradient as large as the
    weights for each of them on the model's device; as many again, and a copy of the weights, stay
    on the CPU. Samples are seen through edits, in evaluation mode. The start is read
    at the first look; where that comes later (after a resume, too), an edit that changes over the
    run, such as a linear temperature, is then no longer what it was.

    Args:
        samples: with names of their own; A, B and M, say.
        cadence: when.
        start: the weights that the run starts from (`start_weights`, before the run). A resumed run
            reads from them what it saw at its start.

    Raises:
        ValueError: there are fewer than two samples, or a name is taken.
    """

    def __init__(self, samples: Sequence[GradientSample], cadence: Cadence, start: Weights) -> None:
        names = [sample.name for sample in samples]
        taken = [n for n in names if n == MOVED or n.endswith(START) or names.count(n) > 1]
        if len(names) < 2 or taken:
            raise ValueError(
                f"gradient alignment needs two samples or more, each with a name of its own that "
                f"is not {MOVED!r} and does not end in {START!r}; found {names}"
            )
        self._samples = tuple(samples)
        self._cadence = cadence
        self._start = start
        self._at_start: list[SampleGradient] | None = None

    def due(self, step: int) -> bool:
        """Whether to look after this many updates."""
        return self._cadence.due(step)

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """The inner products of all pairs of gradients.

        Raises:
            ValueError: weights are sharded, the start is another model's, or a sample does not fit.
        """
        refuse_others(model, self._start)
        with model.evaluating():
            reader = GradientReader(model)
            now = [reader.read(sample) for sample in self._samples]
            moved = {n: w - self._start[n] for n, w in start_weights(model).items()}
            if self._at_start is None:
                self._at_start = self._read_at_start(model, reader, now, moved)
            errors = _errors(reader, self._samples, now)
        return [self._record(model, step, now, moved, errors)]

    def _read_at_start(
        self,
        model: HookedModel,
        reader: GradientReader,
        now: list[SampleGradient],
        moved: Weights,
    ) -> list[SampleGradient]:
        if any(bool(difference.any()) for difference in moved.values()):
            with with_weights(model, self._start):
                now = [reader.read(sample) for sample in self._samples]
        return [
            SampleGradient(found.loss, found.tokens, {n: g.cpu() for n, g in found.vector.items()})
            for found in now
        ]

    def _record(
        self,
        model: HookedModel,
        step: int,
        now: list[SampleGradient],
        moved: Weights,
        errors: Float64[Tensor, "sample sample"],
    ) -> GradientAlignmentRecord:
        assert self._at_start is not None
        names = [sample.name for sample in self._samples]
        vectors = [*(g.vector for g in now), *(g.vector for g in self._at_start), moved]
        by_part = products_by_part(vectors, parameter_parts(model))
        places = list(combinations_with_replacement(range(len(vectors)), 2))
        called = [*names, *map(at_start, names), MOVED]
        return GradientAlignmentRecord(
            step,
            samples=names,
            losses=[found.loss for found in now],
            start_losses=[found.loss for found in self._at_start],
            tokens=[found.tokens for found in now],
            blocks=[len(sample.blocks) for sample in self._samples],
            parts=[str(part) for part in by_part],
            pairs=[[called[i], called[j]] for i, j in places],
            products=[[float(found[i, j]) for found in by_part.values()] for i, j in places],
            errors=[float(errors[i, j]) if j < len(names) else None for i, j in places],
        )


def _errors(
    reader: GradientReader, samples: Sequence[GradientSample], now: Sequence[SampleGradient]
) -> Float64[Tensor, "sample sample"]:
    """Standard errors of the products: items of one sample are drawn apart from the other's."""
    vectors = [found.vector for found in now]
    pairs = zip(samples, now, strict=True)
    variances = torch.stack([reader.variances(sample, own, vectors) for sample, own in pairs])
    # The square of a norm moves twice with its one sample, so four times in variance.
    both = variances + variances.T
    both.diagonal().mul_(2)
    return both.sqrt()
