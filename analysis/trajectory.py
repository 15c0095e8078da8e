"""A trajectory: the entropies of checkpoint after checkpoint, measured, tabulated and drawn.

`python -m analysis.entropy` makes one of several checkpoints: a folder of results for each,
`trajectory.csv` and `trajectory.html`. Entropies are in nats.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from analysis.checkpoints import TABLE, Checkpoint, unfinished
from analysis.document import (
    Cell,
    Figure,
    Fold,
    Panel,
    Report,
    Section,
    Table,
    Where,
    html,
    print_report,
)
from analysis.entropy_tables import COEFFICIENT_SYMBOLS
from analysis.figures import empty, lines
from analysis.numbers import capital, count, course, label, nats
from analysis.sweep_folder import Origin, origin_in, refuse_another
from probes.choices import Coefficient
from probes.cli import output_folder
from probes.results import RESULT_FILE, EntropyResult, load_result
from probes.shown import Result

PAGE = "trajectory.html"
IN_MEMORY = "tokens in memory"
"""The name of texts that have none."""
_MOST_STEPS = 12
"""Of more checkpoints only some have their step written at the axis."""
COLUMNS = (
    *("checkpoint", "step", "corpus", "measure", "layer", "entropy"),
    *("estimate", "low", "high"),
)


class Total(StrEnum):
    """What a whole model has one number of, besides the knowledge entropies."""

    ATTENTION = "attention"
    NEXT_TOKEN = "next-token"


@dataclass(frozen=True)
class Measured:
    """What one checkpoint gave, over every corpus."""

    checkpoint: Checkpoint
    results: list[EntropyResult]


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """The entropies of checkpoint after checkpoint, as `analysis.sweep` found them.

    Attributes:
        measured: the checkpoints with their results, in order.
    """

    measured: tuple[Measured, ...]

    @property
    def findings(self) -> Sequence[str]:
        """How the totals moved and where they turned, and what was never finished, in sentences."""
        return trajectory_report(self.measured).findings

    def to_dataframe(self) -> pd.DataFrame:
        """One row per checkpoint, corpus, measure and layer (missing for totals), in nats."""
        return trajectory_table(self.measured)

    def plot(self, measure: str | None = None) -> Any:
        """One total over training (a `plotly` Figure).

        Args:
            measure: of `to_dataframe()`; None for the first.
        """
        return self._drawn(measure=measure)

    def save(self, directory: str | Path) -> Path:
        """Write every result, `trajectory.csv` and `trajectory.html`; returns the directory."""
        folder = Path(directory)
        for one in self.measured:
            for result in one.results:
                result.save(folder / one.checkpoint.slug)
        self.to_dataframe().to_csv(folder / TABLE, index=False)
        (folder / PAGE).write_text(html(trajectory_report(self.measured)), encoding="utf-8")
        return folder

    def _facts(self) -> dict[str, Any]:
        table = self.to_dataframe()
        totals = table[table["layer"].isna()]
        measure = totals["measure"].iloc[0]
        line = totals[totals["measure"] == measure]["estimate"]
        ends = {measure: f"{line.iloc[0]:.5g} to {line.iloc[-1]:.5g} nats"}
        labels = [one.checkpoint.label for one in self.measured]
        about = f"{len(labels)} checkpoints, {labels[0]} to {labels[-1]}"
        return {"": about if len(labels) > 1 else labels[0], **ends}

    def _preview(self) -> pd.DataFrame:
        table = self.to_dataframe()
        totals = table[table["layer"].isna()]
        columns = {"columns": ["corpus", "measure"], "values": "estimate", "sort": False}
        return totals.pivot_table(index="checkpoint", **columns)


def measure_checkpoints(
    todo: Sequence[Checkpoint],
    folders: Sequence[str],
    out: Path | None,
    *,
    load: Callable[[Checkpoint], Any],
    measure: Callable[[Checkpoint, Any], list[EntropyResult]],
    origins: Callable[[Any], Sequence[Origin]],
    writes: bool = True,
) -> list[Measured]:
    """Measure every checkpoint that has no results yet; without `out` nothing is kept on disk."""
    kept_in = out or Path()
    places = {one: [kept_in / one.slug / name for name in folders] for one in todo}
    done = [c for c in todo if out and all((p / RESULT_FILE).is_file() for p in places[c])]
    found: dict[Checkpoint, list[EntropyResult]] = {}
    # What is there is looked at first: what has changed is found out before hours of measuring.
    for checkpoint, model in _loaded_ahead([*done, *(c for c in todo if c not in done)], load):
        if checkpoint in done:
            found[checkpoint] = [load_result(place) for place in places[checkpoint]]
            kept = zip(places[checkpoint], found[checkpoint], origins(model), strict=True)
            for place, result, origin in kept:
                refuse_another(place, origin_in(result.provenance), origin)
            continue
        found[checkpoint] = measure(checkpoint, model)
        if writes and out:
            with output_folder(out / checkpoint.slug) as partial:
                for result, name in zip(found[checkpoint], folders, strict=True):
                    result.save(partial / name)
    return [Measured(checkpoint, found[checkpoint]) for checkpoint in todo]


def _loaded_ahead(
    todo: Sequence[Checkpoint], load: Callable[[Checkpoint], Any]
) -> Iterator[tuple[Checkpoint, Any]]:
    """Each checkpoint with its model; the next one loads while the caller uses this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(load, todo[0])
        for place, checkpoint in enumerate(todo):
            model = coming.result()
            if place + 1 < len(todo):
                coming = pool.submit(load, todo[place + 1])
            yield checkpoint, model
            # Not before the caller is done with it: two models at a time, never three.
            del model


