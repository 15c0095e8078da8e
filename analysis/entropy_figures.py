"""Figures of entropy results, and the tidy tables that they, pages and the terminal draw from.

A table has one row per observation and one column per variable, in nats. A `series` is one result,
called after what tells it from the others. Layer 0 is at the bottom; a line that stands for one
layer says so, by which a page links figures.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from math import exp, floor, log10
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures import dots, empty, heatmap, layer_axis, lines, mark
from analysis.numbers import label, nats, numbered
from probes.choices import Coefficient
from probes.results import EntropyResult, KnowledgeEntropy

_MOST_STEPS = 12  # with more checkpoints only some steps are written at the axis
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


DISTANCE_TICKS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Distances to the maximum, in nats, that the upper axis may name; those that fit are kept."""
_INVISIBLE = {"mode": "markers", "opacity": 0, "hoverinfo": "skip", "showlegend": False}


def entropy_figure(results: Sequence[EntropyResult] | EntropyResult) -> go.Figure:
    """Knowledge entropy of every layer in nats, beside its maximum; one trace per result.

    Args:
        results: of one model over several corpora, of several models, or a single one.

    Raises:
        ValueError: none of them has knowledge entropy.
    """
    results = [results] if isinstance(results, EntropyResult) else results
    table = layer_table(results)
    table = table[table["measure"] == Measure.KNOWLEDGE]
    if table.empty:
        raise ValueError(
            f"a figure of knowledge entropy needs kind 'knowledge', which none of the "
            f"{len(results)} results has; measure with kinds=('knowledge',)"
        )
    figure = _by_layer(
        table,
        "entropy",
        "knowledge entropy (nats)",
        "layer {layer}: <b>{entropy:.3f}</b> nats, as if {effective:,.0f} memory vectors",
    )
    for maximum in table["maximum"].unique():
        # A shape does not widen the axis: the invisible point makes room for it.
        figure.add_scatter(x=[maximum], y=[0], **_INVISIBLE)
        mark(figure, x=maximum, text=f"maximum {nats(maximum)}", dash="solid")
    return figure


def knowledge_by_layer(layers: pd.DataFrame) -> go.Figure:
    """How large a share of a layer's memory vectors is effectively in use: exp(H) / d_mlp."""
    table = layers[layers["measure"] != Measure.ATTENTION]
    variant = table["measure"].map({Measure.KNOWLEDGE: "", Measure.CONTRIBUTION: "by contribution"})
    figure = _by_layer(
        table.assign(variant=variant),
        "share",
        "effective share of memory vectors, exp(H) / d",
        "layer {layer}: <b>{share:.1%}</b>, as if {effective:,.0f} memory vectors<br>{entropy:.4f} "
        "of at most {maximum:.4f} nats",
        by=("series", "variant"),
    )
    _add_distance_axis(figure, float(table["share"].min()))
    return mark(figure, x=1.0, text="maximum", dash="solid")


def attention_by_layer(layers: pd.DataFrame, heads: pd.DataFrame) -> go.Figure:
    """Attention entropy of every layer: a line for the mean over heads, a faint dot per head."""
    means = _by_layer(
        layers[layers["measure"] == Measure.ATTENTION],
        "entropy",
        "attention entropy (nats)",
        "layer {layer}: mean <b>{entropy:.3f}</b> nats, as if over {effective:,.1f} keys",
    )
    hover = "layer {layer}, head {head}: {entropy:.3f} nats"
    looks = {"size": 5, "opacity": 0.3, "onto": means}
    figure = dots(heads, "entropy", "layer", by="series", hover=hover, **looks)
    return figure.update_xaxes(rangemode="tozero")


def attention_heads(
    heads: pd.DataFrame,
    limits: tuple[float, float] | None = None,
    baseline: pd.DataFrame | None = None,
) -> go.Figure:
    """Attention entropy, heads by layers, of one series; less a baseline's where there is one, in
    blue where it is broader and in red where it is sharper.
    """
    form = ".3f" if baseline is None else "+.3f"
    if baseline is not None:
        both = heads.merge(baseline, on=["layer", "head"], suffixes=("", "_baseline"))
        heads = both.assign(entropy=both["entropy"] - both["entropy_baseline"])
    elif limits is None:
        limits = (0.0, float(heads["entropy"].max()))
    return heatmap(
        heads,
        "head",
        "layer",
        "entropy",
        unit="nats",
        hover=f"layer {{layer}}, head {{head}}: <b>{{entropy:{form}}}</b> nats",
        titles=("head", "layer"),
        signed=baseline is not None,
        limits=limits,
    )


def sorted_coefficients(
    coefficients: pd.DataFrame, limits: tuple[float, float] | None = None
) -> go.Figure:
    """Mean coefficients of every layer of one series, from the largest to the smallest."""
    positive = coefficients.loc[coefficients["ratio"] > 0, "ratio"]
    low, high = limits or (positive.min(), positive.max())
    figure = lines(
        # float32 is finer than a screen, and half as long in the page.
        coefficients.astype({"quantile": "float32", "ratio": "float32", "rank": "int32"}),
        "quantile",
        "ratio",
        by="layer",
        hover="memory vector of rank {rank}: {ratio:.3~g} times the layer's mean",
        titles=("memory vectors, sorted", "mean coefficient / layer mean"),
        height=420,
        width=1.3,
    )
    mark(figure, y=1.0).update_xaxes(tickformat=".0%", range=[-0.01, 1.01])
    ends = [log10(low) - 0.1, log10(high) + 0.1]
    return figure.update_yaxes(type="log", dtick=1, exponentformat="none", range=ends)


