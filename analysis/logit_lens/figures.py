"""Figure of a lens: what every layer says at every position of one item.

Layer 0 is at the bottom, the stream before it beneath. Tokens are shown with visible spaces and as
text, whatever they contain. Ranks count from 0, the top; entropies and divergences are in nats.
Where in depth targets come up is drawn by `analysis.logit_lens.figures`.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
"""

import html
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import (
    DEFAULT_K,
    EMBED,
    EMBED_LAYER,
    depths,
    input_texts,
    layers_table,
    series_labels,
)
from analysis.numbers import visible
from analysis.theme import (
    REFERENCE_COLOUR,
    SEQUENTIAL_SCALE,
    label,
    percent,
    series_colour,
    template,
)
from probes.causal import CausalResult

_RANK_TICKS = tuple(10**power for power in range(7))


class LensMeasure(StrEnum):
    """What the colours of a heatmap stand for."""

    RANK = "rank"
    PROBABILITY = "probability"
    LOG_PROB = "log_prob"
    ENTROPY = "entropy"
    KL = "kl"


def heatmap(result: LensResult, item: int, measure: str = LensMeasure.LOG_PROB) -> go.Figure:
    """One item, layer by position; pointing at a cell shows what is most likely there."""
    wanted = _measure(measure)
    if not 0 <= item < len(result.items):
        raise ValueError(f"there is no item {item}; this result has 0 to {len(result.items) - 1}")
    rows = (result.per_token.item == item).nonzero()[:, 0].tolist()
    figure = go.Figure(
        layout={"template": template(), "height": figure_height(len(result.layer_labels))}
    )
    figure.add_heatmap(
        z=_heat(result, rows, wanted),
        customdata=_hover(result, rows),
        text=_top_texts(result, rows) if len(rows) <= 16 else None,
        texttemplate="%{text}",
        textfont={"size": 10},
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=SEQUENTIAL_SCALE,
        reversescale=wanted is LensMeasure.RANK,
        colorbar=_bar(result, wanted),
        xgap=1,
        ygap=1,
    )
    tokens = input_texts(result)
    figure.update_xaxes(
        title="position",
        tickvals=list(range(len(rows))),
        ticktext=[_markup(tokens[row]) for row in rows],
        showgrid=False,
    )
    labels = list(result.layer_labels)
    return figure.update_yaxes(
        title="layer", tickvals=list(range(len(labels))), ticktext=labels, showgrid=False
    )


def _measure(given: str) -> LensMeasure:
    try:
        return LensMeasure(given)
    except ValueError:
        known = ", ".join(LensMeasure)
        raise ValueError(f"measure must be one of {known}, found {given!r}") from None


def _heat(result: LensResult, rows: list[int], measure: LensMeasure) -> np.ndarray:
    read = result.per_token.readout
    match measure:
        case LensMeasure.RANK:
            return np.log10(read.rank[:, rows].numpy() + 1.0)
        case LensMeasure.PROBABILITY:
            return np.exp(read.log_prob[:, rows].numpy())
    return getattr(read, measure)[:, rows].numpy()


def _bar(result: LensResult, measure: LensMeasure) -> dict[str, Any]:
    bar: dict[str, Any] = {"thickness": 10, "outlinewidth": 0, "tickfont": {"size": 11}}
    units = {LensMeasure.RANK: "rank", LensMeasure.PROBABILITY: "probability"}
    bar["title"] = {"text": units.get(measure, "nats"), "side": "top", "font": {"size": 12}}
    if measure is LensMeasure.RANK:
        bar |= rank_ticks(result.d_vocab, logarithms=True)
    return bar


def _hover(result: LensResult, rows: list[int]) -> list[list[str]]:
    tokens = input_texts(result)
    return [
        [_hover_text(result, layer, row, tokens[row]) for row in rows]
        for layer in range(len(result.layer_labels))
    ]


def _hover_text(result: LensResult, layer: int, row: int, token: str) -> str:
    read = result.per_token.readout
    target = _markup(result.text(int(result.per_token.target[row])))
    chance = percent(read.log_prob[layer, row].exp().item())
    lines = [
        f"layer {result.layer_labels[layer]}, after {_markup(token)}",
        f"<b>{target}</b>: rank {int(read.rank[layer, row]):,}, {chance}",
        f"entropy {read.entropy[layer, row]:.2f}, KL {read.kl[layer, row]:.2f} nats",
    ]
    best = zip(read.top_ids[layer, row].tolist(), read.top_log_probs[layer, row].exp(), strict=True)
    lines += [f"{percent(p.item())}  {_markup(result.text(token))}" for token, p in best]
    return "<br>".join(lines)


