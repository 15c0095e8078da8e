"""Tidy tables of a trajectory: entropies of checkpoint after checkpoint, in nats."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any

import pandas as pd

from analysis.entropy.tables import COEFFICIENT_SYMBOLS
from analysis.entropy.trajectory import Measured
from probes.choices import Coefficient
from probes.intervals import Interval, estimate_of
from probes.results import EntropyResult

COLUMNS = (
    *("checkpoint", "step", "corpus", "measure", "layer", "entropy"),
    *("estimate", "low", "high"),
)
CHECKPOINT_COLUMNS = ["checkpoint", "step"]


class Total(StrEnum):
    """What a whole model has one number of, besides the knowledge entropies."""

    ATTENTION = "attention"
    NEXT_TOKEN = "next-token"


def trajectory_table(measured: Sequence[Measured]) -> pd.DataFrame:
    """One row per checkpoint, corpus, measure and layer; `layer` is missing for totals."""
    rows: list[tuple[Any, ...]] = []
    for one in measured:
        for result in one.results:
            where = (one.checkpoint.label, one.checkpoint.step, result.provenance.corpus)
            rows += [(*where, *found) for found in _of_result(result)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"step": "Int64", "layer": "Int64"})


def knowledge_measures(table: pd.DataFrame) -> list[str]:
    """The knowledge entropies that a table has, in its order."""
    others = {str(total) for total in Total}
    return [name for name in table["measure"].unique() if name not in others]


def totals_by_corpus(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The totals over each corpus: one row per checkpoint, one column per measure."""
    totals = table[table["layer"].isna()]
    for corpus, rows in totals.groupby("corpus", sort=False, dropna=False):
        cells = {(r.checkpoint, r.measure): r for r in rows.itertuples()}
        checkpoints, measures = rows["checkpoint"].unique(), rows["measure"].unique()
        grid = [[cells[name, measure] for measure in measures] for name in checkpoints]
        yield str(corpus), pd.DataFrame(grid, index=checkpoints, columns=measures)


def _of_result(result: EntropyResult) -> Iterator[tuple[Any, ...]]:
    named = {}
    if result.knowledge is not None:
        named[Coefficient(result.provenance.configuration["coefficient"])] = result.knowledge
    if result.contribution is not None:
        named[Coefficient.CONTRIBUTION] = result.contribution
    for name, found in (named | result.variants).items():
        yield _total(COEFFICIENT_SYMBOLS[name], found.total, found.interval)
        yield from _layers(COEFFICIENT_SYMBOLS[name], found.per_layer.tolist())
    if result.attention is not None:
        yield _total(Total.ATTENTION, result.attention.total, result.attention.interval)
        yield from _layers(Total.ATTENTION, result.attention.per_layer.tolist())
    if result.next_token is not None:
        yield _total(Total.NEXT_TOKEN, result.next_token.mean, result.next_token.interval)


def _total(measure: str, value: float, interval: Interval | None) -> tuple[Any, ...]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return str(measure), None, value, estimate_of(value, interval), low, high


def _layers(measure: str, values: Sequence[float]) -> Iterator[tuple[Any, ...]]:
    for layer, value in enumerate(values):
        yield str(measure), layer, value, value, None, None
