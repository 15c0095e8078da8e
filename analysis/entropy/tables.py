"""Tidy tables of entropy results: one row per observation, one column per variable, in nats.

Figures, pages and the terminal draw from these tables and never from results directly. A
`series` is one result; it is called after what tells it apart from the others.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from math import log
from typing import Any

import numpy as np
import pandas as pd

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
    labels: list[str] = []
    for model, revision, corpus in parts:
        named = [(model, revision, corpus)[place] for place in varying] or [corpus or model]
        base = " · ".join(str(name) for name in named if name) or model
        repeats = sum(label == base or label.startswith(f"{base} (") for label in labels)
        labels.append(f"{base} ({repeats + 1})" if repeats else base)
    return labels


def symbol(result: EntropyResult) -> str:
    """How the weights of the result's knowledge entropy are written."""
    return COEFFICIENT_SYMBOLS[Coefficient(result.provenance.configuration["coefficient"])]


def layer_table(results: Sequence[EntropyResult]) -> pd.DataFrame:
    """Entropy of every layer."""
    rows: list[dict[str, Any]] = []
    for series, result in zip(series_labels(results), results, strict=True):
        for measure, entropies, maximum in _per_layer(result):
            rows += (
                {
                    "series": series,
                    "measure": measure,
                    "layer": layer,
                    "entropy": entropy,
                    "maximum": maximum,
                }
                for layer, entropy in enumerate(entropies)
            )
    columns = ["series", "measure", "layer", "entropy", "maximum"]
    table = pd.DataFrame(rows, columns=columns)
    table["effective"] = np.exp(table["entropy"].astype(float))
    table["share"] = np.exp((table["entropy"] - table["maximum"]).astype(float))
    return table


def _per_layer(result: EntropyResult) -> Iterator[tuple[Measure, list[float], float]]:
    if result.knowledge is not None:
        yield Measure.KNOWLEDGE, *_of_maximum(result.knowledge)
    if result.contribution is not None:
        yield Measure.CONTRIBUTION, *_of_maximum(result.contribution)
    if result.attention is not None:
        yield Measure.ATTENTION, result.attention.per_layer.tolist(), float("nan")


def _of_maximum(found: KnowledgeEntropy) -> tuple[list[float], float]:
    return found.per_layer.tolist(), log(found.mean_coefficients.shape[1])


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
    """Mean coefficients of every layer from the largest to the smallest, in layer means."""
    frames = []
    for series, result in zip(series_labels(results), results, strict=True):
        if result.knowledge is None:
            continue
        coefficients = result.knowledge.mean_coefficients.double().cpu().numpy()
        for layer, values in enumerate(coefficients):
            ranks = kept_ranks(len(values), points)
            ratio = np.sort(values)[::-1][ranks] / values.mean()
            frame = {"series": series, "layer": layer, "rank": ranks, "ratio": ratio}
            frames.append(pd.DataFrame({**frame, "quantile": ranks / len(values)}))
    columns = ["series", "layer", "rank", "quantile", "ratio"]
    return pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def kept_ranks(size: int, points: int) -> np.ndarray:
    """Ranks from 0 to `size - 1`, at most `points` of them, denser towards both ends."""
    if size <= points:
        return np.arange(size)
    even = np.linspace(0, size - 1, points // 3)
    ends = np.geomspace(1, size / 2, points // 3) - 1
    ranks = np.concatenate([even, ends, size - 1 - ends])
    return np.unique(ranks.round().astype(int))
