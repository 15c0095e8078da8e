"""Provenance: which model, which data and which versions a number comes from."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from probes.choices import Backend
from probes.hooked_model import HookedModel

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
