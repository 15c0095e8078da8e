"""Results of an entropy measurement: what was found, about what, and how to keep it.

All entropies are in nats. A result carries its provenance: the model, its revision and the hash of
its weights, the corpus and its hash, counts, versions and the full configuration.

Example:
    >>> result.knowledge.total, result.knowledge.interval   # doctest: +SKIP
    (215.6, Interval(low=215.3, high=215.9, level=0.95))
    >>> result.save("runs/entropy")                          # doctest: +SKIP
"""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from probes.choices import Coefficient, EntropyKind
from probes.intervals import Interval, estimate_of
from probes.provenance import Provenance


@dataclass(frozen=True)
class KnowledgeEntropy:
    """Knowledge entropy (Eq. 2) of every layer and of the model."""

    per_layer: Float[Tensor, "layer"]
    mean_coefficients: Float[Tensor, "layer d_mlp"]
    interval: Interval | None
    """Of the total."""

    @property
    def total(self) -> float:
        """Sum over layers."""
        return float(self.per_layer.sum())

    @property
    def estimate(self) -> float:
        """The total less the bias of few documents, which the interval is of."""
        return estimate_of(self.total, self.interval)

    @property
    def maximum_per_layer(self) -> float:
        """Ln d_mlp: all memory vectors used alike."""
        from math import log

        return log(self.mean_coefficients.shape[1])

    @property
    def maximum(self) -> float:
        """n_layers times ln d_mlp."""
        return len(self.per_layer) * self.maximum_per_layer

    @property
    def effective_memory_vectors(self) -> Float[Tensor, "layer"]:
        """exp(H): how many equally used memory vectors would have the layer's entropy."""
        return self.per_layer.exp()


@dataclass(frozen=True)
class AttentionEntropy:
    """Attention entropy (Eq. 3): the mean over queries of the entropy over keys."""

    per_head: Float[Tensor, "layer head"]
    interval: Interval | None
    """Of the total."""

    @property
    def per_layer(self) -> Float[Tensor, "layer"]:
        """Mean over heads."""
        return self.per_head.mean(dim=1)

    @property
    def total(self) -> float:
        """Sum over layers."""
        return float(self.per_layer.sum())

    @property
    def estimate(self) -> float:
        """The total less the bias of few documents, which the interval is of."""
        return estimate_of(self.total, self.interval)


@dataclass(frozen=True)
class NextTokenEntropy:
    """Next-token entropy (A.4): the mean over positions of the entropy over the vocabulary."""

    mean: float
    maximum: float
    """ln d_vocab."""
    interval: Interval | None

    @property
    def estimate(self) -> float:
        """The mean less the bias of few documents, which the interval is of."""
        return estimate_of(self.mean, self.interval)


@dataclass(frozen=True)
class ConvergencePoint:
    """One total as it stood in the middle of a pass."""

    kind: EntropyKind
    documents: int
    tokens: int
    total: float
    interval: Interval | None

    @property
    def estimate(self) -> float:
        """The total less the bias of few documents, which the interval is of."""
        return estimate_of(self.total, self.interval)


@dataclass(frozen=True)
class EntropyResult:
    """What `measure_entropy` found; a kind that was not asked for is None."""

    provenance: Provenance
    knowledge: KnowledgeEntropy | None = None
    contribution: KnowledgeEntropy | None = None
    """Beside |c|, the variant that rescaling cannot move (`Coefficient.CONTRIBUTION`)."""
    attention: AttentionEntropy | None = None
    next_token: NextTokenEntropy | None = None
    variants: dict[Coefficient, KnowledgeEntropy] = field(default_factory=dict)
    """Knowledge entropy by further coefficient variants, measured in the same pass."""
    convergence: tuple[ConvergencePoint, ...] = ()
    """The totals as they settled, at growing numbers of documents."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know; shown wherever they are."""

    @property
    def mean_coefficients(self) -> Float[Tensor, "layer d_mlp"]:
        """Mean weight of every memory vector, float64.

        Raises:
            ValueError: knowledge entropy was not measured.
        """
        if self.knowledge is None:
            raise ValueError("mean coefficients need kind 'knowledge', which was not measured")
        return self.knowledge.mean_coefficients

    def to_dataframe(self) -> Any:
        """One row per layer: the entropies that exist per layer, tidy, as a pandas DataFrame."""
        import pandas as pd

        columns: dict[str, list[float]] = {}
        for name, found in (("knowledge", self.knowledge), ("contribution", self.contribution)):
            if found is not None:
                columns[f"{name}_entropy"] = found.per_layer.tolist()
                columns[f"{name}_effective_vectors"] = found.effective_memory_vectors.tolist()
        if self.attention is not None:
            columns["attention_entropy"] = self.attention.per_layer.tolist()
        frame = pd.DataFrame(columns)
        frame.insert(0, "layer", range(len(frame)))
        return frame

    def plot(self) -> Any:
        """The interactive figure of `analysis` (a `plotly` Figure)."""
        # Pictures are analysis's business; looked up by name, late, so that measuring
        # never depends on drawing.
        return import_module("analysis.figures").entropy_figure([self])

    def to_dict(self) -> dict[str, Any]:
        """The content of `entropy.json`."""
        from probes.result_files import result_dict

        return result_dict(self)

    def save(self, directory: str | Path) -> Path:
        """Write `entropy.json`, `entropy.csv` and `mean_coefficients.safetensors`.

        Args:
            directory: made if it is not there; files of the same name are replaced.

        Returns:
            The directory.
        """
        from probes.result_files import save_result

        return save_result(self, Path(directory))
