r"""Gradient alignment: does learning one set of items pull the loss on another up or down?

A small step along \(-\nabla L(\theta; D_B)\) changes the loss on \(D_A\) by minus the learning rate
times \(\nabla L(\theta; D_A) \cdot \nabla L(\theta; D_B)\): below zero, learning B makes A worse.
`GradientAlignmentObserver` takes fixed samples along a run, and records the inner products, part by
part, of their gradients now (`A`, `B`, `M`), the same at the run's start (`A@start`), and the way
that the weights have moved since (`moved`), whose product with the gradient at the start is the
first-order term of what the loss has changed by. `training.forgetting_terms` reads the records.

Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory" (2017), Eq. 2, for the sign; Chen et al.,
"Continual Memorization of Factoids in Large Language Models", 2024: section 3.2, appendix A.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch import distributed as dist

from probes.checking import all_finite, refuse_not_finite, what_makes_finite, wide
from probes.corpus.token_batch import own_share
from probes.hooked_model import HookedModel
from probes.rotary import rope_border
from training.batches import IGNORED, TrainingBatch
from training.choices import LossNormalisation, Packing
from training.data.mixed_batches import rows_of_examples
from training.data.rendering import Rendered
from training.engine import forward_inputs, refuse_misfits, separation_of
from training.forgetting_terms import MOVED, START, at_start
from training.observers import Cadence, Timed, shared_out
from training.runs.records import GradientAlignmentRecord, Record
from training.weight_drift import (
    Weights,
    inner_products,
    parameter_parts,
    products_by_part,
    refuse_others,
    refuse_sharded,
    start_weights,
    with_weights,
)


@dataclass(frozen=True)
class GradientSample:
    """Items whose gradient is measured, always the same, dealt into batches."""

    name: str
    blocks: tuple[TrainingBatch, ...]


@dataclass(frozen=True, eq=False)
class SampleGradient:
    """The gradient of a sample's mean loss over its trained tokens, in nats."""

    loss: float
    tokens: int
    vector: Weights


def gradient_sample(name: str, rows: Sequence[Rendered], *, blocks: int = 8) -> GradientSample:
    """Deal items into blocks: item i goes to block i modulo their number.

    Args:
        name: what records are to call the sample.
        rows: the items; the first token of one is never predicted, and so never trained.
        blocks: how many; as many as items where there are fewer. A block runs in one batch.

    Raises:
        ValueError: there are fewer than two items or blocks, or an item trains no token.
    """
    if len(rows) < 2 or blocks < 2:
        raise ValueError(
            f"sample {name!r} has {len(rows)} items in {blocks} blocks; give two or more of both, "
            "since its error is read from how blocks differ"
        )
    if empty := [place for place, row in enumerate(rows) if not any(row.trained[1:])]:
        raise ValueError(f"item {empty[0]} of sample {name!r} trains no token; leave it out")
    dealt = [rows[place::blocks] for place in range(min(blocks, len(rows)))]
    layout: dict[str, Any] = {"packing": Packing.BUCKETED, "normalisation": LossNormalisation.TOKEN}
    return GradientSample(
        name, tuple(rows_of_examples(some, [""] * len(some), [""], **layout) for some in dealt)
    )