def convergence_figure(table: pd.DataFrame, kind: str) -> go.Figure:
    """One running total over documents, a line per series inside its interval."""
    return lines(
        table[table["kind"] == kind],
        "documents",
        "estimate",
        by="series",
        hover="{documents} documents, {tokens:,} tokens: <b>{estimate:.3f}</b> nats<br>{low:.3f} "
        "to {high:.3f}",
        titles=("documents", "entropy (nats)"),
        height=300,
        mode="lines+markers",
        ends=("low", "high"),
        band=True,
    ).update_xaxes(type="log")


def _by_layer(
    table: pd.DataFrame, x: str, title: str, hover: str, by: str | Sequence[str] = "series"
) -> go.Figure:
    looks: dict[str, Any] = {"mode": "lines+markers", "width": 1.4, "size": 7}
    figure = lines(table, x, "layer", by=by, titles=(title, "layer"), hover=hover, **looks)
    return layer_axis(figure, int(table["layer"].max()) + 1).update_layout(showlegend=True)


def _add_distance_axis(figure: go.Figure, lowest: float) -> None:
    """An upper axis that names the same places by their distance to the maximum entropy."""
    left = max(0.0, floor(20 * lowest - 0.5) / 20)
    right = 1.0 + 0.03 * (1.0 - left)
    room = 0.075 * (right - left)
    ticks = [0.0]
    for tick in DISTANCE_TICKS:
        if left < exp(-tick) < exp(-ticks[-1]) - room:
            ticks.append(tick)
    figure.update_xaxes(range=[left, right], tickformat=".0%").update_layout(
        xaxis2={
            "overlaying": "x",
            "side": "top",
            "matches": "x",
            "showgrid": False,
            "tickvals": [exp(-tick) for tick in ticks],
            "ticktext": [f"{tick:g}" for tick in ticks],
            "title": "nats below the maximum",
        }
    )
    # An axis is drawn only where a trace uses it.
    figure.add_scatter(x=[1.0], y=[0], xaxis="x2", **_INVISIBLE)


class Total(StrEnum):
    """What a whole model has one number of, besides the knowledge entropies."""

    ATTENTION = "attention"
    NEXT_TOKEN = "next-token"


def knowledge_measures(table: pd.DataFrame) -> list[str]:
    """The knowledge entropies that a table has, in its order."""
    return [name for name in table["measure"].unique() if name not in set(Total)]


def totals_over_training(table: pd.DataFrame, measure: str) -> go.Figure:
    """One total at every checkpoint, a line per corpus, with its interval."""
    rows = table[(table["measure"] == measure) & table["layer"].isna()]
    return _over_training(
        table,
        rows,
        "estimate",
        "entropy (nats)",
        "{checkpoint}: <b>{estimate:.3f}</b> nats",
        by="corpus",
        mode="lines+markers",
        width=2,
        ends=("low", "high"),
    )


def layers_over_training(table: pd.DataFrame, measure: str, corpus: str | None) -> go.Figure:
    """Entropy of every layer, less its value at the first checkpoint; a line per layer."""
    rows = table[(table["measure"] == measure) & table["layer"].notna()]
    rows = rows[rows["corpus"] == corpus] if corpus is not None else rows
    first = rows.groupby("layer")["entropy"].transform("first")
    return _over_training(
        table,
        rows.assign(change=rows["entropy"] - first).sort_values("layer", kind="stable"),
        "change",
        "change since the first checkpoint (nats)",
        "layer {layer}, {checkpoint}: {change:+.4f}, at {entropy:.4f} nats",
        by="layer",
        width=1.4,
    )


def _over_training(
    table: pd.DataFrame, rows: pd.DataFrame, y: str, y_title: str, hover: str, **looks: Any
) -> go.Figure:
    """Lines over steps, or over checkpoints in their order where one has no step."""
    has_steps = table["step"].notna().all()
    names = list(table["checkpoint"].unique())
    places = rows["step"].astype(int) if has_steps else rows["checkpoint"].map(names.index)
    figure = empty("pretraining step" if has_steps else "checkpoint", y_title, 380)
    steps = sorted(table["step"].dropna().astype(int).unique().tolist()) if has_steps else []
    if logarithmic := log_spaced(steps):
        # Step 0 has no place on a logarithmic axis: it stands one step before the first.
        before = steps[1] ** 2 / steps[2]
        places = places.where(places > 0, before)
    lines(rows.assign(place=places), "place", y, hover=hover, onto=figure, **looks)
    if logarithmic:
        shown = steps[:: -(-len(steps) // _MOST_STEPS)]
        ticks = {"tickvals": [step or before for step in shown], "type": "log"}
        return figure.update_xaxes(ticktext=[f"{step:,}" for step in shown], **ticks)
    ticks = {"tickvals": list(range(len(names))), "ticktext": list(map(label, names))}
    return figure if has_steps else figure.update_xaxes(**ticks)


def log_spaced(steps: Sequence[int]) -> bool:
    """Whether checkpoints are more evenly spaced by the logarithms of their steps."""
    positive = np.array([step for step in steps if step > 0], dtype=float)
    if len(positive) < 3 or positive[-1] < 10 * positive[0]:
        return False
    gaps = np.diff(positive), np.diff(np.log(positive))
    uneven, uneven_logs = (float(one.std() / one.mean()) for one in gaps)
    return uneven_logs < uneven
