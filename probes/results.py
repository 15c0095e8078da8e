"""Results of an entropy measurement: what was found, about what, and how to keep it.

All entropies are in nats. A result carries its provenance: the model, its revision and the hash of
its weights, the corpus and its hash, counts, versions and the full configuration.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from probes.choices import Backend, Coefficient, EntropyKind
from probes.corpus_means import Interval, estimate_of
from probes.hooked_model import HookedModel
from probes.shown import (
    Difference,
    Result,
    Shown,
    frame_of,
    json_text,
    paired,
    require_kind,
    require_same,
)

_RUNS_ON = {
    Backend.NATIVE: ("transformers",),
    Backend.TRANSFORMER_LENS: ("transformers", "transformer-lens"),
    Backend.NNSIGHT: ("transformers", "nnsight"),
}


@dataclass(frozen=True)
class Provenance(Shown):
    """The origin of a result, down to hashes and versions."""

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

    @property
    def about(self) -> str:
        """What was measured, in words: the model, its revision and the text."""
        at = f" at {self.revision}" if self.revision else ""
        return f"{self.model}{at}{f' over {self.corpus}' if self.corpus else ''}"


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
    on_gpu = model.device.type == "cuda"
    libraries = ("mnemoscope", "torch", *_RUNS_ON[model.backend])
    return Provenance(
        model=model.name,
        revision=model.revision,
        weights_sha256=model.content_hash(),
        architecture=model.architecture.family,
        dtype=str(model.dtype).removeprefix("torch."),
        device=torch.cuda.get_device_name(model.device) if on_gpu else str(model.device),
        corpus=corpus,
        corpus_licence=corpus_licence,
        corpus_sha256=corpus_sha256,
        documents=documents,
        rows=rows,
        tokens=tokens,
        configuration=configuration,
        versions={name: _version(name) for name in libraries},
    )


_version = cache(version)


class _Estimated(Shown):
    """A number that has an interval, which is centred on the number less its bias."""

    interval: Interval | None
    _number: ClassVar[str] = "total"

    @property
    def estimate(self) -> float:
        """The number less the bias of few documents, which the interval is of."""
        return estimate_of(getattr(self, self._number), self.interval)

    def _facts(self) -> Mapping[str, Any]:
        maximum = getattr(self, "maximum", None)
        number = {self._number: f"{self.estimate:.5g} nats", "interval": self.interval}
        return {**number, "maximum": maximum and f"{maximum:.5g}"}

    def _dict(self, *names: str) -> dict[str, Any]:
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return value._asdict()
    return value.tolist() if isinstance(value, Tensor) else value


@dataclass(frozen=True)
class KnowledgeEntropy(_Estimated):
    """Knowledge entropy (Eq. 2) of every layer and of the model."""

    per_layer: Float[Tensor, "layer"]
    mean_coefficients: Float[Tensor, "layer d_mlp"]
    interval: Interval | None
    """The interval of the total."""

    @property
    def total(self) -> float:
        """Sum over layers."""
        return float(self.per_layer.sum())

    @property
    def maximum_per_layer(self) -> float:
        """Ln d_mlp: all memory vectors used alike."""
        return log(self.mean_coefficients.shape[1])

    @property
    def maximum(self) -> float:
        """n_layers times ln d_mlp."""
        return len(self.per_layer) * self.maximum_per_layer

    @property
    def effective_memory_vectors(self) -> Float[Tensor, "layer"]:
        """exp(H): how many equally used memory vectors would have the layer's entropy."""
        return self.per_layer.exp()

    def to_dict(self) -> dict[str, Any]:
        """As plain values; the means of coefficients have a file of their own."""
        return self._dict(
            *("total", "estimate", "per_layer", "maximum", "effective_memory_vectors", "interval")
        )


@dataclass(frozen=True)
class AttentionEntropy(_Estimated):
    """Attention entropy (Eq. 3): the mean over queries of the entropy over keys."""

    per_head: Float[Tensor, "layer head"]
    interval: Interval | None
    """The interval of the total."""

    @property
    def per_layer(self) -> Float[Tensor, "layer"]:
        """Mean over heads."""
        return self.per_head.mean(dim=1)

    @property
    def total(self) -> float:
        """Sum over layers."""
        return float(self.per_layer.sum())

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return self._dict("total", "estimate", "per_layer", "per_head", "interval")


