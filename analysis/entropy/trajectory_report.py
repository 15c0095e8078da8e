"""The report of a trajectory: entropies over pretraining, per corpus, variant and layer."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.document import Cell, Figure, Fold, Panel, Report, Section, Table, Where
from analysis.entropy import trajectory_figures as figures
from analysis.entropy.sweep import Measured
from analysis.entropy.trajectory_tables import (
    Total,
    knowledge_measures,
    totals_by_corpus,
    trajectory_table,
)
from analysis.numbers import course
from analysis.theme import count, nats


def trajectory_report(measured: Sequence[Measured]) -> Report:
    """How entropies move from checkpoint to checkpoint."""
    tidy = trajectory_table(measured)
    first, name = measured[0].results[0].provenance, run_name(measured)
    several = len(measured) > 1
    return Report(
        title=f"The entropies of {name} over training",
        heading=("How the entropies of ", name, " change over training"),
        kicker="mnemoscope \u00b7 entropy over training",
        deck=f"{len(measured)} checkpoints, {count(first.tokens)} tokens of each corpus.",
        findings=trajectory_findings(tidy) if several else (),
        sections=[
            Section("The numbers", [*_totals(tidy, _cell, Where.PAGE), *_totals(tidy, _brief)]),
            *(_sections(tidy) if several else ()),
            Section("Provenance", list(_provenance(measured))),
        ],
    )


def trajectory_findings(tidy: pd.DataFrame) -> list[str]:
    """How totals moved from the first checkpoint to the last, in plain sentences."""
    found = []
    told = {*knowledge_measures(tidy)[:1], *map(str, Total)}
    totals = tidy[tidy["layer"].isna() & tidy["measure"].isin(told)]
    for (measure, corpus), line in totals.groupby(["measure", "corpus"], sort=False, dropna=False):
        first, last = line.iloc[0], line.iloc[-1]
        name = f"{measure} entropy" if measure in set(Total) else f"Knowledge entropy by {measure}"
        places = [f"at {name}" for name in line["checkpoint"]]
        moved = course(line["estimate"].tolist(), places, lambda value: f"{nats(value)} nats")
        found.append(f"{name[0].upper()}{name[1:]} over {corpus} {moved}{_overlap(first, last)}.")
    return found


def _overlap(first: pd.Series, last: pd.Series) -> str:
    if pd.isna(first["low"]) or pd.isna(last["low"]):
        return ""
    apart = first["high"] < last["low"] or last["high"] < first["low"]
    return "" if apart else ", but the intervals overlap, so this may be chance"


def _totals(
    tidy: pd.DataFrame, show: Callable[[Any], str | Cell], where: Where = Where.TERMINAL
) -> Iterator[Table]:
    """A table per corpus: one row per checkpoint, one column per total."""
    for corpus, grid in totals_by_corpus(tidy):
        rows = [
            (str(name), *map(show, cells))
            for name, cells in zip(grid.index, grid.to_numpy(), strict=True)
        ]
        header = ("checkpoint", *map(str, grid.columns))
        yield Table.of_rows(f"Over {corpus}, in nats", header, rows, where=where)


def _cell(row: Any) -> Cell:
    return Cell(_brief(row), "" if pd.isna(row.low) else f"{nats(row.low)} to {nats(row.high)}")


def _brief(row: Any) -> str:
    return nats(row.estimate)


def run_name(measured: Sequence[Measured]) -> str:
    """What the checkpoints are checkpoints of: the hub id, or the run's folder."""
    models = {one.checkpoint.model for one in measured}
    if len(models) == 1:
        return models.pop()
    parent = Path(os.path.commonpath(models))
    return parent.parent.name if parent.name == "checkpoints" else parent.name


def _sections(tidy: pd.DataFrame) -> Iterator[Section]:
    corpora = list(tidy["corpus"].unique())
    measures = knowledge_measures(tidy)
    if measures:
        yield Section(
            "Knowledge",
            [
                Figure(
                    "Knowledge entropy over training.",
                    "The sum over layers, with its interval over documents; a panel for each way "
                    "of weighing coefficients.",
                    [Panel(figures.totals_over_training(tidy, m), m) for m in measures],
                ),
                Figure(
                    "Layer by layer.",
                    "Each layer less its value at the first checkpoint, so that layers that change "
                    "stand out.",
                    [
                        Panel(figures.layers_over_training(tidy, m, c), f"{m}, {c}")
                        for m in measures[:1]
                        for c in corpora
                    ],
                ),
            ],
        )
    for total, name in ((Total.ATTENTION, "Attention"), (Total.NEXT_TOKEN, "Next-token")):
        if (tidy["measure"] == total).any():
            yield Section(
                f"{name} entropy",
                [
                    Figure(
                        f"{name} entropy over training.",
                        "With its interval over documents.",
                        [Panel(figures.totals_over_training(tidy, total))],
                    )
                ],
            )


def _provenance(measured: Sequence[Measured]) -> Iterator[Fold]:
    for one in measured:
        rows = [
            (
                r.provenance.corpus or "tokens in memory",
                r.provenance.weights_sha256[:16],
                (r.provenance.corpus_sha256 or "")[:16],
            )
            for r in one.results
        ]
        header = ("corpus", "weights", "text (sha-256)")
        table = Table.of_rows("Hashes", header, rows, where=Where.PAGE, is_open=True)
        yield Fold(one.checkpoint.label, [table])
