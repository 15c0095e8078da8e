"""Entropy results made by hand, with prime sizes, for tests of what draws them."""

import torch

from analysis.document import html
from analysis.entropy_page import entropy_report
from analysis.trajectory import trajectory_report
from probes.choices import Coefficient
from probes.corpus_means import Interval
from probes.entropy import knowledge_entropy
from probes.results import (
    AttentionEntropy,
    EntropyResult,
    KnowledgeEntropy,
    NextTokenEntropy,
    Provenance,
)


def make_result(
    corpus: str = "general",
    *,
    model: str = "tiny",
    revision: str | None = None,
    seed: int = 0,
    n_layers: int = 5,
    n_heads: int = 3,
    d_mlp: int = 211,
    kinds: tuple[str, ...] = ("knowledge", "attention", "next_token"),
    notes: tuple[str, ...] = (),
) -> EntropyResult:
    """A result with random but plausible numbers; layer 0 is the most concentrated."""
    random = torch.Generator().manual_seed(seed)
    parts = {}
    if "knowledge" in kinds:
        parts["knowledge"] = _knowledge(random, n_layers, d_mlp)
        parts["contribution"] = _knowledge(random, n_layers, d_mlp)
    if "attention" in kinds:
        heads = 0.3 + 4 * torch.rand(n_layers, n_heads, generator=random, dtype=torch.float64)
        parts["attention"] = AttentionEntropy(heads, Interval(1.0, 20.0))
    if "next_token" in kinds:
        parts["next_token"] = NextTokenEntropy(2.75, 10.8, Interval(2.5, 3.0))
    return EntropyResult(_provenance(model, revision, corpus), notes=notes, **parts)


def _knowledge(random: torch.Generator, n_layers: int, d_mlp: int) -> KnowledgeEntropy:
    spread = torch.linspace(2.0, 0.6, n_layers, dtype=torch.float64)[:, None]
    noise = torch.randn(n_layers, d_mlp, generator=random, dtype=torch.float64)
    coefficients = (spread * noise).exp()
    per_layer = knowledge_entropy(coefficients)
    total = float(per_layer.sum())
    return KnowledgeEntropy(per_layer, coefficients, Interval(total - 0.25, total + 0.25))


def _provenance(model: str, revision: str | None, corpus: str) -> Provenance:
    return Provenance(
        model=model,
        revision=revision,
        weights_sha256="ab" * 32,
        architecture="llama",
        dtype="float32",
        device="cpu",
        corpus=corpus,
        corpus_licence="CC0",
        corpus_sha256="cd" * 32,
        documents=43,
        rows=31,
        tokens=16384,
        configuration={"coefficient": Coefficient.ABS, "weighting": "instance"},
        versions={"mnemoscope": "0.1.0", "torch": "2.13.0"},
    )


def entropy_page(results):
    """The page of `entropy_report`."""
    return html(entropy_report(results))


def trajectory_page(measured):
    """The page of `trajectory_report`."""
    return html(trajectory_report(measured))
