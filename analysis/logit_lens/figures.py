"""Figure of a lens: what every layer says at every position of one item.

Layer 0 is at the bottom, the stream before it beneath. Tokens are shown with visible spaces and as
text, whatever they contain. Ranks count from 0, the top; entropies and divergences are in nats.
Where in depth targets come up is drawn by `analysis.logit_lens.depth_figures`.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020).
"""

import html
from enum import StrEnum
from typing import Any

import numpy as np
import plotly.graph_objects as go

from analysis.logit_lens.result import LensResult
from analysis.logit_lens.tables import input_texts
from analysis.numbers import visible
from analysis.theme import SEQUENTIAL_SCALE, percent, template

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
