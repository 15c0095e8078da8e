"""Entropies of checkpoints and correlations of updates, as the tables `PRETRAINING` and `UPDATES`.

Each result is of one pretraining run (`analysis.run_settings` says which seed it has); results of
one run may be over different corpora. Checkpoints without a step, and checkpoints of other training
than pretraining, are left out. Entropies are in nats.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.checkpoints import MANIFEST, TABLE
from analysis.measurements import COLUMNS, SOURCE, Table, of_one_source_each
from analysis.memory_updates import MEASURES, NAME, update_table
from analysis.run_settings import series_of

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
