"""The table `UPDATES`: how updates of memory vectors follow coefficients, layer by layer.

Checkpoints without a step, layers without a correlation, and checkpoints of other training than
pretraining are left out.

Example:
    >>> updates_table([Path("runs/updates")])[["step", "layer", "value"]]    # doctest: +SKIP
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claim_tables.sources import SOURCE, of_one_source_each, refuse_unlike, series_of
from analysis.claims.measurements import COLUMNS, Table
from analysis.memory_updates.command import NAME
from analysis.memory_updates.report import MEASURES, update_table

_ALIKE = (
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
    refuse_unlike({folder: one["configuration"] for folder, one in kept.items()}, _ALIKE)
    columns = list(COLUMNS[Table.UPDATES])
    if not kept:
        return pd.DataFrame(columns=columns)
    found = pd.concat([_rows(*one) for one in kept.items()], ignore_index=True)
    return of_one_source_each(Table.UPDATES, found)[columns]


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} holds no finished measurement of updates ({type(error).__name__} at "
            f"{NAME}.json); run analysis.memory_updates there"
        ) from error


def _rows(folder: Path, read: Mapping[str, Any]) -> pd.DataFrame:
    wide = update_table(read["checkpoints"])
    long = wide.melt(["step", "layer"], list(MEASURES), var_name="measure").dropna()
    return long.assign(seed=series_of(read["model"]).seed, **{SOURCE: str(folder)})
