"""Folders: which results lie in a folder, and the tables that claims are tested on, from them.

A result is known by its files. What lies below a result belongs to it and is not looked at, but for
a ledger, which is written beside the runs that it is about; nor are checkpoints, models and what
begins with a dot. What is not over is told apart, and read by nothing.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims.measurements import Table
from analysis.runs import Chain, TrainingRun, read_chain, read_run
from training.runs.directory import CHECKPOINTS_FOLDER, DONE_FILE, MANIFEST_FILE

_SWEEP, _MODEL = "sweep.json", "config.json"


class Kind(StrEnum):
    """Kinds of results, by their fields in `Results`."""

    PRETRAINING_RUN = "pretraining_runs"
    CKL_RUN = "ckl_runs"
    REMIX_RUN = "remix_runs"
    ENTROPY_SWEEP = "entropy_sweeps"
    ENTROPY_RESULT = "entropy_results"
    LENS_RESULT = "lens_results"
    EDIT_SWEEP = "edit_sweeps"
    UPDATES = "updates"
    LEDGER = "ledgers"
    UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Results:
    """Folders with results, by kind, in the order in which they were found.

    Attributes:
        pretraining_runs: of `training.pretrain`.
        ckl_runs: of `training.ckl`.
        remix_runs: of `training.remix`; their stages are not runs of their own.
        entropy_sweeps: of `analysis.entropy`, over checkpoints.
        entropy_results: of `analysis.entropy`, over one model and corpus.
        lens_results: of `analysis.logit_lens`.
        edit_sweeps: of `analysis.edit_sweep`.
        updates: of `analysis.memory_updates`.
        ledgers: of `analysis.reproduce`.
        unfinished: runs and sweeps that are not over.
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
    "training.pretrain": Kind.PRETRAINING_RUN,
    "training.ckl": Kind.CKL_RUN,
    "training.remix": Kind.REMIX_RUN,
}
_FILES = {
    Kind.UPDATES: ("updates.json", "checkpoints"),
    Kind.EDIT_SWEEP: ("edits.json", "edits"),
    Kind.ENTROPY_RESULT: ("entropy.json", "knowledge_entropy"),
    Kind.LENS_RESULT: ("lens.json", "items"),
    Kind.LEDGER: ("ledger.json", None),
}
"""The file of a kind, and what it has in it: other programs have files of these names, too."""


def find_results(paths: Sequence[Path]) -> Results:
    """All results in some folders.

    Args:
        paths: folders, each a result itself or with results below it.

    Raises:
        ValueError: a path is no folder, or holds no result.
    """
    found: dict[Kind, dict[Path, Path]] = {kind: {} for kind in Kind}
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
    return Results(**{kind.value: tuple(places.values()) for kind, places in found.items()})


def tables_of(results: Results, *, located: int | None = None) -> dict[Table, pd.DataFrame]:
    """The tables that claims are tested on, of those that have rows.

    Args:
        results: from `find_results`.
        located: of how many facts of stage A to look up where in depth they are readable, which
            loads the models of all runs of `training.remix`; None for none.

    Raises:
        ValueError: a result cannot be read, was written by another version, or is there twice.
    """
    tables = {
        Table.PRETRAINING: _pretraining(results),
        Table.ACQUISITION: _acquisition(results),
        Table.MEMORIZATION: _memorization(results, located),
        Table.UPDATES: _updates(results),
    }
    return {table: rows for table, rows in tables.items() if rows is not None and len(rows)}


def _below(folder: Path) -> Iterator[tuple[Kind, Path]]:
    """A folder's result, or those below it."""
    kind = _kind(folder)
    if kind is not None:
        yield kind, folder
    if kind not in (None, Kind.LEDGER) or (folder / _MODEL).is_file():
        return
    for inner in sorted(folder.iterdir()):
        skipped = inner.name.startswith(".") or inner.name == CHECKPOINTS_FOLDER
        if inner.is_dir() and not inner.is_symlink() and not skipped:
            yield from _below(inner)


def _kind(folder: Path) -> Kind | None:
    if (kind := _kind_of_run(folder)) is not None:
        return kind
    for kind, (name, content) in _FILES.items():
        if (folder / name).is_file() and (content is None or content in _content(folder / name)):
            return kind
    if not (folder / _SWEEP).is_file():
        return None
    return Kind.ENTROPY_SWEEP if (folder / "trajectory.csv").is_file() else Kind.UNFINISHED


def _kind_of_run(folder: Path) -> Kind | None:
    """The kind of a run; None for another folder, and for a stage of a run."""
    if not (folder / MANIFEST_FILE).is_file():
        return None
    manifest = _content(folder / MANIFEST_FILE)
    kind = _COMMANDS.get(str(manifest.get("command")))
    if kind is None or "stage" in manifest.get("inputs", {}):
        return None
    return kind if (folder / DONE_FILE).is_file() else Kind.UNFINISHED


def _content(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no readable JSON; remove it, or make it again") from error
    return read if isinstance(read, dict) else {}


def _pretraining(results: Results) -> pd.DataFrame | None:
    from analysis.claim_tables.pretraining import pretraining_table

    return pretraining_table(results.entropy_sweeps)


def _acquisition(results: Results) -> pd.DataFrame | None:
    if not results.ckl_runs:
        return None
    from analysis.claim_tables.acquisition import acquisition_table

    return acquisition_table(results.runs)


def _memorization(results: Results, located: int | None) -> pd.DataFrame | None:
    if not results.remix_runs:
        return None
    from analysis.claim_tables.memorization import fact_depths, memorization_table

    depths = None if located is None else fact_depths(results.chains, located)
    return memorization_table(results.chains, depths=depths)


def _updates(results: Results) -> pd.DataFrame | None:
    from analysis.claim_tables.pretraining import updates_table

    return updates_table(results.updates)
