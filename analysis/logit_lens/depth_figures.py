"""Figures of depth: at which layers targets become readable, and where restoring them helps.

Pure functions from lens results to plotly figures. Layer 0 is at the bottom, the stream before it
beneath; figures have no titles, because a page or a paper captions them. Ranks count from 0.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models" (2024), Figures
4, 11 and 12; Meng et al., "Locating and Editing Factual Associations in GPT" (2022), for recovery.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.logit_lens.figures import figure_height, rank_ticks
from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import (
    DEFAULT_K,
    EMBED,
    EMBED_LAYER,
    depths,
    layers_table,
    series_labels,
)
from analysis.theme import REFERENCE_COLOUR, label, series_colour, template
from probes.causal import CausalResult

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