def write_trajectory(measured: Sequence[Measured], out: Path) -> None:
    """Write the table, print the report, and draw it where there are several checkpoints."""
    trajectory_table(measured).to_csv(out / TABLE, index=False)
    report = trajectory_report(measured)
    print_report(report)
    if len(measured) > 1:
        (out / PAGE).write_text(html(report), encoding="utf-8")
        print(f"page: {out / PAGE}")


def trajectory_table(measured: Sequence[Measured]) -> pd.DataFrame:
    """One row per checkpoint, corpus, measure and layer; `layer` is missing for totals."""
    rows = [
        (one.checkpoint.label, one.checkpoint.step, result.provenance.corpus or IN_MEMORY, *found)
        for one in measured
        for result in one.results
        for found in _of_result(result)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"step": "Int64", "layer": "Int64"})


def _of_result(result: EntropyResult) -> Iterator[tuple[Any, ...]]:
    named: dict[Coefficient, Any] = {
        Coefficient(result.provenance.configuration["coefficient"]): result.knowledge,
        Coefficient.CONTRIBUTION: result.contribution,
        **result.variants,
    }
    by_name = {COEFFICIENT_SYMBOLS[name]: found for name, found in named.items()}
    for measure, found in (by_name | {str(Total.ATTENTION): result.attention}).items():
        if found is not None:
            ends = found.interval[:2] if found.interval else (None, None)
            yield measure, None, found.total, found.estimate, *ends
            for layer, value in enumerate(found.per_layer.tolist()):
                yield measure, layer, value, value, None, None
    if (last := result.next_token) is not None:
        ends = last.interval[:2] if last.interval else (None, None)
        yield str(Total.NEXT_TOKEN), None, last.mean, last.estimate, *ends


def knowledge_measures(table: pd.DataFrame) -> list[str]:
    """The knowledge entropies that a table has, in its order."""
    return [name for name in table["measure"].unique() if name not in set(Total)]


def totals_over_training(table: pd.DataFrame, measure: str) -> go.Figure:
    """One total at every checkpoint, a line per corpus, with its interval."""
    rows = table[(table["measure"] == measure) & table["layer"].isna()]
    return _over_training(
        table,
        rows,
        "estimate",
        "entropy (nats)",
        "{checkpoint}: <b>{estimate:.3f}</b> nats",
        by="corpus",
        mode="lines+markers",
        width=2,
        ends=("low", "high"),
    )


