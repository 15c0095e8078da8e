"""Figures: pure functions from the tidy tables of `analysis.entropy.tables` to plotly figures.

Layers run from 0 at the bottom upwards. Figures have no titles: a page or a paper captions them.
Signed values are drawn on RdBu around zero, others on a sequential scale. Names of models and
corpora are shown as text, whatever they contain. A trace that stands for one layer says so in
`meta["layer"]`, by which a page links figures.
"""

from collections.abc import Sequence
from math import exp, floor

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analysis.entropy.tables import Measure, layer_table
from analysis.theme import (
    DEPTH_SCALE,
    REFERENCE_COLOUR,
    SEQUENTIAL_SCALE,
    SIGNED_SCALE,
    label,
    nats,
    series_colour,
    template,
)
from probes.results import EntropyResult

DISTANCE_TICKS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Distances to the maximum, in nats, that the upper axis may name; those that fit are kept."""


def entropy_figure(results: Sequence[EntropyResult]) -> go.Figure:
    """Knowledge entropy of every layer in nats, beside its maximum; one trace per result.

    Args:
        results: of one model over several corpora, or of several models.

    Raises:
        ValueError: none of them has knowledge entropy.
    """
    table = layer_table(results)
    table = table[table["measure"] == Measure.KNOWLEDGE]
    if table.empty:
        raise ValueError(
            f"a figure of knowledge entropy needs kind 'knowledge', which none of the "
            f"{len(results)} results has; measure with kinds=('knowledge',)"
        )
    figure = _layer_figure(table, x_title="knowledge entropy (nats)")
    for index, (series, rows) in enumerate(table.groupby("series", sort=False)):
        figure.add_scatter(
            x=rows["entropy"],
            y=rows["layer"],
            customdata=rows[["effective"]],
            hovertemplate="layer %{y}: %{x:.3f} nats, as if %{customdata[0]:,.0f} memory vectors",
            **_line(series, index),
        )
    for maximum in table["maximum"].unique():
        _mark_maximum(figure, maximum, f"maximum {nats(maximum, 3)}")
    return figure


def knowledge_by_layer(layers: pd.DataFrame) -> go.Figure:
    """How large a share of a layer's memory vectors is effectively in use: exp(H) / d_mlp."""
    table = layers[layers["measure"] != Measure.ATTENTION]
    figure = _layer_figure(table, x_title="effective share of memory vectors, exp(H) / d")
    _add_distance_axis(figure, table)
    colours = {series: place for place, series in enumerate(table["series"].unique())}
    for (series, measure), rows in table.groupby(["series", "measure"], sort=False):
        figure.add_scatter(
            x=rows["share"],
            y=rows["layer"],
            customdata=rows[["entropy", "maximum", "effective"]],
            hovertemplate="layer %{y}: <b>%{x:.1%}</b>, as if %{customdata[2]:,.0f} memory vectors"
            "<br>%{customdata[0]:.4f} of at most %{customdata[1]:.4f} nats",
            **_line(series, colours[series], is_variant=measure == Measure.CONTRIBUTION),
        )
    _mark_maximum(figure, 1.0, "maximum")
    return figure


def attention_by_layer(layers: pd.DataFrame, heads: pd.DataFrame) -> go.Figure:
    """Attention entropy of every layer: a line for the mean over heads, a faint dot per head."""
    table = layers[layers["measure"] == Measure.ATTENTION]
    figure = _layer_figure(table, x_title="attention entropy (nats)")
    for index, (series, rows) in enumerate(heads.groupby("series", sort=False)):
        figure.add_scatter(
            x=rows["entropy"],
            y=rows["layer"],
            customdata=rows[["head"]],
            mode="markers",
            marker={"color": series_colour(index), "size": 5, "opacity": 0.3},
            showlegend=False,
            name=label(series),
            hovertemplate="layer %{y}, head %{customdata[0]}: %{x:.3f} nats",
        )
    for index, (series, rows) in enumerate(table.groupby("series", sort=False)):
        figure.add_scatter(
            x=rows["entropy"],
            y=rows["layer"],
            customdata=rows[["effective"]],
            hovertemplate="layer %{y}: mean <b>%{x:.3f}</b> nats, as if over "
            "%{customdata[0]:,.1f} keys",
            **_line(series, index),
        )
    return figure.update_xaxes(rangemode="tozero")


def attention_heads(heads: pd.DataFrame, limits: tuple[float, float] | None = None) -> go.Figure:
    """Heatmap of attention entropy, heads by layers, of one series."""
    low, high = limits or (0.0, float(heads["entropy"].max()))
    return _heatmap(
        heads,
        hovertemplate="layer %{y}, head %{x}: <b>%{z:.3f}</b> nats<extra></extra>",
        colorscale=SEQUENTIAL_SCALE,
        zmin=low,
        zmax=high,
    )


def attention_difference(heads: pd.DataFrame, baseline: pd.DataFrame) -> go.Figure:
    """Heatmap of how much attention entropy differs from a baseline: blue
    is broader, red sharper.
    """
    both = heads.merge(baseline, on=["layer", "head"], suffixes=("", "_baseline"))
    both["entropy"] -= both["entropy_baseline"]
    reach = float(both["entropy"].abs().max()) or 1.0
    return _heatmap(
        both,
        hovertemplate="layer %{y}, head %{x}: <b>%{z:+.3f}</b> nats<extra></extra>",
        colorscale=SIGNED_SCALE,
        zmid=0.0,
        zmin=-reach,
        zmax=reach,
    )


