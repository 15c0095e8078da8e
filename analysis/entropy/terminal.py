"""Entropy results on a terminal: a table of totals, a table of layers, the findings."""

from collections.abc import Sequence
from math import isnan

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.entropy.findings import findings, used_share
from analysis.entropy.tables import Measure, layer_table, series_labels, symbol
from analysis.theme import count, nats, percent
from probes.intervals import Interval, estimate_of
from probes.results import AttentionEntropy, EntropyResult, KnowledgeEntropy

SERIES_OF_LAYERS = 3
"""How many series the table of layers has room for."""
LAYER_COLUMNS = {Measure.KNOWLEDGE: "vectors used", Measure.ATTENTION: "attention"}


def print_results(results: Sequence[EntropyResult], console: Console | None = None) -> None:
    """Print tables and findings."""
    console = console or Console()
    console.print(totals_table(results))
    layers = layer_table(results[:SERIES_OF_LAYERS])
    if not layers.empty:
        console.print(layers_table(layers))
    for sentence in [*findings(results), *_notes(results)]:
        console.print(Text(f"- {sentence}"))


def totals_table(results: Sequence[EntropyResult]) -> Table:
    """One column per series, one row per entropy."""
    knowledge = [r.knowledge for r in results]
    rows: dict[str, list[str]] = {
        f"knowledge entropy, {symbol(results[0])}": [_total(found) for found in knowledge],
        "  of at most": [nats(found.maximum) if found else "" for found in knowledge],
        "  share": [percent(used_share(found)) if found else "" for found in knowledge],
        "  by contribution": [_total(r.contribution) for r in results],
        "attention entropy": [_total(r.attention) for r in results],
        "next-token entropy": [
            _with_interval(r.next_token.mean, r.next_token.interval) if r.next_token else ""
            for r in results
        ],
        "documents": [count(r.provenance.documents) for r in results],
        "tokens": [count(r.provenance.tokens) for r in results],
    }
    table = Table(title=Text(f"{results[0].provenance.model}, in nats"), title_justify="left")
    table.add_column()
    for series in series_labels(results):
        table.add_column(Text(series), justify="right")
    for name, cells in rows.items():
        if any(cells):
            table.add_row(name, *cells)
    return table


def layers_table(layers: pd.DataFrame) -> Table:
    """Per layer and series: effective share of the memory vectors, and attention entropy."""
    table = Table(title="by layer", title_justify="left", padding=(0, 1))
    table.add_column("layer", justify="right")
    columns = []
    for series, rows in layers.groupby("series", sort=False):
        for measure, name in (
            (Measure.KNOWLEDGE, "vectors used"),
            (Measure.ATTENTION, "attention"),
        ):
            measured = rows[rows["measure"] == measure]
            if measured.empty:
                continue
            columns.append(_layer_cells(measured))
            table.add_column(Text(f"{series}\n{name}"), justify="right")
    for layer, cells in enumerate(zip(*columns, strict=True)):
        table.add_row(str(layer), *cells)
    return table


def _layer_cells(measured: pd.DataFrame) -> list[str]:
    return [
        nats(entropy, 3) if isnan(share) else percent(share)
        for entropy, share in zip(measured["entropy"], measured["share"], strict=True)
    ]


def _total(found: KnowledgeEntropy | AttentionEntropy | None) -> str:
    return "" if found is None else _with_interval(found.total, found.interval)


def _with_interval(value: float, interval: Interval | None) -> str:
    if interval is None:
        return nats(value)
    return f"{nats(estimate_of(value, interval))} [{nats(interval.low)}, {nats(interval.high)}]"


def _notes(results: Sequence[EntropyResult]) -> list[str]:
    return list(dict.fromkeys(f"Note: {note}" for result in results for note in result.notes))