class GradientReader:
    """Reads gradients of a model as it is now; of several processes each takes some blocks."""

    def __init__(self, model: HookedModel) -> None:
        refuse_sharded(
            model, "gradient alignment", "leave it out, or take 'ddp' or a single process"
        )
        self._model = model
        self._hf_model = model.hf_model
        named = model.hf_model.named_parameters()
        self._trained = {name: weight for name, weight in named if weight.requires_grad}
        self._separation = separation_of(self._hf_model)

    def read(self, sample: GradientSample) -> SampleGradient:
        total = {name: torch.zeros_like(weight) for name, weight in self._trained.items()}
        loss = torch.zeros((), dtype=torch.float64)
        tokens = sum(block.trained_tokens for block in sample.blocks)
        for block in sample.blocks:
            refuse_misfits(block, self._model)
        for place in own_share(range(len(sample.blocks)), shared_out()):
            summed, gradient = self._summed(sample.blocks[place])
            loss += summed
            for name, value in gradient.items():
                total[name] += value
        _add_up([loss, *total.values()], self._model.device)
        found = {"its loss": loss, **total}
        if not all(map(all_finite, found.values())):
            weights = self._hf_model.state_dict()
            helps = what_makes_finite(self._model.name, weights, self._model.dtype)
            refuse_not_finite(found, f"the gradient of sample {sample.name!r}", helps)
        return SampleGradient(
            float(loss) / tokens, tokens, {name: value / tokens for name, value in total.items()}
        )

    def variances(
        self, sample: GradientSample, own: SampleGradient, others: Sequence[Weights]
    ) -> Float64[Tensor, " other"]:
        """How inner products of a sample's gradient would vary with other items."""
        products = torch.zeros(len(sample.blocks), len(others), dtype=torch.float64)
        for place in own_share(range(len(sample.blocks)), shared_out()):
            _, gradient = self._summed(sample.blocks[place])
            products[place] = inner_products([gradient], others)[0]
        _add_up([products], self._model.device)
        of_tokens = torch.tensor([block.trained_tokens for block in sample.blocks]).double()
        whole = inner_products([own.vector], others)
        deviations = (products - of_tokens[:, None] * whole) / own.tokens
        blocks = len(sample.blocks)
        return blocks / (blocks - 1) * deviations.square().sum(dim=0)

    def _summed(self, block: TrainingBatch) -> tuple[float, dict[str, Tensor]]:
        border = rope_border(self._hf_model.config)
        inputs = forward_inputs(block, self._separation, self._model.device, border)
        with torch.enable_grad():
            logits = self._hf_model(**inputs, use_cache=False).logits
            following = nn.functional.pad(block.labels.to(logits.device), (0, 1), value=IGNORED)
            # As in training, but float64 stays float64.
            loss = nn.functional.cross_entropy(
                wide(logits).flatten(0, 1),
                following[:, 1:].flatten(),
                ignore_index=IGNORED,
                reduction="sum",
            )
            # Not `backward`: the gradients of the run itself stay what they are.
            found = torch.autograd.grad(
                loss, list(self._trained.values()), allow_unused=True, materialize_grads=True
            )
        return float(loss.detach()), dict(zip(self._trained, found, strict=True))


def _add_up(tensors: Iterable[Tensor], device: torch.device) -> None:
    """Sum over processes, in place; the device is one that they can exchange tensors of."""
    if shared_out():
        for tensor in tensors:
            shared = tensor.to(device)
            dist.all_reduce(shared)
            tensor.copy_(shared)


class GradientAlignmentObserver(Timed):
    """Measures how the gradients of some samples lie to each other.

    Each measurement costs two forward and backward passes over the samples, and a gradient as large
    as the weights for each of them on the model's device; as many again, and a copy of the weights,
    stay on the CPU. Samples are seen through edits, in evaluation mode. The start is read at the
    first measurement; where that comes later (after a resume, too), an edit that changes over the
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
        super().__init__(cadence)
        self._start = start
        self._at_start: list[SampleGradient] | None = None

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """The inner products of all pairs of gradients.

        Raises:
            ValueError: weights are sharded, the start is another model's, a sample does not fit, or
                a gradient is not finite.
        """
        refuse_others(model, self._start)
        samples = self._samples
        with model.evaluating():
            reader = GradientReader(model)
            now = [reader.read(sample) for sample in samples]
            moved = {n: w - self._start[n] for n, w in start_weights(model).items()}
            if self._at_start is None:
                first = now
                if any(bool(difference.any()) for difference in moved.values()):
                    with with_weights(model, self._start):
                        first = [reader.read(sample) for sample in samples]
                self._at_start = [
                    replace(found, vector={n: g.cpu() for n, g in found.vector.items()})
                    for found in first
                ]
            errors = _errors(reader, samples, now)
        names = [sample.name for sample in samples]
        called = [*names, *map(at_start, names), MOVED]
        vectors = [*(found.vector for found in (*now, *self._at_start)), moved]
        by_part = products_by_part(vectors, parameter_parts(model))
        places = list(combinations_with_replacement(range(len(vectors)), 2))
        return [
            GradientAlignmentRecord(
                step,
                samples=names,
                losses=[found.loss for found in now],
                start_losses=[found.loss for found in self._at_start],
                tokens=[found.tokens for found in now],
                blocks=[len(sample.blocks) for sample in samples],
                parts=[str(part) for part in by_part],
                pairs=[[called[i], called[j]] for i, j in places],
                products=[[float(found[i, j]) for found in by_part.values()] for i, j in places],
                errors=[float(errors[i, j]) if j < len(names) else None for i, j in places],
            )
        ]


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
