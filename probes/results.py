"""Results of an entropy measurement: what was found, about what, and how to keep it.

All entropies are in nats. A result carries its provenance: the model, its revision and the hash of
its weights, the corpus and its hash, counts, versions and the full configuration.
"""

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.choices import Backend, Coefficient, EntropyKind
from probes.hooked_model import HookedModel
from probes.intervals import Interval, estimate_of
from probes.json_text import json_text

_RUNS_ON = {
    Backend.NATIVE: ("transformers",),
    Backend.TRANSFORMER_LENS: ("transformers", "transformer-lens"),
    Backend.NNSIGHT: ("transformers", "nnsight"),
}


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from, down to hashes and versions."""

    model: str
    revision: str | None
    weights_sha256: str
    architecture: str
    dtype: str
    device: str
    corpus: str | None
    corpus_licence: str | None
    corpus_sha256: str | None
    documents: int
    rows: int
    tokens: int
    configuration: dict[str, Any]
    versions: dict[str, str]


def provenance_of(
    model: HookedModel,
    configuration: dict[str, Any],
    *,
    documents: int,
    rows: int,
    tokens: int,
    corpus: str | None = None,
    corpus_licence: str | None = None,
    corpus_sha256: str | None = None,
) -> Provenance:
    """What is known of a measurement's origin."""
    return Provenance(
        model=model.name,
        revision=model.revision,
        weights_sha256=model.content_hash(),
        architecture=model.architecture.family,
        dtype=str(model.dtype).removeprefix("torch."),
        device=_device_name(model.device),
        corpus=corpus,
        corpus_licence=corpus_licence,
        corpus_sha256=corpus_sha256,
        documents=documents,
        rows=rows,
        tokens=tokens,
        configuration=configuration,
        versions={
            name: version(name) for name in ("mnemoscope", "torch", *_RUNS_ON[model.backend])
        },
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


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
        """The interactive figure of knowledge entropy, a `plotly` Figure.

        Raises:
            ValueError: the result has no knowledge entropy, or nothing here draws results.
        """
        return _figure_maker("entropy")([self])

    def to_dict(self) -> dict[str, Any]:
        """The content of `entropy.json`."""
        return result_dict(self)

    def save(self, directory: str | Path) -> Path:
        """Write `entropy.json`, `entropy.csv` and `mean_coefficients.safetensors`.

        Args:
            directory: made if it is not there; files of the same name are replaced.

        Returns:
            The directory.
        """
        return save_result(self, Path(directory))


def _figure_maker(kind: str) -> Any:
    """Who draws results of a kind: whoever registers it as an entry point, as `analysis` does."""
    for registered in entry_points(group="mnemoscope.figures", name=kind):
        try:
            return registered.load()
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{registered.value} draws this result and cannot be imported ({error}); run where "
                "no other package of its name comes first"
            ) from error
    raise ValueError(f"nothing here draws {kind} results; install mnemoscope again (pip install)")


RESULT_FILE = "entropy.json"
TABLE_FILE = "entropy.csv"
MEANS_FILE = "mean_coefficients.safetensors"
_AT_THE_TOP = ("model", "revision", "corpus", "documents", "tokens")


