"""Figures of a lens: what every layer says at every position of one item, and where in depth
targets come up.

Layer 0 is at the bottom, the stream before it beneath. Tokens are shown with visible spaces and as
text, whatever they contain. Ranks count from 0, the top; entropies and divergences are in nats.

A page that can draw any item needs a million places with ten tokens each (`explorer_data`). It
holds a table of the tokens that occur and, for every place, numbers of rows of it: typed arrays,
deflated, in base64, first bytes before all second bytes, which deflates by a fifth better.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
"""

import base64
import json
import zlib
from collections.abc import Sequence
from enum import StrEnum
from itertools import cycle
from math import log10
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from analysis.figures import (
    REFERENCE_COLOUR,
    SEQUENTIAL_SCALE,
    empty,
    heatmap,
    histogram,
    layer_axis,
    lines,
    mark,
)
from analysis.lens_result import LensResult
from analysis.lens_tables import (
    DEFAULT_K,
    READ,
    LensDifference,
    input_ids,
    input_texts,
    items_table,
    layers_table,
    series_labels,
    target_text,
)
from analysis.numbers import label, share, visible
from probes.causal import CausalResult

SITE_NAMES = {
    "resid_post": "residual stream",
    "mlp_out": "MLP output",
    "attention_out": "attention output",
}
"""How a legend calls what was restored."""
_WRITTEN = 16  # with more positions a heatmap's cells have no room for text
_DRAWN = 20  # with more items their own lines would hide the median


class Criterion(StrEnum):
    """Which layer of an item a histogram counts."""

    FIRST = "first"  # the first where its target is among the top k
    SETTLING = "settling"  # the first from which it stays there


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


def lens_difference_by_item(difference: LensDifference) -> go.Figure:
    """How far the target's log-probability moved, layer by item."""
    numbers = difference.numbers
    rows = numbers[numbers["measure"] == "log_prob"]
    target = [_token(target_text(difference.first, one)) for one in range(difference.items)]
    rows = rows.assign(target=rows["item"].map(dict(enumerate(target))))
    hover = "item {item}, {target}, layer {layer}: <b>{difference:+.3f}</b> nats<br>{first:.3f} to "
    return _signed(rows, "item", "difference", hover + "{second:.3f}", ("item", "layer"))


def lens_difference_by_position(difference: LensDifference, item: int) -> go.Figure:
    """How far the target's log-probability moved in one item, layer by position."""
    tables = []
    for result in (difference.first, difference.second):
        rows = (result.per_token.item == item).nonzero()[:, 0].tolist()
        if not rows:
            raise ValueError(f"there is no item {item}; there are 0 to {difference.items - 1}")
        places = result.per_token.position[rows].tolist()
        table = _cells(result, rows)
        tables.append(table.assign(position=[places[column] for column in table["column"]]))
    both = tables[0].merge(tables[1], on=["layer", "position", "target"], suffixes=("", "_second"))
    both = both.assign(moved=both["log_prob_second"] - both["log_prob"])
    hover = "layer {layer}, after {token}<br><b>{target}</b>: <b>{moved:+.3f}</b> nats, rank "
    hover += "{rank:,} to {rank_second:,}<br>top {top} to {top_second}"
    figure = _signed(both, "position", "moved", hover, ("position", "layer"))
    tokens = both.drop_duplicates("position")
    ticks = {"tickvals": tokens["position"].tolist(), "dtick": None}
    return figure.update_xaxes(ticktext=tokens["token"].map(label).tolist(), **ticks)


def _signed(rows: pd.DataFrame, x: str, z: str, hover: str, titles: tuple[str, str]) -> go.Figure:
    return heatmap(rows, x, "layer", z, unit="nats", hover=hover, titles=titles, signed=True)


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
    numbers = {name: getattr(read, name)[:, rows].flatten().numpy() for name in READ}
    table = pd.DataFrame(cells).assign(**numbers)
    return table.assign(chance=np.exp(table["log_prob"]).map(share))


def _token(text: str) -> str:
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
    looks: dict[str, Any] = {"by": "series", "onto": figure}
    looks["hover"] = "layer {layer}: rank <b>{rank:,.0f}</b>"
    ends = ("rank_low", "rank_high") if several else None
    lines(medians, "rank_median", "place", ends=ends, ends_on="x", band=True, width=2.5, **looks)
    for name, dash in zip(result.control_names, cycle(("dot", "dash")), strict=False):
        rank = np.median(result.control_rank(name).numpy(), axis=1)
        control = table.assign(series=name.replace("_", " "), rank=rank, shifted=rank + 1)
        grey = {control["series"].iloc[0]: REFERENCE_COLOUR}
        lines(control, "shifted", "place", colours=grey, line_dash=dash, **looks)
    mark(figure, x=k + 0.5)
    ticks = rank_ticks(result.d_vocab)
    figure.update_xaxes(type="log", range=[-0.08, log10(result.d_vocab)], **ticks)
    return layer_axis(figure, result.layer_labels)