def _top_texts(result: LensResult, rows: list[int]) -> list[list[str]]:
    best = result.per_token.readout.top_ids[:, rows, 0].tolist()
    return [[_markup(result.text(token)) for token in of_layer] for of_layer in best]


def _markup(token: str) -> str:
    """A token as plotly shows it: short, every character visible, nothing taken for markup."""
    shown = visible(token)
    return html.escape(shown if len(shown) <= 14 else f"{shown[:13]}…")


def rank_ticks(d_vocab: int, *, logarithms: bool = False) -> dict[str, list[Any]]:
    """Ticks at ranks 0, 1, 10, 100, ... of an axis that holds rank plus one."""
    ranks = [0, *(rank for rank in _RANK_TICKS if rank < d_vocab)]
    places = np.array(ranks) + 1.0
    return {
        "tickvals": (np.log10(places) if logarithms else places).tolist(),
        "ticktext": [f"{rank:,}" for rank in ranks],
    }


def figure_height(n_layers: int) -> int:
    """Of a figure with layers on its vertical axis, in pixels."""
    return int(np.clip(190 + 14 * n_layers, 320, 760))


SITE_NAMES = {
    "resid_post": "residual stream",
    "mlp_out": "MLP output",
    "attention_out": "attention output",
}
"""How a legend calls what was restored."""


class Criterion(StrEnum):
    """Which layer of an item a histogram counts."""

    FIRST = "first"
    """The first where its target is among the top k."""
    SETTLING = "settling"
    """The first from which it stays there."""


