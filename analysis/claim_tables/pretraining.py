"""The table `PRETRAINING`: entropies of checkpoints, from sweeps of `analysis.entropy`.

Each sweep is of one pretraining run (`analysis.claim_tables.settings` says which seed it has);
sweeps of one run may be over different corpora. Checkpoints without a step, and sweeps over
checkpoints of other training than pretraining, are left out. Entropies are in nats.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claim_tables.settings import SOURCE, of_one_source_each, refuse_unlike, series_of
from analysis.claims.measurements import COLUMNS, Table
from analysis.entropy.trajectory import MANIFEST, TABLE
from analysis.memory_updates.command import NAME
from analysis.memory_updates.report import MEASURES, update_table

_ALIKE = ("layout", "sequence_length", "max_tokens", "max_documents", "weighting", "compat")
"""Settings that move entropies, and that no column tells."""


def pretraining_table(sweeps: Sequence[Path]) -> pd.DataFrame:
    """Entropies of checkpoints, a row for each, in nats.

    Args:
        sweeps: folders that `analysis.entropy --revisions` has written.

    Returns:
        The columns of `Table.PRETRAINING`; `layer` is missing for numbers of a model.

    Raises:
        ValueError: a folder holds no finished sweep, two sweeps were measured in different ways or
            are of two runs of one seed, or a value is there twice.
    """
    read = {sweep: _settings(sweep) for sweep in sweeps}
    settings = {s: told for s, told in read.items() if series_of(told["model"]).is_pretraining}
    refuse_unlike(settings, _ALIKE)
    columns = list(COLUMNS[Table.PRETRAINING])
    if not settings:
        return pd.DataFrame(columns=columns)
    found = pd.concat([_rows(*one) for one in settings.items()], ignore_index=True)
    return of_one_source_each(Table.PRETRAINING, found)[columns]


def _settings(sweep: Path) -> Mapping[str, Any]:
    for name in (MANIFEST, TABLE):
        if not (sweep / name).is_file():
            raise ValueError(
                f"{sweep} holds no finished sweep, found no {name}; run analysis.entropy there, "
                "or again with the same arguments where it was stopped"
            )
    return json.loads((sweep / MANIFEST).read_text(encoding="utf-8"))


def _rows(sweep: Path, settings: Mapping[str, Any]) -> pd.DataFrame:
    kept = pd.read_csv(sweep / TABLE, dtype={"step": "Int64", "layer": "Int64", "corpus": str})
    kept = kept.rename(columns={"entropy": "value"}).dropna(subset=["step", "value"])
    return kept.assign(seed=series_of(settings["model"]).seed, **{SOURCE: str(sweep)})


_ALIKE_UPDATES = (
    *("corpus", "column", "layout", "sequence_length", "batch_size", "batches"),
    *("betas", "eps"),
)
"""Settings that move correlations, and that no column tells."""


def updates_table(folders: Sequence[Path]) -> pd.DataFrame:
    """Rank correlations over the memory vectors of a layer, a row for each.

    Args:
        folders: that `analysis.memory_updates` has written.

    Returns:
        The columns of `Table.UPDATES`.

    Raises:
        ValueError: a folder holds no such result, two were measured in different ways or are of two
            runs of one seed, or a value is there twice.
    """
    read = {folder: _read(folder) for folder in folders}
    kept = {f: one for f, one in read.items() if series_of(one["model"]).is_pretraining}
    refuse_unlike({folder: one["configuration"] for folder, one in kept.items()}, _ALIKE_UPDATES)
    columns = list(COLUMNS[Table.UPDATES])
    if not kept:
        return pd.DataFrame(columns=columns)
    found = pd.concat([_update_rows(*one) for one in kept.items()], ignore_index=True)
    return of_one_source_each(Table.UPDATES, found)[columns]


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no finished measurement of updates ({type(error).__name__} at "
            f"{NAME}.json); run analysis.memory_updates there"
        ) from error


def _update_rows(folder: Path, read: Mapping[str, Any]) -> pd.DataFrame:
    wide = update_table(read["checkpoints"])
    long = wide.melt(["step", "layer"], list(MEASURES), var_name="measure").dropna()
    return long.assign(seed=series_of(read["model"]).seed, **{SOURCE: str(folder)})