def causal_figure(
    causal: CausalResult, results: Sequence[LensResult] = (), k: int = DEFAULT_K
) -> go.Figure:
    """What restoring each layer brings back, beside the share of items readable there."""
    figure = empty("recovery; share of items" if results else "recovery", "layer")
    blocks = tuple(map(str, range(causal.mean_recovery.shape[1])))
    longest = max((result.layer_labels for result in results), key=len, default=blocks)
    for name, result in zip(series_labels(results), results, strict=True):
        table = layers_table(result, k).assign(place=range(len(result.layer_labels)))
        shown = f"readable, {name}" if len(results) > 1 else "readable"
        hover = f"layer {{layer}}: <b>{{share_found:.1%}}</b> of items in the top {k}"
        looks: dict[str, Any] = {"by": "series", "colours": {shown: REFERENCE_COLOUR}}
        looks |= {"hover": hover, "line_dash": "dash", "onto": figure}
        lines(table.assign(series=shown), "share_found", "place", **looks)
    before = len(longest) - len(blocks)
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


LOG_PROB_STEP = 1 / 2048
"""Nats between two log-probabilities of a most likely token that a page can tell apart; they are
kept down to -31.99, below which a page shows nothing."""


def explorer_data(results: Sequence[LensResult], k: int) -> dict[str, Any]:
    """What the script of the page reads, ready for JSON."""
    places = [i / 15 for i in range(16)]
    rgb = sample_colorscale(SEQUENTIAL_SCALE, places, colortype="tuple")
    names = series_labels(results)
    return {
        "k": k,
        "step": LOG_PROB_STEP,
        "series": [_series(*one, k) for one in zip(names, results, strict=True)],
        "highestKl": max(float(result.per_token.readout.kl.max()) for result in results),
        "colours": ["#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in rgb],
    }


def _series(name: str, result: LensResult, k: int) -> dict[str, Any]:
    read, readout, inputs = result.per_token, result.per_token.readout, input_ids(result)
    top = readout.top_ids.numpy()
    # Every token id that the page names, in order.
    known = np.unique(np.concatenate([top.ravel(), read.target.numpy(), inputs]))
    tokens = [visible(result.text(token)) for token in known.tolist()]
    texts = json.dumps(tokens, ensure_ascii=False)
    renamed = {"first_layer": "first", "settling_layer": "settles"}
    items = items_table(result, k).rename(columns=renamed)
    items = items[["prompt", "target", "rank", "first", "settles"]].astype(object)
    steps = np.rint(-readout.top_log_probs.numpy() / LOG_PROB_STEP)
    return {
        "name": name,
        "layers": list(result.layer_labels),
        "tokens": {"type": "JSON", "data": _deflated(texts.encode())},
        "dVocab": result.d_vocab,
        "topK": top.shape[-1],
        "items": items.where(items.notna(), None).to_dict("records"),
        "starts": packed(np.searchsorted(read.item.numpy(), np.arange(len(result.items) + 1))),
        "input": packed(np.searchsorted(known, inputs)),
        "target": packed(np.searchsorted(known, read.target.numpy())),
        "position": packed(read.position.numpy()),
        "place": packed(read.place.numpy()),
        **{one: packed(getattr(readout, one).numpy()) for one in ("rank", "entropy", "kl")},
        "logProb": packed(readout.log_prob.numpy()),
        "topIds": packed(np.searchsorted(known, top)),
        "topSteps": packed(np.clip(steps, 0, np.iinfo(np.uint16).max).astype(int)),
    }


def packed(values: np.ndarray) -> dict[str, str]:
    """An array as the smallest typed array that holds it, deflated, in base64."""
    kinds: list[type[np.number]] = [np.float32]
    if values.dtype.kind != "f":
        ends = values.min(initial=0), values.max(initial=0)
        whole: tuple[type[np.integer], ...] = (np.uint8, np.uint16, np.uint32, np.int16)
        kinds = [t for t in whole if np.iinfo(t).min <= ends[0] and ends[1] <= np.iinfo(t).max]
    # Little-endian, as every browser's typed arrays are.
    small = values.astype(np.dtype(kinds[0]).newbyteorder("<")).flatten()
    planes = small.view(np.uint8).reshape(-1, small.itemsize).T.tobytes()
    # NumPy's uint8 is a script's Uint8Array.
    name = kinds[0].__name__.capitalize()
    return {"type": f"{name}Array", "data": _deflated(planes)}


def _deflated(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
