"""Folders: which results lie in a folder, and the tables of measurements that are made from them.

A result is known by its files. What lies below a result belongs to it and is passed over, but for a
ledger, which is written beside the runs that it is about; so are checkpoints, models and what
begins with a dot. Runs that are not over are named, and read by nothing.

Entropies and correlations of updates (`PRETRAINING`, `UPDATES`) are of pretraining runs alone, a
seed each; checkpoints without a step are left out.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.checkpoints import MANIFEST, TABLE
from analysis.measurements import COLUMNS, SOURCE, Table, of_one_source_each, series_of
from analysis.memory_updates import MEASURES, NAME, update_table
from analysis.runs import Chain, TrainingRun, read_chain, read_run
from training.runs.directory import CHECKPOINTS_FOLDER, DONE_FILE, MANIFEST_FILE

_SWEEP, _MODEL = "sweep.json", "config.json"


@dataclass(frozen=True)
class Results:
    """Folders with results, by kind, in the order in which they were found.

    Stages of a REMIX run are not runs of their own; a sweep of entropies is over checkpoints, a
    result of one model and corpus; unfinished are runs and sweeps that are not over.
    """

    pretraining_runs: tuple[Path, ...] = ()
    ckl_runs: tuple[Path, ...] = ()
    remix_runs: tuple[Path, ...] = ()
    entropy_sweeps: tuple[Path, ...] = ()
    entropy_results: tuple[Path, ...] = ()
    lens_results: tuple[Path, ...] = ()
    edit_sweeps: tuple[Path, ...] = ()
    updates: tuple[Path, ...] = ()
    ledgers: tuple[Path, ...] = ()
    unfinished: tuple[Path, ...] = ()

    @cached_property
    def runs(self) -> tuple[TrainingRun, ...]:
        """Runs of continual knowledge learning, read once."""
        return tuple(map(read_run, self.ckl_runs))

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """Runs of continual memorization, read once."""
        return tuple(map(read_chain, self.remix_runs))


_COMMANDS = {
    "training.pretrain": "pretraining_runs",
    "training.ckl": "ckl_runs",
    "training.remix": "remix_runs",
}
_FILES = {
    "updates": ("updates.json", "checkpoints"),
    "edit_sweeps": ("edits.json", "edits"),
    "entropy_results": ("entropy.json", "knowledge_entropy"),
    "lens_results": ("lens.json", "items"),
    "ledgers": ("ledger.json", None),
}
"""The file of a kind, and what it has in it: other programs have files of these names, too."""


def find_results(paths: Sequence[Path]) -> Results:
    """All results in some folders, each of which is one or has some below it."""
    found: dict[str, dict[Path, Path]] = {field.name: {} for field in fields(Results)}
    for path in paths:
        folder = path.expanduser()
        if not folder.is_dir():
            raise ValueError(f"{path} is no folder; give a run, a result, or a folder with some")
        here = list(_below(folder))
        if not here:
            raise ValueError(
                f"{path} holds no result, neither itself nor below; give a folder that a training "
                "or analysis command has written"
            )
        for kind, place in here:
            found[kind].setdefault(place.resolve(), place)
    return Results(**{kind: tuple(places.values()) for kind, places in found.items()})


def tables_of(results: Results) -> dict[Table, pd.DataFrame]:
    """The tables of measurements that have rows."""
    # What reads one kind of result loads much that another does not need.
    tables: dict[Table, pd.DataFrame] = {}
    if results.entropy_sweeps or results.updates:
        tables[Table.PRETRAINING] = pretraining_table(results.entropy_sweeps)
    if results.ckl_runs:
        from analysis.run_rows import acquisition_table

        tables[Table.ACQUISITION] = acquisition_table(results.runs)
    if results.remix_runs:
        from analysis.run_rows import memorization_table

        tables[Table.MEMORIZATION] = memorization_table(results.chains)
    if results.updates:
        tables[Table.UPDATES] = updates_table(results.updates)
    return {table: rows for table, rows in tables.items() if len(rows)}


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    kind = _kind(folder)
    if kind is not None:
        yield kind, folder
    if kind not in (None, "ledgers") or (folder / _MODEL).is_file():
        return
    for inner in sorted(folder.iterdir()):
        skipped = inner.name.startswith(".") or inner.name == CHECKPOINTS_FOLDER
        if inner.is_dir() and not inner.is_symlink() and not skipped:
            yield from _below(inner)


def _kind(folder: Path) -> str | None:
    """The kind of a folder's result; None where it has none, and for a stage of a run."""
    manifest = _content(folder / MANIFEST_FILE) if (folder / MANIFEST_FILE).is_file() else {}
    kind = _COMMANDS.get(str(manifest.get("command")))
    if kind is not None and "stage" not in manifest.get("inputs", {}):
        return kind if (folder / DONE_FILE).is_file() else "unfinished"
    for kind, (name, content) in _FILES.items():
        if (folder / name).is_file() and (content is None or content in _content(folder / name)):
            return kind
    if not (folder / _SWEEP).is_file():
        return None
    return "entropy_sweeps" if (folder / "trajectory.csv").is_file() else "unfinished"