def sorted_coefficients(
    coefficients: pd.DataFrame, limits: tuple[float, float] | None = None
) -> go.Figure:
    """Mean coefficients of every layer of one series, from the largest to the smallest."""
    positive = coefficients.loc[coefficients["ratio"] > 0, "ratio"]
    low, high = limits or (positive.min(), positive.max())
    n_layers = int(coefficients["layer"].max()) + 1
    colours = sample_colorscale([list(stop) for stop in DEPTH_SCALE], np.linspace(0, 1, n_layers))
    figure = go.Figure(layout={"template": template(), "showlegend": False, "height": 420})
    for layer, rows in coefficients.groupby("layer"):
        figure.add_scatter(
            # float32 is finer than a screen, and half as long in the page.
            x=rows["quantile"].to_numpy(np.float32),
            y=rows["ratio"].to_numpy(np.float32),
            customdata=rows["rank"].to_numpy(np.int32),
            mode="lines",
            line={"color": colours[layer], "width": 1.3},
            meta={"layer": int(layer)},
            name=f"layer {layer}",
            hovertemplate="<b>layer %{meta.layer}</b>, memory vector of rank %{customdata}: "
            "%{y:.3~g} times the layer's mean<extra></extra>",
        )
    _add_depth_bar(figure, n_layers)
    figure.add_hline(y=1.0, line={"color": REFERENCE_COLOUR, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="memory vectors, sorted", tickformat=".0%", range=[-0.01, 1.01])
    return figure.update_yaxes(
        title="mean coefficient / layer mean",
        type="log",
        dtick=1,
        exponentformat="none",
        range=[np.log10(low) - 0.1, np.log10(high) + 0.1],
    )


def _layer_figure(table: pd.DataFrame, *, x_title: str) -> go.Figure:
    """An empty figure with the layers on its y axis."""
    n_layers = int(table["layer"].max()) + 1
    figure = go.Figure(layout={"template": template(), "hovermode": "closest", "showlegend": True})
    figure.update_layout(height=int(np.clip(190 + 14 * n_layers, 320, 760)))
    figure.update_xaxes(title=x_title)
    step = _layer_step(n_layers)
    return figure.update_yaxes(title="layer", range=[-0.7, n_layers - 0.3], dtick=step)


def _layer_step(n_layers: int) -> int:
    return next(step for step in (1, 2, 5, 10, 20, 50) if n_layers / step <= 16 or step == 50)


def _line(series: str, index: int, *, is_variant: bool = False) -> dict[str, object]:
    """How the trace of a series is drawn; the contribution variant is dotted, with open dots."""
    colour = series_colour(index)
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "width": 1.4, "dash": "dot" if is_variant else "solid"},
        "marker": {"size": 7, "symbol": "circle-open" if is_variant else "circle"},
        "name": f"{label(series)}, by contribution" if is_variant else label(series),
        "hoverlabel": {"namelength": -1},
    }


def _mark_maximum(figure: go.Figure, x: float, text: str) -> None:
    # A shape does not widen the axis: the invisible point makes room for it.
    figure.add_scatter(x=[x], y=[0], mode="markers", opacity=0, hoverinfo="skip", showlegend=False)
    figure.add_vline(x=x, line={"color": REFERENCE_COLOUR, "width": 1.5})
    place = {"x": x, "xanchor": "left", "yref": "paper", "y": 0.5, "yanchor": "middle"}
    figure.add_annotation(text=text, textangle=-90, showarrow=False, **place)


def _add_distance_axis(figure: go.Figure, table: pd.DataFrame) -> None:
    """An upper axis that names the same places by their distance to the maximum entropy."""
    lowest = float(table["share"].min())
    left = max(0.0, floor(20 * lowest - 0.5) / 20)
    right = 1.0 + 0.03 * (1.0 - left)
    room = 0.075 * (right - left)
    ticks = [0.0]
    for tick in DISTANCE_TICKS:
        if left < exp(-tick) < exp(-ticks[-1]) - room:
            ticks.append(tick)
    figure.update_layout(
        xaxis={"range": [left, right], "tickformat": ".0%"},
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
    figure.add_scatter(
        x=[1.0], y=[0], xaxis="x2", mode="markers", opacity=0, hoverinfo="skip", showlegend=False
    )


def _add_depth_bar(figure: go.Figure, n_layers: int) -> None:
    """A colour bar that tells which layer a line is, layer 0 at the bottom."""
    marker = {
        "color": [0, max(1, n_layers - 1)],
        "colorscale": [list(stop) for stop in DEPTH_SCALE],
        "showscale": True,
        "colorbar": {**_colour_bar("layer"), "dtick": _layer_step(n_layers)},
    }
    nowhere = [None, None]
    figure.add_scatter(x=nowhere, y=nowhere, mode="markers", marker=marker, hoverinfo="skip")


def _colour_bar(title: str) -> dict[str, object]:
    return {
        "title": {"text": title, "side": "top", "font": {"size": 12}},
        "tickfont": {"size": 11},
        "thickness": 10,
        "outlinewidth": 0,
    }


def _heatmap(heads: pd.DataFrame, **style: object) -> go.Figure:
    grid = heads.pivot_table(index="layer", columns="head", values="entropy")
    bar = _colour_bar("nats")
    n_layers, n_heads = grid.shape
    figure = go.Figure(
        go.Heatmap(
            x=grid.columns, y=grid.index, z=grid.to_numpy(), colorbar=bar, xgap=1, ygap=1, **style
        ),
        layout={"template": template(), "height": int(np.clip(160 + 12 * n_layers, 300, 640))},
    )
    figure.update_layout(margin={"t": 30})
    figure.update_xaxes(title="head", dtick=_layer_step(n_heads), showgrid=False)
    return figure.update_yaxes(title="layer", dtick=_layer_step(n_layers), showgrid=False)
