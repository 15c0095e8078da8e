"""A trajectory: the entropies of several models or checkpoints, measured, tabulated and drawn.

`python -m analysis.entropy` makes one of several checkpoints, `analysis.sweep` from a script.
Entropies are in nats.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.checkpoints import (
    TABLE,
    Checkpoint,
    Origin,
    begin,
    checkpoints,
    is_series,
    origin_in,
    origin_of,
    refuse_another,
    step_of,
    unfinished,
)
from analysis.document import Figure, Fold, Panel, Report, Section, Table, Where, html, print_report
from analysis.entropy_figures import (
    COEFFICIENT_SYMBOLS,
    Total,
    knowledge_measures,
    layers_over_training,
    totals_over_training,
)
from analysis.numbers import capital, count, course, nats, numbered, texts
from analysis.significance import bounds
from probes.checking import batches as some_batches
from probes.choices import Coefficient
from probes.cli import output_folder
from probes.corpus.token_batch import Batches
from probes.hooked_model import HookedModel
from probes.measure import measure_entropy
from probes.models import load_model
from probes.refusals import shown
from probes.results import RESULT_FILE, EntropyResult, load_result
from probes.shown import Result

PAGE = "trajectory.html"
IN_MEMORY = "tokens in memory"  # the name of texts that have none
COLUMNS = (
    *("checkpoint", "step", "corpus", "measure", "layer", "entropy"),
    *("estimate", "low", "high"),
)


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
            yield measure, None, found.total, found.estimate, *bounds(found.interval)
            for layer, value in enumerate(found.per_layer.tolist()):
                yield measure, layer, value, value, None, None
    if (last := result.next_token) is not None:
        yield str(Total.NEXT_TOKEN), None, last.mean, last.estimate, *bounds(last.interval)


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
            Section("The numbers", list(_totals(tidy))),
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


def _totals(tidy: pd.DataFrame) -> Iterator[Table]:
    """One row per checkpoint, one column per total; with intervals on a page."""
    for corpus, rows in tidy[tidy["layer"].isna()].groupby("corpus", sort=False, dropna=False):
        header = ("checkpoint", *rows["measure"].unique())
        for where, ends in ((Where.PAGE, "~"), (Where.TERMINAL, "")):
            cells: dict[str, list[str]] = {}
            shown = texts(rows, f"{{estimate:nats2{ends}}}")
            for name, text in zip(rows["checkpoint"], shown, strict=True):
                cells.setdefault(name, [name]).append(text)
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
        (made.corpus or IN_MEMORY, made.weights_sha256[:16], (made.corpus_sha256 or "")[:16])
        for made in (result.provenance for result in one.results)
    ]
    header = ("corpus", "weights", "text (sha-256)")
    table = Table.of_rows("Hashes", header, rows, where=Where.PAGE, is_open=True)
    return Fold(one.checkpoint.label, [table])


Model = str | Path | HookedModel


def sweep(
    models: Model | Sequence[Model] | Mapping[str, Model],
    batches: Batches | Callable[[HookedModel], Batches],
    *,
    revisions: Sequence[str] = (),
    out: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **settings: Any,
) -> Trajectory:
    """Measure entropies of several models or checkpoints, one loaded at a time.

    Args:
        models: a hub id with `revisions`, a run directory or a pattern of folders, whose
            checkpoints are taken by their steps; or several names, folders or hooked models, in
            order; or these by what to call them.
        batches: what `probes.measure_entropy` takes, gone through once for every model; or a
            function that makes them for a model, where tokenizers differ.
        revisions: of a hub id, or checkpoints of a run directory.
        out: a folder to keep every result in as soon as it is measured; a sweep that was stopped
            goes on there. None keeps results in memory alone.
        device: where to load models; None for the usual place.
        dtype: what to load them as; None for the usual type.
        **settings: further arguments of `probes.measure_entropy`: `kinds`, `coefficient`, ...

    Returns:
        The trajectory: `to_dataframe()`, `plot()`, `findings`, `save(directory)`.

    Raises:
        ValueError: there are no models, one stands twice, batches can be gone through only once,
            or the folder holds another sweep.

    Example:
        >>> found = analysis.sweep("runs/tiny", batches, kinds="knowledge")     # doctest: +SKIP
        >>> found.plot(), found.findings                                        # doctest: +SKIP
    """
    if isinstance(batches, Iterator):
        raise ValueError(
            "these batches can be gone through only once, and every model needs them; give a "
            "list, what probes.token_batches returns, or a function of the model"
        )
    if not callable(batches) and (wrong := some_batches(batches)):
        raise ValueError(f"sweep: batches is {wrong}")
    todo, given = _models(models, revisions)
    kept = None if out is None else Path(out)
    if kept is not None:
        plain = {name: v for name, v in settings.items() if name not in ("beside", "on_batch")}
        begin(kept, json.loads(json.dumps(plain, default=str)))

    def load(one: Checkpoint) -> HookedModel:
        model = given.get(one.label, one.model)
        if isinstance(model, HookedModel):
            return model
        how: dict[str, Any] = {"device": device, "dtype": dtype, "revision": one.revision}
        return load_model(str(model), **{name: v for name, v in how.items() if v is not None})

    def texts_for(model: HookedModel) -> Batches:
        return batches(model) if callable(batches) else batches

    measured = measure_checkpoints(
        todo,
        ["."],
        kept,
        load=load,
        measure=lambda _, model: [measure_entropy(model, texts_for(model), **settings)],
        origins=lambda model: [
            origin_of(model, corpus=getattr(texts_for(model), "content_hash", None))
        ],
    )
    return Trajectory(tuple(measured))


def _models(
    models: Model | Sequence[Model] | Mapping[str, Model], revisions: Sequence[str]
) -> tuple[list[Checkpoint], Mapping[str, Model]]:
    if isinstance(models, str | Path) and is_series(str(models), revisions):
        return checkpoints(str(models), revisions), {}
    if revisions:
        raise ValueError("revisions belong to one hub id or run directory; give that alone")
    if not isinstance(models, Mapping):
        several = [models] if isinstance(models, str | Path | HookedModel) else list(models)
        names = [one.name if isinstance(one, HookedModel) else Path(one).name for one in several]
        models = dict(zip(numbered(names), several, strict=True))
    if not models:
        raise ValueError("there are no models to measure; give at least one")
    todo = []
    for name, one in models.items():
        if not isinstance(one, str | Path | HookedModel):
            raise ValueError(f"sweep: model {name!r} is {shown(one)}; give a name or a model")
        step = step_of(name) if "step" in name else None
        where = one.name if isinstance(one, HookedModel) else str(one)
        todo.append(Checkpoint(where, None, name, step))
    if all(one.step is not None for one in todo):
        todo.sort(key=lambda one: one.step or 0)
    return todo, models
