"""Meters: what each entropy attaches to the model, and what it makes of what it saw.

A meter is attached for a whole pass. Before every batch it is given the weights of its tokens;
inside its hooks it adds weighted sums to a `BlockedMean`; at the end it turns means into
entropies, with an interval from leaving out one block of documents at a time.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from math import log
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from probes.attach import HookFunction
from probes.choices import Coefficient, EntropyKind
from probes.corpus.token_batch import TokenBatch
from probes.entropy import knowledge_entropy, next_token_entropy, official_knowledge_entropy
from probes.hooked_model import HookedModel
from probes.hooks import require_finite
from probes.intervals import Interval, Resampling, Statistic, jackknife
from probes.readout import unembed
from probes.results import AttentionEntropy, KnowledgeEntropy, NextTokenEntropy
from probes.sites import HookPoint, Site
from probes.streaming import BatchWeights, BlockedMean

_LOGITS_BYTES = 32 * 2**20


class Meter(ABC):
    """One entropy, measured during a pass."""

    kind: EntropyKind | None
    """Which entropy's convergence it shows; None for a variant measured on the side."""
    weights: BatchWeights
    """Of the batch that is running; set before it does."""
    batch: TokenBatch
    """That batch."""

    def __init__(self, n_layers: int, resampling: Resampling) -> None:
        self.means = BlockedMean(n_layers, resampling.blocks)
        self._resampling = resampling

    @abstractmethod
    def attached(self, model: HookedModel) -> AbstractContextManager[None]:
        """Attach to the model for the length of a `with` block."""

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

    def so_far(self) -> tuple[float, Interval | None]:
        """The total and its jackknife interval, in the middle of a pass."""
        return self.total(self.means.mean()), jackknife(self.means, self.total)

    def _interval(self, statistic: Statistic) -> Interval | None:
        return self._resampling.interval(self.means, statistic)


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
        vectors = (layer.memory_vectors.detach() for layer in model.anatomy.layers)
        self._norms = torch.stack([rows.double().norm(dim=1).cpu() for rows in vectors])
        contribution = coefficient is Coefficient.CONTRIBUTION
        self._scale = self._norms if contribution else torch.ones_like(self._norms)
        self._gate: dict[int, Tensor] = {}

    def attached(self, model: HookedModel) -> AbstractContextManager[None]:
        """Hook the coefficients, or gate and up branch where `relu_gate` needs them apart."""
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
        """Knowledge entropy, summed over layers."""
        return float(self._formula(means * self._scale).sum())

    def results(self) -> dict[str, Any]:
        """Knowledge entropy, and beside |c| the invariant contribution entropy."""
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
        assert point.layer is not None
        self._gate[point.layer] = gate

    def _add_relu_gate(self, up: Tensor, point: HookPoint) -> None:
        assert point.layer is not None
        product = self._gate.pop(point.layer).relu() * up
        self.means.add(point.layer, self.weights, product.flatten(0, 1).abs())

    def _entropy(self, scale: Float[Tensor, "layer d_mlp"]) -> KnowledgeEntropy:
        mean = self.means.mean() * scale
        interval = self._interval(lambda means: float(self._formula(means * scale).sum()))
        return KnowledgeEntropy(self._formula(mean), mean, interval)


class AttentionMeter(Meter):
    """Mean attention entropy of every head (Eq. 3)."""

    kind = EntropyKind.ATTENTION

    def __init__(self, model: HookedModel, resampling: Resampling) -> None:
        super().__init__(model.n_layers, resampling)

    def attached(self, model: HookedModel) -> AbstractContextManager[None]:
        """Have the model hand over the entropies of every layer's attention."""
        return model.attention_entropies(self._add)

    def total(self, means: Tensor) -> float:
        """Attention entropy: the mean over heads, summed over layers."""
        return float(means.mean(dim=1).sum())

    def results(self) -> dict[str, Any]:
        """Attention entropy per head; the interval is of the total."""
        return {"attention": AttentionEntropy(self.means.mean(), self._interval(self.total))}

    def _add(self, entropies: Float[Tensor, "batch head query_pos"], layer: int) -> None:
        self.means.add(layer, self.weights, rearrange(entropies, "b h q -> (b q) h"))


class NextTokenMeter(Meter):
    """Mean next-token entropy over positions (A.4)."""

    kind = EntropyKind.NEXT_TOKEN

    def __init__(self, model: HookedModel, resampling: Resampling) -> None:
        super().__init__(1, resampling)
        self._d_vocab = model.d_vocab

    def attached(self, model: HookedModel) -> AbstractContextManager[None]:
        """Nothing: the normed residual stream is handed over after every batch."""
        del model
        return nullcontext()

    def after_trunk(self, model: HookedModel, normed: Float[Tensor, "batch pos d_model"]) -> None:
        """Unembed the positions that count, a few at a time."""
        super().after_trunk(model, normed)
        flat = normed.flatten(0, 1)
        tokens = self.weights.tokens
        counted = flat if tokens is None else flat[tokens.to(flat.device)]
        size = max(1, _LOGITS_BYTES // (4 * self._d_vocab))
        found = [next_token_entropy(unembed(model.anatomy, rows)) for rows in counted.split(size)]
        entropies = torch.cat(found)
        real = self.batch.attention_mask.bool()
        require_finite(entropies, model, self.batch, real, "next-token entropy")
        kept = BatchWeights(self.weights.matrix, self.weights.blocks, None)
        self.means.add(0, kept, entropies[:, None])

    def total(self, means: Tensor) -> float:
        """The mean over positions."""
        return float(means.sum())

    def results(self) -> dict[str, Any]:
        """The mean over positions."""
        mean, interval = self.total(self.means.mean()), self._interval(self.total)
        return {"next_token": NextTokenEntropy(mean, log(self._d_vocab), interval)}
