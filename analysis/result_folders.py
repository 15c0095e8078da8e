"""Folders: which results lie in a folder, and the tables of measurements that are made from them.

A result is known by its files. What lies below a result belongs to it and is passed over, but for a
ledger, which is written beside the runs that it is about; so are checkpoints, models and what
begins with a dot. Runs that are not over are named, and read by nothing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.measurements import Table
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
        from analysis.entropy_measures import pretraining_table, updates_table

        tables[Table.PRETRAINING] = pretraining_table(results.entropy_sweeps)
    if results.ckl_runs:
        from analysis.ckl_rows import acquisition_table

        tables[Table.ACQUISITION] = acquisition_table(results.runs)
    if results.remix_runs:
        from analysis.remix_rows import memorization_table

        tables[Table.MEMORIZATION] = memorization_table(results.chains)
    if results.updates:
        tables[Table.UPDATES] = updates_table(results.updates)
    return {table: rows for table, rows in tables.items() if len(rows)}


def _below(folder: Path) -> Iterator[tuple[str, Path]]:
    """A folder's result, or those below it."""
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
