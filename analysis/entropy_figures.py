"""Figures of entropy results, from the tidy tables of `analysis.entropy_tables`.

Layers run from 0 at the bottom upwards; a line that stands for one layer says so, by which a page
links figures.
"""

from collections.abc import Sequence
from math import exp, floor, log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.entropy_tables import Measure, layer_table
from analysis.figures import dots, heatmap, layer_axis, lines, mark
from analysis.numbers import nats
from probes.results import EntropyResult

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
        },
    )
    # An axis is drawn only where a trace uses it.
    figure.add_scatter(x=[1.0], y=[0], xaxis="x2", **_INVISIBLE)
