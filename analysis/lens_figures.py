"""Figures of a lens: what every layer says at every position of one item, and where in depth
targets come up.

Layer 0 is at the bottom, the stream before it beneath. Tokens are shown with visible spaces and as
text, whatever they contain. Ranks count from 0, the top; entropies and divergences are in nats.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
"""

from collections.abc import Sequence
from enum import StrEnum
from math import log10
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.figures import empty, heatmap, histogram, layer_axis, lines, mark
from analysis.lens_result import LensResult
from analysis.lens_tables import DEFAULT_K, input_texts, items_table, layers_table, series_labels
from analysis.numbers import label, share, visible
from analysis.theme import REFERENCE_COLOUR
from probes.causal import CausalResult

SITE_NAMES = {
    "resid_post": "residual stream",
    "mlp_out": "MLP output",
    "attention_out": "attention output",
}
"""How a legend calls what was restored."""
_WRITTEN = 16
"""Of more positions there is no room for text in the cells of a heatmap."""
_DRAWN = 20
"""Of more items their own lines would hide the median."""


class Criterion(StrEnum):
    """Which layer of an item a histogram counts."""

    FIRST = "first"
    """The first where its target is among the top k."""
    SETTLING = "settling"
    """The first from which it stays there."""


def lens_heatmap(result: LensResult, item: int) -> go.Figure:
    """The target's log-probability in one item, layer by position; pointing at a cell shows what is
    most likely there.

    Raises:
        ValueError: there is no such item.
    """
    if not 0 <= item < len(result.items):
        raise ValueError(f"there is no item {item}; this result has 0 to {len(result.items) - 1}")
    rows = (result.per_token.item == item).nonzero()[:, 0].tolist()
    table = _cells(result, rows)
    figure = heatmap(
        table,
        "column",
        "layer",
        "log_prob",
        unit="nats",
        hover="layer {layer}, after {token}<br><b>{target}</b>: rank {rank:,}, {chance}<br>entropy "
        "{entropy:.2f}, KL {kl:.2f} nats<br>{best}",
        titles=("position", "layer"),
        text="top" if len(rows) <= _WRITTEN else None,
        textfont={"size": 10},
    )
    tokens = table["token"][: len(rows)].map(label).tolist()
    figure.update_xaxes(tickvals=list(range(len(rows))), ticktext=tokens)
    places = {"tickvals": list(range(len(result.layer_labels)))}
    return figure.update_yaxes(ticktext=list(result.layer_labels), **places)


def _cells(result: LensResult, rows: list[int]) -> pd.DataFrame:
    """One row a layer and position: what was read there, and the most likely tokens."""
    read, inputs = result.per_token.readout, input_texts(result)
    cells = []
    for layer, name in enumerate(result.layer_labels):
        for column, row in enumerate(rows):
            ids, chances = read.top_ids[layer, row], read.top_log_probs[layer, row].exp()
            best = [_token(result.text(token)) for token in ids.tolist()]
            shown = zip(map(share, chances.tolist()), best, strict=True)
            cells.append(
                {
                    "layer": name,
                    "column": column,
                    "token": _token(inputs[row]),
                    "target": _token(result.text(int(result.per_token.target[row]))),
                    "top": best[0],
                    "best": "\n".join(f"{chance}  {token}" for chance, token in shown),
                }
            )
    numbers = {
        name: getattr(read, name)[:, rows].flatten().numpy()
        for name in ("rank", "log_prob", "entropy", "kl")
    }
    table = pd.DataFrame(cells).assign(**numbers)
    return table.assign(chance=np.exp(table["log_prob"]).map(share))


def _token(text: str) -> str:
    """A token, short and with every character to be seen."""
    shown = visible(text)
    return shown if len(shown) <= 14 else f"{shown[:13]}…"


def rank_ticks(d_vocab: int, *, logarithms: bool = False) -> dict[str, list[Any]]:
    """Ticks at ranks 0, 1, 10, 100, ... of an axis that holds rank plus one."""
    ranks = [0, *(10**power for power in range(7) if 10**power < d_vocab)]
    places = np.array(ranks) + 1.0
    return {
        "tickvals": (np.log10(places) if logarithms else places).tolist(),
        "ticktext": [f"{rank:,}" for rank in ranks],
    }