def save_result(result: EntropyResult, folder: Path) -> Path:
    """Write the three files; see `EntropyResult.save`."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give a folder, which need not exist")
    folder.mkdir(parents=True, exist_ok=True)
    if result.knowledge is not None:
        (folder / MEANS_FILE).write_bytes(_means_file(result))
    result.to_dataframe().to_csv(folder / TABLE_FILE, index=False)
    text = json_text(result_dict(result), f"{folder / RESULT_FILE}", indent=2)
    (folder / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def _means_file(result: EntropyResult) -> bytes:
    from safetensors.torch import save

    tensors = {"mean_coefficients": result.mean_coefficients}
    if result.contribution is not None:
        tensors["contribution"] = result.contribution.mean_coefficients
    tensors |= {str(name): found.mean_coefficients for name, found in result.variants.items()}
    metadata = {
        "model": result.provenance.model,
        "weights_sha256": result.provenance.weights_sha256,
        "coefficient": str(result.provenance.configuration["coefficient"]),
    }
    return save({name: rows.contiguous() for name, rows in tensors.items()}, metadata=metadata)


def result_dict(result: EntropyResult) -> dict[str, Any]:
    """The content of `entropy.json`."""
    origin = asdict(result.provenance)
    return {
        **{name: origin.pop(name) for name in _AT_THE_TOP},
        "knowledge_entropy": _knowledge_dict(result.knowledge),
        "contribution_entropy": _knowledge_dict(result.contribution),
        "variants": {name: _knowledge_dict(found) for name, found in result.variants.items()},
        "attention_entropy": result.attention
        and {
            "total": result.attention.total,
            "estimate": result.attention.estimate,
            "per_layer": result.attention.per_layer.tolist(),
            "per_head": result.attention.per_head.tolist(),
            "interval": _interval_dict(result.attention.interval),
        },
        "next_token_entropy": result.next_token
        and {
            "mean": result.next_token.mean,
            "estimate": result.next_token.estimate,
            "maximum": result.next_token.maximum,
            "interval": _interval_dict(result.next_token.interval),
        },
        "convergence": [
            asdict(point) | {"estimate": point.estimate, "interval": _interval_dict(point.interval)}
            for point in result.convergence
        ],
        "units": "nats",
        "notes": list(result.notes),
        "provenance": origin,
    }


def _knowledge_dict(found: KnowledgeEntropy | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "total": found.total,
        "estimate": found.estimate,
        "per_layer": found.per_layer.tolist(),
        "maximum": found.maximum,
        "effective_memory_vectors": found.effective_memory_vectors.tolist(),
        "interval": _interval_dict(found.interval),
    }


def _interval_dict(interval: Interval | None) -> dict[str, float] | None:
    return interval and interval._asdict()


def load_result(directory: str | Path) -> EntropyResult:
    """Read back what `EntropyResult.save` has written.

    Args:
        directory: a folder with `entropy.json`.

    Raises:
        ValueError: there is no such file, or it is not one of ours.
    """
    from safetensors.torch import load_file

    folder = Path(directory)
    try:
        read = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        means = load_file(folder / MEANS_FILE) if read["knowledge_entropy"] else {}
        origin = {name: read[name] for name in _AT_THE_TOP} | read["provenance"]
        return EntropyResult(
            provenance=Provenance(**origin),
            knowledge=_knowledge_read(read["knowledge_entropy"], means.get("mean_coefficients")),
            contribution=_knowledge_read(read["contribution_entropy"], means.get("contribution")),
            attention=_attention_read(read["attention_entropy"]),
            next_token=_next_token_read(read["next_token_entropy"]),
            variants={
                Coefficient(name): KnowledgeEntropy(
                    torch.tensor(one["per_layer"], dtype=torch.float64),
                    means[name],
                    _interval_read(one["interval"]),
                )
                for name, one in read["variants"].items()
            },
            convergence=tuple(_point_read(point) for point in read["convergence"]),
            notes=tuple(read["notes"]),
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no readable entropy result ({type(error).__name__}: {error}); "
            "measure again"
        ) from error


def _knowledge_read(read: Any, means: Tensor | None) -> KnowledgeEntropy | None:
    if read is None or means is None:
        return None
    per_layer = torch.tensor(read["per_layer"], dtype=torch.float64)
    return KnowledgeEntropy(per_layer, means, _interval_read(read["interval"]))


def _attention_read(read: Any) -> AttentionEntropy | None:
    if read is None:
        return None
    per_head = torch.tensor(read["per_head"], dtype=torch.float64)
    return AttentionEntropy(per_head, _interval_read(read["interval"]))


def _next_token_read(read: Any) -> NextTokenEntropy | None:
    if read is None:
        return None
    return NextTokenEntropy(read["mean"], read["maximum"], _interval_read(read["interval"]))


def _point_read(read: dict[str, Any]) -> ConvergencePoint:
    return ConvergencePoint(
        EntropyKind(read["kind"]),
        read["documents"],
        read["tokens"],
        read["total"],
        _interval_read(read["interval"]),
    )


def _interval_read(read: dict[str, float] | None) -> Interval | None:
    return None if read is None else Interval(**read)
