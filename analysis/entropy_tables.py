"""Tidy tables of entropy results: one row per observation, one column per variable, in nats.

Figures, pages and the terminal draw from these tables and never from results directly. A
`series` is one result; it is called after what tells it apart from the others.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
import pandas as pd

from analysis.numbers import numbered
from probes.choices import Coefficient
from probes.results import EntropyResult, KnowledgeEntropy

COEFFICIENT_SYMBOLS = {
    Coefficient.ABS: "|c|",
    Coefficient.RELU_OUTPUT: "max(c, 0)",
    Coefficient.RELU_GATE: "|max(gate, 0) · up|",
    Coefficient.CONTRIBUTION: "|c| · ‖v‖",
}


class Measure(StrEnum):
    """The entropies that every layer has."""

    KNOWLEDGE = "knowledge"
    CONTRIBUTION = "contribution"
    ATTENTION = "attention"


def series_labels(results: Sequence[EntropyResult]) -> list[str]:
    """A name for every result: what varies among model, revision and corpus, else the corpus."""
    parts = [(r.provenance.model, r.provenance.revision, r.provenance.corpus) for r in results]
    varying = [place for place in range(3) if len({part[place] for part in parts}) > 1]
    names = []
    for part in parts:
        named = [part[place] for place in varying] or [part[2] or part[0]]
        names.append(" · ".join(str(name) for name in named if name) or part[0])
    return numbered(names)


def symbol(result: EntropyResult) -> str:
    """How the weights of the result's knowledge entropy are written."""
    return COEFFICIENT_SYMBOLS[Coefficient(result.provenance.configuration["coefficient"])]


def layer_table(results: Sequence[EntropyResult]) -> pd.DataFrame:
    """Entropy of every layer: `series`, `measure`, `layer`, `entropy`, its `maximum`,
    `effective` outcomes and their `share` of all.
    """
    rows = [
        (series, measure, layer, entropy, maximum)
        for series, result in zip(series_labels(results), results, strict=True)
        for measure, entropies, maximum in _per_layer(result)
        for layer, entropy in enumerate(entropies)
    ]
    table = pd.DataFrame(rows, columns=["series", "measure", "layer", "entropy", "maximum"])
    table = table.astype({"entropy": float, "maximum": float})
    return table.assign(
        effective=np.exp(table["entropy"]), share=np.exp(table["entropy"] - table["maximum"])
    )


def _per_layer(result: EntropyResult) -> Iterator[tuple[Measure, list[float], float]]:
    weighed: dict[Measure, KnowledgeEntropy | None] = {
        Measure.KNOWLEDGE: result.knowledge,
        Measure.CONTRIBUTION: result.contribution,
    }
    for measure, found in weighed.items():
        if found is not None:
            yield measure, found.per_layer.tolist(), np.log(found.mean_coefficients.shape[1])
    if result.attention is not None:
        yield Measure.ATTENTION, result.attention.per_layer.tolist(), np.nan


def head_table(results: Sequence[EntropyResult]) -> pd.DataFrame:
    """Attention entropy of every head: columns `series`, `layer`, `head`, `entropy`."""
    rows = [
        (series, layer, head, entropy)
        for series, result in zip(series_labels(results), results, strict=True)
        if result.attention is not None
        for layer, heads in enumerate(result.attention.per_head.tolist())
        for head, entropy in enumerate(heads)
    ]
    return pd.DataFrame(rows, columns=["series", "layer", "head", "entropy"])


def coefficient_table(results: Sequence[EntropyResult], points: int = 120) -> pd.DataFrame:
    """Mean coefficients of every layer from the largest to the smallest: `series`, `layer`,
    `rank`, `quantile` and the `ratio` to the layer's mean.
    """
    frames = []
    for series, result in zip(series_labels(results), results, strict=True):
        if result.knowledge is None:
            continue
        for layer, values in enumerate(result.knowledge.mean_coefficients.double().cpu().numpy()):
            ranks = kept_ranks(len(values), points)
            ratio = np.sort(values)[::-1][ranks] / values.mean()
            frame = {"rank": ranks, "quantile": ranks / len(values), "ratio": ratio}
            frames.append(pd.DataFrame({"series": series, "layer": layer, **frame}))
    return pd.concat(frames)


def kept_ranks(size: int, points: int) -> np.ndarray:
    """Ranks from 0 to `size - 1`, at most `points` of them, denser towards both ends."""
    if size <= points:
        return np.arange(size)
    even = np.linspace(0, size - 1, points // 3)
    ends = np.geomspace(1, size / 2, points // 3) - 1
    return np.unique(np.concatenate([even, ends, size - 1 - ends]).round().astype(int))


def convergence_table(results: Sequence[EntropyResult]) -> pd.DataFrame:
    """One row per series, kind and look, its estimate; those without an interval are left out."""
    rows = [
        (series, str(p.kind), p.documents, p.tokens, p.estimate, p.interval.low, p.interval.high)
        for series, result in zip(series_labels(results), results, strict=True)
        for p in result.convergence
        if p.interval is not None
    ]
    columns = ["series", "kind", "documents", "tokens", "estimate", "low", "high"]
    return pd.DataFrame(rows, columns=columns)