def layers_over_training(table: pd.DataFrame, measure: str, corpus: str | None) -> go.Figure:
    """Entropy of every layer, less its value at the first checkpoint; a line per layer."""
    rows = table[(table["measure"] == measure) & table["layer"].notna()]
    rows = rows[rows["corpus"] == corpus] if corpus is not None else rows
    first = rows.groupby("layer")["entropy"].transform("first")
    return _over_training(
        table,
        rows.assign(change=rows["entropy"] - first).sort_values("layer", kind="stable"),
        "change",
        "change since the first checkpoint (nats)",
        "layer {layer}, {checkpoint}: {change:+.4f}, at {entropy:.4f} nats",
        by="layer",
        width=1.4,
    )


def _over_training(
    table: pd.DataFrame, rows: pd.DataFrame, y: str, y_title: str, hover: str, **looks: Any
) -> go.Figure:
    """Lines over steps, or over checkpoints in their order where one has no step."""
    has_steps = table["step"].notna().all()
    names = list(table["checkpoint"].unique())
    places = rows["step"].astype(int) if has_steps else rows["checkpoint"].map(names.index)
    figure = empty("pretraining step" if has_steps else "checkpoint", y_title, 380)
    steps = sorted(table["step"].dropna().astype(int).unique().tolist()) if has_steps else []
    if logarithmic := log_spaced(steps):
        # Step 0 has no place on a logarithmic axis: it stands one step before the first.
        before = steps[1] ** 2 / steps[2]
        places = places.where(places > 0, before)
    lines(rows.assign(place=places), "place", y, hover=hover, onto=figure, **looks)
    if logarithmic:
        shown = steps[:: -(-len(steps) // _MOST_STEPS)]
        ticks = {"tickvals": [step or before for step in shown], "type": "log"}
        return figure.update_xaxes(ticktext=[f"{step:,}" for step in shown], **ticks)
    ticks = {"tickvals": list(range(len(names))), "ticktext": list(map(label, names))}
    return figure if has_steps else figure.update_xaxes(**ticks)


def log_spaced(steps: Sequence[int]) -> bool:
    """Whether checkpoints are more evenly spaced by the logarithms of their steps."""
    positive = np.array([step for step in steps if step > 0], dtype=float)
    if len(positive) < 3 or positive[-1] < 10 * positive[0]:
        return False
    gaps = np.diff(positive), np.diff(np.log(positive))
    uneven, uneven_logs = (float(one.std() / one.mean()) for one in gaps)
    return uneven_logs < uneven


def trajectory_report(measured: Sequence[Measured]) -> Report:
    """How entropies move from checkpoint to checkpoint."""
    tidy = trajectory_table(measured)
    models = list(dict.fromkeys(one.checkpoint.model for one in measured))
    # A hub id, or the run's folder.
    common = Path(os.path.commonpath(models))
    parent = common.parent.name if common.name == "checkpoints" else common.name
    name = parent if len(models) > 1 else models[0]
    several = len(measured) > 1
    tokens = count(measured[0].results[0].provenance.tokens)
    return Report(
        title=f"The entropies of {name} over training",
        heading=("How the entropies of ", name, " change over training"),
        kicker="mnemoscope \u00b7 entropy over training",
        deck=f"{len(measured)} checkpoints, {tokens} tokens of each corpus.",
        findings=[*(trajectory_findings(tidy) if several else ()), *unfinished(models)],
        sections=[
            Section("The numbers", list(chain.from_iterable(map(_totals, _by_corpus(tidy))))),
            *(_sections(tidy) if several else ()),
            Section("Provenance", list(map(_hashes, measured))),
        ],
    )


def trajectory_findings(tidy: pd.DataFrame) -> list[str]:
    """How totals moved from the first checkpoint to the last, in plain sentences."""
    found = []
    said = {*knowledge_measures(tidy)[:1], *map(str, Total)}
    totals = tidy[tidy["layer"].isna() & tidy["measure"].isin(said)]
    for (measure, corpus), line in totals.groupby(["measure", "corpus"], sort=False, dropna=False):
        name = f"{measure} entropy" if measure in set(Total) else f"Knowledge entropy by {measure}"
        places = [f"at {name}" for name in line["checkpoint"]]
        moved = course(line["estimate"].tolist(), places, lambda value: f"{nats(value, 2)} nats")
        found.append(f"{capital(name)} over {corpus} {moved}{_chance(line)}.")
    return found


def _chance(line: pd.DataFrame) -> str:
    """What the intervals say of the way between the ends, and of where it turned."""
    first, last = line.iloc[0], line.iloc[-1]
    if _apart(first, last):
        return ""
    turns = (line.iloc[int(find(line["estimate"].to_numpy()))] for find in (np.argmin, np.argmax))
    if any(_apart(turn, first) and _apart(turn, last) for turn in turns):
        return "; the intervals at the ends overlap, but not with that of the turn"
    return ", but the intervals overlap, so this may be chance"


def _apart(one: pd.Series, other: pd.Series) -> bool:
    unknown = pd.isna(one["low"]) or pd.isna(other["low"])
    return bool(unknown or one["high"] < other["low"] or other["high"] < one["low"])


def _by_corpus(tidy: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    totals = tidy[tidy["layer"].isna()]
    for corpus, rows in totals.groupby("corpus", sort=False, dropna=False):
        yield str(corpus), rows


def _totals(of_corpus: tuple[str, pd.DataFrame]) -> Iterator[Table]:
    """One row per checkpoint, one column per total; with intervals on a page."""
    corpus, rows = of_corpus
    header = ("checkpoint", *rows["measure"].unique())
    for where in (Where.PAGE, Where.TERMINAL):
        cells: dict[str, list[str | Cell]] = {}
        for row in rows.itertuples():
            known = where is Where.PAGE and not pd.isna(row.low)
            ends = f"{nats(row.low, 2)} to {nats(row.high, 2)}" if known else ""
            named = cells.setdefault(str(row.checkpoint), [str(row.checkpoint)])
            named.append(Cell(nats(row.estimate, 2), ends))
        yield Table.of_rows(f"Over {corpus}, in nats", header, cells.values(), where=where)


def _sections(tidy: pd.DataFrame) -> Iterator[Section]:
    if measures := knowledge_measures(tidy):
        totals = [Panel(totals_over_training(tidy, m), m) for m in measures]
        layers = [
            Panel(layers_over_training(tidy, measures[0], corpus), f"{measures[0]}, {corpus}")
            for corpus in tidy["corpus"].unique()
        ]
        drawn = [
            Figure(
                "Knowledge entropy over training.",
                "The sum over layers, with its interval over documents; a panel for each way of "
                "weighing coefficients.",
                totals,
            ),
            Figure(
                "Layer by layer.",
                "Each layer less its value at the first checkpoint, so that layers that change "
                "stand out.",
                layers,
            ),
        ]
        yield Section("Knowledge", drawn)
    for total, name in ((Total.ATTENTION, "Attention"), (Total.NEXT_TOKEN, "Next-token")):
        if (tidy["measure"] == total).any():
            title, caption = f"{name} entropy over training.", "With its interval over documents."
            panels = [Panel(totals_over_training(tidy, total))]
            yield Section(f"{name} entropy", [Figure(title, caption, panels)])


def _hashes(one: Measured) -> Fold:
    rows = [
        (
            origin.corpus or IN_MEMORY,
            origin.weights_sha256[:16],
            (origin.corpus_sha256 or "")[:16],
        )
        for origin in (result.provenance for result in one.results)
    ]
    header = ("corpus", "weights", "text (sha-256)")
    table = Table.of_rows("Hashes", header, rows, where=Where.PAGE, is_open=True)
    return Fold(one.checkpoint.label, [table])
