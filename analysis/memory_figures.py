"""Figures of attribution, patching and memory vectors: tidy tables in, plotly figures out."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from analysis.figures import dots, dots_by_name, heatmap, layer_axis, lines, mark
from analysis.numbers import label, visible
from analysis.theme import SERIES_COLOURS
from probes.activation_patching import PatchingResult
from probes.attribution import LogitAttribution
from probes.memory.contexts import TopContexts
from probes.memory.neurons import FactChanges, KnowledgeNeurons
from probes.memory.vectors import PromotedTokens, SharedVectors, TopVectors

_MOST = 60
"""Memory vectors that are drawn."""


def patching_figure(result: PatchingResult, site: str) -> go.Figure:
    """Recovery by layer and place at one site."""
    table = result.to_dataframe()
    rows = table[table["site"] == site]
    return heatmap(
        rows.assign(place=rows["place"].map(visible)),
        "place",
        "layer",
        "recovery",
        unit="recovery",
        hover=f"layer {{layer}}, {result.by} {{place}}: <b>{{recovery:.1%}}</b>",
        titles=(result.by, "layer"),
        signed=True,
    )


def attribution_figure(result: LogitAttribution) -> go.Figure:
    """What every head adds, and every MLP beside them."""
    heads = result.to_dataframe().query("kind == 'head'")
    mlps = heads.drop_duplicates("layer").assign(head="MLP", contribution=result.mlp.tolist())
    table = pd.concat([heads.astype({"head": object}), mlps])
    return heatmap(
        table.assign(head=table["head"].astype(str), layer=table["layer"].astype(int)),
        "head",
        "layer",
        "contribution",
        unit="logit",
        hover="layer {layer}, {head}: <b>{contribution:+.3f}</b>",
        titles=("head, and the MLP", "layer"),
        signed=True,
    )


def top_vectors_figure(result: TopVectors) -> go.Figure:
    """The number that vectors are put in order by, a row each."""
    values = getattr(result, result.order).tolist()
    tokens = [" ".join(map(visible, words[:3])) for words in result.written.promoted]
    named = zip(result.vectors, tokens, strict=True)
    return _by_name([f"L{n} {i}: {words}" for (n, i), words in named], values, result.order)


def promoted_figure(result: PromotedTokens) -> go.Figure:
    """The scores of the tokens of the first vector."""
    tokens = [*result.promoted[0], *reversed(result.suppressed[0])]
    scores = [*result.promoted_scores[0].tolist(), *result.suppressed_scores[0].flip(0).tolist()]
    named = [f"{place + 1}. {visible(token)}" for place, token in enumerate(tokens)]
    return _by_name(named, scores, "score")


def shared_figure(result: SharedVectors) -> go.Figure:
    """Coefficients in one prompt against those in the other."""
    axes = ("coefficient in the first prompt", "coefficient in the second")
    hover = "layer {layer}, vector {index}: {first:.3f} and <b>{second:.3f}</b>"
    figure = dots(result.to_dataframe(), "first", "second", hover=hover, titles=axes)
    return mark(mark(figure, y=0), x=0)


def contexts_figure(result: TopContexts) -> go.Figure:
    """The coefficients of the contexts, a row for each vector."""
    table = result.to_dataframe()
    names = [f"L{layer} {index}" for layer, index in result.vectors]
    rows = table.assign(
        place=[
            result.vectors.index(one) for one in zip(table["layer"], table["index"], strict=True)
        ]
    )
    hover = "document {document}: <b>{coefficient:+.3f}</b><br>{text}"
    figure = dots(rows, "coefficient", "place", hover=hover, titles=("coefficient", ""))
    return _rows_named(mark(figure, x=0), names)


def changes_figure(result: FactChanges) -> go.Figure:
    """What has changed in every layer, and through what."""
    parts = {
        "from_coefficient": "when it is used",
        "from_vector": "what is written",
        "from_readout": "how it is read",
    }
    table = result.by_layer().melt("layer", list(parts), "part", "logit").replace({"part": parts})
    figure = lines(
        table,
        "logit",
        "layer",
        by="part",
        mode="lines+markers",
        hover="layer {layer}: <b>{logit:+.4f}</b>",
        titles=("change of the logit", "layer"),
    )
    return layer_axis(mark(figure, x=0), len(result.before))


def neurons_figure(result: KnowledgeNeurons) -> go.Figure:
    """The largest attributions, by layer."""
    table = result.to_dataframe()
    largest = table.reindex(table["attribution"].abs().sort_values(ascending=False).index)[:_MOST]
    hover = "layer {layer}, vector {index}: <b>{attribution:+.4f}</b>"
    axes = ("attribution (probability)", "layer")
    figure = dots(largest, "attribution", "layer", hover=hover, titles=axes)
    return layer_axis(mark(figure, x=0), len(result.attribution))


def _by_name(names: Sequence[str], values: Sequence[float], x_title: str) -> go.Figure:
    table = pd.DataFrame({"arm": names, "value": values, "low": None, "high": None})
    colours = dict.fromkeys(names, SERIES_COLOURS[0])
    return dots_by_name(table, colours, x_title)


def _rows_named(figure: go.Figure, names: Sequence[str]) -> go.Figure:
    ticks = {"tickvals": list(range(len(names))), "ticktext": list(map(label, names))}
    figure.update_layout(height=110 + 24 * len(names))
    return figure.update_yaxes(range=[len(names) - 0.4, -0.6], **ticks)