@dataclass(frozen=True)
class NextTokenEntropy(_Estimated):
    """Next-token entropy (A.4): the mean over positions of the entropy over the vocabulary."""

    _number: ClassVar[str] = "mean"

    mean: float
    maximum: float
    """ln d_vocab."""
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return self._dict("mean", "estimate", "maximum", "interval")


@dataclass(frozen=True)
class ConvergencePoint(_Estimated):
    """One total as it stood in the middle of a pass."""

    kind: EntropyKind
    documents: int
    tokens: int
    total: float
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        return self._dict("kind", "documents", "tokens", "total", "interval", "estimate")


RESULT_FILE = "entropy.json"
TABLE_FILE = "entropy.csv"
MEANS_FILE = "mean_coefficients.safetensors"
_AT_THE_TOP = ("model", "revision", "corpus", "documents", "tokens")


@dataclass(frozen=True)
class EntropyResult(Result):
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

    _instead: ClassVar[Mapping[str, str]] = {
        name: f"each kind has its own: result.knowledge.{name}"
        for name in ("total", "per_layer", "interval", "maximum", "mean")
    }

    @property
    def mean_coefficients(self) -> Float[Tensor, "layer d_mlp"]:
        """Mean weight of every memory vector, float64.

        Raises:
            ValueError: knowledge entropy was not measured.
        """
        if self.knowledge is None:
            raise ValueError("mean coefficients need kind 'knowledge', which was not measured")
        return self.knowledge.mean_coefficients

    def _facts(self) -> Mapping[str, Any]:
        kinds: dict[str, _Estimated | None] = {
            "knowledge": self.knowledge,
            "contribution": self.contribution,
            "attention": self.attention,
            "next-token": self.next_token,
        }
        totals = {name: f"{one.estimate:.5g} nats" for name, one in kinds.items() if one}
        counts = {"documents": self.provenance.documents, "tokens": self.provenance.tokens}
        return {"": self.provenance.about, **totals, **counts, "notes": self.notes}

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

    def compare(self, other: "EntropyResult") -> "EntropyDifference":
        """The other less this, total by total and layer by layer.

        Args:
            other: of another model on the same text, or of the same model on another text.

        Raises:
            ValueError: they differ in how they were measured, in their sizes, or in both the
                model and the text; or share no entropy.
        """
        require_kind(self, other)
        here, there = self.provenance, other.provenance
        for name in ("coefficient", "weighting", "compat"):
            settings = (one.configuration.get(name) for one in (here, there))
            require_same(name, settings, "measure both in one way")
        same_text = here.corpus_sha256 == there.corpus_sha256
        if here.weights_sha256 != there.weights_sha256 and not same_text:
            raise ValueError(
                f"the two differ in model and in text: {here.about}, and {there.about}; measure "
                "two models on one text, or one model on two"
            )
        shapes = [one.knowledge and list(one.mean_coefficients.shape) for one in (self, other)]
        require_same("layers and memory vectors", shapes, "compare models of one size")
        names = (here.about, there.about)
        if names[0] == names[1]:
            names = (names[0], f"{names[1]} (2)")
        numbers = paired(self._values(), other._values(), "results")
        return EntropyDifference(self, other, names, numbers)

    def _values(self) -> Any:
        """All entropies, one a row; `layer` is missing for totals."""
        rows: list[tuple[str, int | None, float]] = []
        kinds = ("knowledge", "contribution", "attention", "next_token")
        for kind in kinds:
            if (found := getattr(self, kind)) is not None:
                rows.append((kind, None, found.estimate))
                layers = getattr(found, "per_layer", torch.empty(0)).tolist()
                rows += [(kind, layer, value) for layer, value in enumerate(layers)]
        columns = dict(zip(("measure", "layer", "value"), zip(*rows, strict=True), strict=True))
        return frame_of(columns).astype({"layer": "Int64"})

    def to_dict(self) -> dict[str, Any]:
        """The content of `entropy.json`."""
        origin = asdict(self.provenance)
        return {
            **{name: origin.pop(name) for name in _AT_THE_TOP},
            "knowledge_entropy": self.knowledge and self.knowledge.to_dict(),
            "contribution_entropy": self.contribution and self.contribution.to_dict(),
            "variants": {name: found.to_dict() for name, found in self.variants.items()},
            "attention_entropy": self.attention and self.attention.to_dict(),
            "next_token_entropy": self.next_token and self.next_token.to_dict(),
            "convergence": [point.to_dict() for point in self.convergence],
            "units": "nats",
            "notes": list(self.notes),
            "provenance": origin,
        }

    def save(self, directory: str | Path) -> Path:
        """Write `entropy.json`, `entropy.csv` and `mean_coefficients.safetensors`.

        Args:
            directory: made if it is not there; files of the same name are replaced.

        Returns:
            The directory.
        """
        folder = Path(directory)
        if folder.is_file():
            raise ValueError(f"{folder} is a file; give a folder, which need not exist")
        folder.mkdir(parents=True, exist_ok=True)
        if self.knowledge is not None:
            (folder / MEANS_FILE).write_bytes(self._means_file())
        self.to_dataframe().to_csv(folder / TABLE_FILE, index=False)
        text = json_text(self.to_dict(), f"{folder / RESULT_FILE}", indent=2)
        (folder / RESULT_FILE).write_text(text + "\n", encoding="utf-8")
        return folder

    def _means_file(self) -> bytes:
        from safetensors.torch import save

        tensors = {"mean_coefficients": self.mean_coefficients}
        if self.contribution is not None:
            tensors["contribution"] = self.contribution.mean_coefficients
        tensors |= {str(name): found.mean_coefficients for name, found in self.variants.items()}
        metadata = {
            "model": self.provenance.model,
            "weights_sha256": self.provenance.weights_sha256,
            "coefficient": str(self.provenance.configuration["coefficient"]),
        }
        return save({name: rows.contiguous() for name, rows in tensors.items()}, metadata=metadata)


