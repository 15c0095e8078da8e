"""Findings: what entropy results say, in plain sentences; the page and the terminal both say it.

Totals are the estimates that their intervals are of: the measured ones less the bias of few
documents. An effective number is exp(H): how many outcomes, used alike, would have the entropy H.
Two totals are said to differ only where their intervals do not overlap, which is stricter than a
test of the difference.
"""

from collections.abc import Iterator, Sequence
from math import exp

import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from analysis.entropy.tables import series_labels
from analysis.theme import count, label, nats, percent, series_colour, template
from probes.intervals import Interval, estimate_of
from probes.results import EntropyResult, KnowledgeEntropy


def findings(results: Sequence[EntropyResult]) -> list[str]:
    """Three to five sentences on what was found."""
    named = dict(zip(series_labels(results), results, strict=True))
    return [
        *_knowledge(named),
        *_comparison(named),
        *_concentration(named),
        *_attention(named),
        *_next_token(named),
    ]


def with_interval(value: float, interval: Interval | None, digits: int = 2) -> str:
    """The estimate in nats and, where there is one, its interval; see `estimate_note`."""
    shown = f"{nats(estimate_of(value, interval), digits)} nats"
    note = estimate_note(value, interval, digits)
    return f"{shown} ({note})" if note else shown


def estimate_note(value: float, interval: Interval | None, digits: int = 2) -> str:
    """An interval, and what was measured where the estimate that it is of differs from that."""
    if interval is None:
        return ""
    measured = nats(value, digits)
    same = measured == nats(estimate_of(value, interval), digits)
    bias = "" if same else f"; {measured} before the correction for few documents"
    return f"{interval_text(interval, digits)}{bias}"


def interval_text(interval: Interval, digits: int = 2) -> str:
    """An interval with its level: `95% interval 1.20 to 1.40`."""
    ends = f"{nats(interval.low, digits)} to {nats(interval.high, digits)}"
    return f"{100 * interval.level:g}% interval {ends}"


def used_share(found: KnowledgeEntropy) -> float:
    """The estimate as a share of its maximum, which the correction for few documents can exceed."""
    return min(found.estimate / found.maximum, 1.0)


def _knowledge(named: dict[str, EntropyResult]) -> Iterator[str]:
    series, result = next(iter(named.items()))
    if (found := result.knowledge) is None:
        return
    used = exp(used_share(found) * found.maximum_per_layer)
    yield (
        f"Knowledge entropy over {series} is {with_interval(found.total, found.interval)}, "
        f"{percent(used_share(found))} of the maximum of {nats(found.maximum)}: the "
        f"average layer works as if {count(used)} of its "
        f"{count(found.mean_coefficients.shape[1])} memory vectors were used alike."
    )


def _concentration(named: dict[str, EntropyResult]) -> Iterator[str]:
    found = {name: r.knowledge for name, r in named.items() if r.knowledge is not None}
    if not found or min(len(knowledge.per_layer) for knowledge in found.values()) < 2:
        return
    first, *others = found
    used = found[first].effective_memory_vectors
    low, high = _extremes(used)
    elsewhere = {name: _extremes(found[name].per_layer) for name in others}
    differing = [name for name, layers in elsewhere.items() if layers != (low, high)]
    where = "".join(
        f"; over {name} layers {elsewhere[name][0]} and {elsewhere[name][1]}" for name in differing
    )
    over = f" over {first}" if differing else " over every corpus" if others else ""
    yield (
        f"Layer {low} is the most concentrated{over} (as if {count(float(used[low]))} memory "
        f"vectors), layer {high} the least ({count(float(used[high]))}){where}."
    )


def _extremes(per_layer: Tensor) -> tuple[int, int]:
    """The layers with the lowest and the highest value."""
    return int(per_layer.argmin()), int(per_layer.argmax())


def _comparison(named: dict[str, EntropyResult]) -> Iterator[str]:
    measured = {name: r.knowledge for name, r in named.items() if r.knowledge is not None}
    if len(measured) < 2 or len({found.maximum for found in measured.values()}) > 1:
        return
    ranked = sorted(measured, key=lambda name: measured[name].estimate)
    low, high = measured[ranked[0]], measured[ranked[-1]]
    yield (
        f"Memory is used more evenly over {ranked[-1]} ({nats(high.estimate)} nats) than over "
        f"{ranked[0]} ({nats(low.estimate)}), by {nats(high.estimate - low.estimate)} nats"
        f"{_certainty(low.interval, high.interval)}."
    )


def _certainty(low: Interval | None, high: Interval | None) -> str:
    if low is None or high is None:
        return "; without intervals this may be chance"
    if low.high < high.low:
        return ", and their intervals do not overlap"
    return ", but their intervals overlap, so this may be chance"


def _attention(named: dict[str, EntropyResult]) -> Iterator[str]:
    series, result = next(iter(named.items()))
    if result.attention is None:
        return
    layers = result.attention.per_layer
    heads = result.attention.per_head
    head = int(heads.argmin())
    sharpest = f"layer {head // heads.shape[1]}, head {head % heads.shape[1]}"
    yield (
        f"Attention over {series} averages {nats(float(layers.mean()))} nats a layer; it is "
        f"broadest in layer {int(layers.argmax())} ({_as_keys(layers.max())}) and sharpest in "
        f"{sharpest} ({_as_keys(heads.min())})."
    )


def _as_keys(entropy: Tensor) -> str:
    return f"{nats(float(entropy))} nats, as if over {exp(float(entropy)):,.1f} keys"


def _next_token(named: dict[str, EntropyResult]) -> Iterator[str]:
    measured = {name: r.next_token for name, r in named.items() if r.next_token is not None}
    if not measured:
        return
    parts = [
        f"{with_interval(found.mean, found.interval)} over {name}, as if among "
        f"{exp(found.estimate):,.0f} tokens"
        for name, found in measured.items()
    ]
    yield f"The entropy of the next token averages {'; '.join(parts)}."


COLUMNS = ["series", "kind", "documents", "tokens", "estimate", "low", "high"]


def convergence_table(results: Sequence[EntropyResult]) -> pd.DataFrame:
    """One row per series, kind and look, its estimate; those without an interval are left out."""
    rows = [
        (series, str(p.kind), p.documents, p.tokens, p.estimate, p.interval.low, p.interval.high)
        for series, result in zip(series_labels(results), results, strict=True)
        for p in result.convergence
        if p.interval is not None
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def convergence_figure(table: pd.DataFrame, kind: str) -> go.Figure:
    """One running total over documents, a line per series inside its interval."""
    figure = go.Figure(
        layout={
            "template": template(),
            "height": 300,
            "xaxis": {"title": {"text": "documents"}, "type": "log"},
            "yaxis": {"title": {"text": "entropy (nats)"}},
        }
    )
    rows = table[table["kind"] == kind]
    for index, (series, line) in enumerate(rows.groupby("series", sort=False)):
        colour = series_colour(index)
        for end, fill in (("low", None), ("high", "tonexty")):
            figure.add_scatter(
                x=line["documents"],
                y=line[end],
                mode="lines",
                line={"color": colour, "width": 0.5},
                fill=fill,
                opacity=0.3,
                showlegend=False,
                hoverinfo="skip",
            )
        figure.add_scatter(
            x=line["documents"],
            y=line["estimate"],
            customdata=line[["tokens", "low", "high"]],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"color": colour, "size": 5},
            name=label(str(series)),
            hovertemplate="%{x} documents, %{customdata[0]:,} tokens: <b>%{y:.3f}</b> nats"
            "<br>%{customdata[1]:.3f} to %{customdata[2]:.3f}",
        )
    return figure