def _content(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no readable JSON; remove it, or make it again") from error
    return read if isinstance(read, dict) else {}


_ALIKE = ("layout", "sequence_length", "max_tokens", "max_documents", "weighting", "compat")
_ALIKE_UPDATES = (
    *("corpus", "column", "layout", "sequence_length", "batch_size", "batches"),
    *("betas", "eps"),
)
"""Settings that move numbers, and that no column has."""


def pretraining_table(sweeps: Sequence[Path]) -> pd.DataFrame:
    """Entropies in folders that `analysis.entropy --revisions` has written, in nats.

    Sweeps that are not over, were measured in different ways, or are of two runs of one seed are
    refused, and so is a value that is there twice.
    """
    read = {sweep: _sweep_settings(sweep) for sweep in sweeps}
    return _table(Table.PRETRAINING, read, _ALIKE, _entropies)


def updates_table(folders: Sequence[Path]) -> pd.DataFrame:
    """Correlations in folders that `analysis.memory_updates` has written; refused are the same."""
    read = {folder: _updates(folder) for folder in folders}
    settings = {f: {**one["configuration"], "model": one["model"]} for f, one in read.items()}

    def rows(folder: Path) -> pd.DataFrame:
        wide = update_table(read[folder]["checkpoints"])
        return wide.melt(["step", "layer"], list(MEASURES), var_name="measure").dropna()

    return _table(Table.UPDATES, settings, _ALIKE_UPDATES, rows)


def _table(
    table: Table,
    read: Mapping[Path, Mapping[str, Any]],
    alike: Sequence[str],
    rows: Callable[[Path], pd.DataFrame],
) -> pd.DataFrame:
    """The rows of results of pretraining, whose settings are alike."""
    series = {result: series_of(settings["model"]) for result, settings in read.items()}
    kept = [result for result in read if series[result].is_pretraining]
    names: dict[int, Path] = {}
    for result in kept:
        wanted, found = read[kept[0]], read[result]
        if changed := [name for name in alike if found.get(name) != wanted.get(name)]:
            name = changed[0]
            raise ValueError(
                f"{kept[0]} and {result} were measured with {name} {wanted.get(name)!r} and "
                f"{found.get(name)!r}; give results with the same settings"
            )
        ours, other = series[result], names.setdefault(series[result].seed, result)
        if series[other].name != ours.name:
            raise ValueError(
                f"{other} is of {series[other].name} and {result} of {ours.name}, both with seed "
                f"{ours.seed}; give results of one model, a seed for each run"
            )
    columns = list(COLUMNS[table])
    if not kept:
        return pd.DataFrame(columns=columns)
    parts = [rows(one).assign(seed=series[one].seed, **{SOURCE: str(one)}) for one in kept]
    return of_one_source_each(table, pd.concat(parts, ignore_index=True))[columns]


def _sweep_settings(sweep: Path) -> Mapping[str, Any]:
    for name in (MANIFEST, TABLE):
        if not (sweep / name).is_file():
            raise ValueError(
                f"{sweep} holds no finished sweep, found no {name}; run analysis.entropy there, "
                "or again with the same arguments where it was stopped"
            )
    return json.loads((sweep / MANIFEST).read_text(encoding="utf-8"))


def _entropies(sweep: Path) -> pd.DataFrame:
    found = pd.read_csv(sweep / TABLE, dtype={"step": "Int64", "layer": "Int64", "corpus": str})
    return found.rename(columns={"entropy": "value"}).dropna(subset=["step", "value"])


def _updates(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no finished measurement of updates ({type(error).__name__} at "
            f"{NAME}.json); run analysis.memory_updates there"
        ) from error