class EntropyDifference(Difference):
    """Two entropies of one kind of model or text: see `EntropyResult.compare`."""

    def _facts(self) -> dict[str, Any]:
        totals = self.numbers[self.numbers["layer"].isna()]
        moved = zip(totals["measure"], totals["difference"], strict=True)
        return {**super()._facts(), **{name: f"{by:+.4g} nats" for name, by in moved}}


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
        attention, next_token = read["attention_entropy"], read["next_token_entropy"]
        return EntropyResult(
            provenance=Provenance(**origin),
            knowledge=_knowledge(read["knowledge_entropy"], means.get("mean_coefficients")),
            contribution=_knowledge(read["contribution_entropy"], means.get("contribution")),
            attention=attention
            and AttentionEntropy(_tensor(attention["per_head"]), _interval(attention)),
            next_token=next_token
            and NextTokenEntropy(next_token["mean"], next_token["maximum"], _interval(next_token)),
            variants={
                Coefficient(name): KnowledgeEntropy(
                    _tensor(one["per_layer"]), means[name], _interval(one)
                )
                for name, one in read["variants"].items()
            },
            convergence=tuple(
                ConvergencePoint(
                    EntropyKind(one["kind"]),
                    one["documents"],
                    one["tokens"],
                    one["total"],
                    _interval(one),
                )
                for one in read["convergence"]
            ),
            notes=tuple(read["notes"]),
        )
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no readable entropy result ({type(error).__name__}: {error}); "
            "measure again"
        ) from error


def _knowledge(read: Any, means: Tensor | None) -> KnowledgeEntropy | None:
    if read is None or means is None:
        return None
    return KnowledgeEntropy(_tensor(read["per_layer"]), means, _interval(read))


def _tensor(values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _interval(read: dict[str, Any]) -> Interval | None:
    return read["interval"] and Interval(**read["interval"])