def layer_histogram(
    results: Sequence[LensResult], criterion: Criterion, k: int = DEFAULT_K
) -> go.Figure:
    """Over layers: where targets first come up, or from where they stay; of all items."""
    tables = [
        items_table(result, k).assign(series=name)
        for name, result in zip(series_labels(results), results, strict=True)
    ]
    labels = max((result.layer_labels for result in results), key=len)
    return histogram(pd.concat(tables), f"{criterion}_layer", labels, by="series")


def rank_trajectories(result: LensResult, k: int = DEFAULT_K) -> go.Figure:
    """Rank of the targets over layers: the median and the middle half of the items."""
    table = layers_table(result, k).assign(place=range(len(result.layer_labels)))
    several = len(result.items) > 1
    # A logarithmic axis has no place for a rank of 0.
    shifted = table[["rank_low", "rank_median", "rank_high"]] + 1
    medians = table.assign(
        series="median of the targets" if several else "target",
        rank=table["rank_median"],
        **shifted,
    )
    figure = empty("rank of the target (0 is the top)", "layer")
    for ranks in result.rank.T.tolist() if 1 < len(result.items) <= _DRAWN else ():
        drawn = table.assign(shifted=np.array(ranks) + 1)
        lines(drawn, "shifted", "place", width=1, opacity=0.3, onto=figure)
    looks = {"ends": ("rank_low", "rank_high"), "ends_on": "x", "band": several}
    hover = "layer {layer}: rank <b>{rank:,.0f}</b>"
    lines(
        medians,
        "rank_median",
        "place",
        by="series",
        hover=hover,
        width=2.5,
        onto=figure,
        **(looks if several else {}),
    )
    for name, dash in zip(result.control_names, ("dot", "dash"), strict=False):
        rank = np.median(result.control_rank(name).numpy(), axis=1)
        control = table.assign(series=name.replace("_", " "), rank=rank, shifted=rank + 1)
        grey = {control["series"].iloc[0]: REFERENCE_COLOUR}
        given = {"by": "series", "colours": grey, "hover": hover, "line_dash": dash}
        lines(control, "shifted", "place", onto=figure, **given)
    mark(figure, x=k + 0.5)
    ends = [-0.08, log10(result.d_vocab)]
    figure.update_xaxes(type="log", range=ends, **rank_ticks(result.d_vocab))
    return layer_axis(figure, result.layer_labels)


def causal_figure(
    causal: CausalResult, results: Sequence[LensResult], k: int = DEFAULT_K
) -> go.Figure:
    """What restoring each layer brings back, beside the share of items readable there."""
    figure = empty("recovery; share of items", "layer")
    longest = max((result.layer_labels for result in results), key=len)
    for name, result in zip(series_labels(results), results, strict=True):
        table = layers_table(result, k).assign(place=range(len(result.layer_labels)))
        shown = f"readable, {name}" if len(results) > 1 else "readable"
        hover = f"layer {{layer}}: <b>{{share_found:.1%}}</b> of items in the top {k}"
        grey = {"by": "series", "colours": {shown: REFERENCE_COLOUR}, "line_dash": "dash"}
        named = table.assign(series=shown)
        lines(named, "share_found", "place", hover=hover, onto=figure, **grey)
    before = len(longest) - causal.mean_recovery.shape[1]
    sites = [
        pd.DataFrame({"site": SITE_NAMES.get(site, site), "recovery": recovery.numpy()})
        for site, recovery in zip(causal.sites, causal.mean_recovery, strict=True)
    ]
    restored = pd.concat(one.assign(layer=one.index, place=one.index + before) for one in sites)
    lines(
        restored,
        "recovery",
        "place",
        by="site",
        mode="lines+markers",
        size=5,
        onto=figure,
        hover="layer {layer}: <b>{recovery:.1%}</b> brought back",
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    return layer_axis(figure, longest)