def localization_figure(results: Sequence[LensResult], k: int = DEFAULT_K) -> go.Figure:
    """Histograms over layers: where targets first come up, and from where they stay."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        subplot_titles=["first layer", "settling layer"],
    )
    for column, criterion in enumerate(Criterion, start=1):
        for bar in _bars(results, k, criterion, shows_legend=column == 1):
            figure.add_trace(bar, row=1, col=column)
    figure.update_layout(
        template=template(),
        bargap=0.15,
        showlegend=len(results) > 1,
        height=figure_height(_depth(results)),
    )
    figure.update_xaxes(title="share of items", tickformat=".0%", rangemode="tozero")
    return figure.update_yaxes(**_layer_axis(results)).update_yaxes(title=None, col=2)


def layer_histogram_figure(
    results: Sequence[LensResult], criterion: Criterion, k: int = DEFAULT_K
) -> go.Figure:
    """One of the two histograms of `localization_figure`."""
    figure = go.Figure(layout={"template": template(), "bargap": 0.15})
    figure.add_traces(_bars(results, k, criterion, shows_legend=len(results) > 1))
    figure.update_layout(height=figure_height(_depth(results)), showlegend=len(results) > 1)
    figure.update_xaxes(title="share of items", tickformat=".0%", rangemode="tozero")
    return figure.update_yaxes(**_layer_axis(results))


def _bars(
    results: Sequence[LensResult], k: int, criterion: Criterion, *, shows_legend: bool
) -> list[go.Bar]:
    bars = []
    for index, (name, result) in enumerate(zip(series_labels(results), results, strict=True)):
        found = result.localization(k)
        layers = found.first_layer if criterion is Criterion.FIRST else found.settling_layer
        rows = layers[layers >= 0].numpy()
        counts = np.bincount(rows, minlength=len(result.layer_labels))
        bars.append(
            go.Bar(
                # Of all items, so that bars that miss some do not look like bars of all.
                x=counts / len(result.items),
                y=depths(result),
                orientation="h",
                name=label(name),
                legendgroup=name,
                showlegend=shows_legend,
                marker={"color": series_colour(index)},
                customdata=np.stack([counts, np.array(result.layer_labels, object)], axis=1),
                hovertemplate="layer %{customdata[1]}: <b>%{x:.1%}</b>, %{customdata[0]} of "
                f"{len(result.items)} items",
            )
        )
    return bars


def rank_trajectories(result: LensResult, k: int = DEFAULT_K) -> go.Figure:
    """Rank of the targets over layers: the median and the middle half of the items."""
    table = layers_table(result, k)
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    figure.update_layout(height=figure_height(len(table)))
    if len(result.items) > 1:
        _add_items(figure, result, table)
    for index, name in enumerate(result.control_names):
        median = np.median(result.control_rank(name).numpy(), axis=1)
        style = {"color": REFERENCE_COLOUR, "width": 1.5, "dash": ("dot", "dash")[index % 2]}
        _add_line(figure, table, median, label(name.replace("_", " ")), style)
    name = "median of the targets" if len(result.items) > 1 else "target"
    _add_line(figure, table, table["rank_median"], name, {"color": series_colour(0), "width": 2.5})
    figure.add_vline(x=k + 0.5, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"})
    figure.update_xaxes(
        title="rank of the target (0 is the top)",
        type="log",
        range=[-0.08, np.log10(result.d_vocab)],
        **rank_ticks(result.d_vocab),
    )
    return figure.update_yaxes(**_layer_axis([result]))


def _add_items(figure: go.Figure, result: LensResult, table: pd.DataFrame) -> None:
    sides = zip(("rank_low", "rank_high"), ({}, {"fill": "tonextx"}), strict=True)
    for column, fill in sides:
        figure.add_scatter(
            x=table[column] + 1,
            y=table["depth"],
            mode="lines",
            line={"width": 0},
            fillcolor="rgba(61,111,180,0.2)",
            name="middle half of the targets",
            showlegend=bool(fill),
            hoverinfo="skip",
            **fill,
        )
    for ranks in result.rank.T.tolist() if len(result.items) <= 20 else ():
        figure.add_scatter(
            x=np.array(ranks) + 1,
            y=table["depth"],
            mode="lines",
            line={"width": 1, "color": series_colour(0)},
            opacity=0.3,
            showlegend=False,
            hoverinfo="skip",
        )


def _add_line(
    figure: go.Figure, table: pd.DataFrame, ranks: Any, name: str, style: dict[str, Any]
) -> None:
    figure.add_scatter(
        # A logarithmic axis has no place for a rank of 0.
        x=np.asarray(ranks, float) + 1,
        y=table["depth"],
        customdata=np.stack([np.asarray(ranks, object), table["layer"]], axis=1),
        mode="lines",
        line=style,
        name=name,
        hovertemplate="layer %{customdata[1]}: rank <b>%{customdata[0]:,.0f}</b>",
        hoverlabel={"namelength": -1},
    )


def causal_figure(
    causal: CausalResult, results: Sequence[LensResult], k: int = DEFAULT_K
) -> go.Figure:
    """What restoring each layer brings back, beside the share of items readable there."""
    figure = go.Figure(layout={"template": template(), "hovermode": "closest"})
    figure.update_layout(height=figure_height(_depth(results)))
    for name, result in zip(series_labels(results), results, strict=True):
        table = layers_table(result, k)
        figure.add_scatter(
            x=table["share_found"],
            y=table["depth"],
            customdata=table[["layer"]],
            mode="lines",
            line={"color": REFERENCE_COLOUR, "width": 2, "dash": "dash"},
            name=f"readable, {label(name)}" if len(results) > 1 else "readable",
            hovertemplate=f"layer %{{customdata[0]}}: <b>%{{x:.1%}}</b> of items in the top {k}",
        )
    for index, (site, recovery) in enumerate(zip(causal.sites, causal.mean_recovery, strict=True)):
        figure.add_scatter(
            x=recovery.numpy(),
            y=list(range(len(recovery))),
            mode="lines+markers",
            line={"color": series_colour(index), "width": 1.6},
            marker={"size": 5},
            name=label(SITE_NAMES.get(site, site)),
            hovertemplate="layer %{y}: <b>%{x:.1%}</b> brought back",
        )
    figure.update_xaxes(title="recovery; share of items", tickformat=".0%", rangemode="tozero")
    return figure.update_yaxes(**_layer_axis(results))


def _depth(results: Sequence[LensResult]) -> int:
    return max(len(result.layer_labels) for result in results)


def _layer_axis(results: Sequence[LensResult]) -> dict[str, Any]:
    names = {depth for result in results for depth in depths(result)}
    top = max(names)
    step = next(step for step in (1, 2, 5, 10, 20, 50) if top / step <= 16 or step == 50)
    shown = [depth for depth in sorted(names) if depth == EMBED_LAYER or depth % step == 0]
    return {
        "title": "layer",
        "range": [min(names) - 0.7, top + 0.7],
        "tickvals": shown,
        "ticktext": [EMBED if depth == EMBED_LAYER else str(depth) for depth in shown],
    }
