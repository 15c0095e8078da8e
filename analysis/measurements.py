"""Measurements: the tables that reports, claims and the page read, and what is in their columns.

A table has a row for each value, with `measure`, `value` and `seed`; `cluster` names the passage,
question or fact that it belongs to, and is missing for a number of a whole run. The other columns
are settings: an effect is a difference between rows that agree in all of them but the ones that a
claim varies. A setting that does not apply is missing. Amounts of training (`AMOUNTS`) are no
settings, but rows that are compared have to agree in these too, unless a claim says otherwise.

`measurements.csv` says what each column means, what each table can have values of, and in which
unit. Two pretraining runs of one name with other weights are told apart by their folders.

Example:
    >>> sorted(COLUMNS[Table.PRETRAINING])
    ['corpus', 'layer', 'measure', 'seed', 'step', 'value']
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from math import prod
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from analysis.arms import edit_form
from analysis.runs import TrainingRun
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER, MANIFEST_FILE, read_manifest
from training.start_or_resume import Start, find_start

NONE = "(none)"  # what a missing setting is called in tables that were `checked`
SOURCE = "source"  # the column, in tables that are being made, that says which result a row is from


class Table(StrEnum):
    """Kinds of measurements."""

    PRETRAINING = "pretraining"
    ACQUISITION = "acquisition"
    MEMORIZATION = "memorization"
    UPDATES = "updates"


with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as _file:
    _DESCRIBED = list(csv.DictReader(_file))


def _described(table: Table, *kinds: str) -> dict[str, str]:
    rows = (row for row in _DESCRIBED if row["table"] == table and row["kind"] in kinds)
    return {row["name"]: row["meaning"] for row in rows}


COLUMNS = {table: _described(table, "column", "amount", "beside") for table in Table}
MEASURES = {table: _described(table, "measure") for table in Table}
"""What is in a column and what a measure is, by table and name."""
AMOUNTS, _BESIDE = (
    {table: tuple(_described(table, kind)) for table in Table} for kind in ("amount", "beside")
)
"""Columns that say how much a run was trained, by table."""
BY_ITEM = frozenset(row["name"] for row in _DESCRIBED if row["by_item"])
"""Measures that have a value for each passage, question or fact."""


def settings_of(table: Table) -> tuple[str, ...]:
    """The columns of a table that describe a row, `seed` and `cluster` among them."""
    others = ("measure", "value", *AMOUNTS[table], *_BESIDE[table])
    return tuple(name for name in COLUMNS[table] if name not in others)


def checked(table: Table, frame: pd.DataFrame, *, finite: bool = True) -> pd.DataFrame:
    """A table that claims can be tested on, with missing settings made `NONE`."""
    wanted = COLUMNS[table]
    missing = [name for name in wanted if name not in frame.columns]
    unknown = [str(name) for name in frame.columns if name not in wanted]
    if missing or unknown:
        raise ValueError(
            f"the table {table.value!r} lacks the columns {', '.join(missing) or 'none'} and has "
            f"the unknown ones {', '.join(unknown) or 'none'}; give {', '.join(wanted)}"
        )
    others = sorted(set(frame["measure"].astype(str)) - set(MEASURES[table]))
    if others:
        raise ValueError(
            f"the table {table.value!r} has an unknown measure {others[0]!r}; choose from "
            f"{', '.join(MEASURES[table])}"
        )
    values = frame["value"].to_numpy(dtype=float)
    wrong = int((~np.isfinite(values)).sum()) if finite else 0
    if wrong or frame["seed"].isna().any():
        raise ValueError(
            f"the table {table.value!r} has {wrong} values that are not finite and "
            f"{int(frame['seed'].isna().sum())} rows without a seed; leave these out"
        )
    named = frame.reset_index(drop=True).astype({"value": float})
    for column in (*settings_of(table), *AMOUNTS[table]):
        kept = named[column].astype(object)
        named[column] = kept.where(named[column].notna(), NONE)
    return named


def of_one_source_each(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """A table without its `SOURCE`, if it has every value once."""
    keys = [*settings_of(table), "measure"]
    repeated = frame[frame.duplicated(keys, keep=False)]
    if len(repeated):
        first = repeated.iloc[0]
        groups = repeated.groupby(keys, sort=False, dropna=False)[SOURCE]
        one, other, *_ = next(sources for _, sources in groups)
        raise ValueError(
            f"{one} and {other} both have {first['measure']!r} of seed {first['seed']} with the "
            f"same settings of the table {table.value!r}; give one of them"
        )
    return frame.drop(columns=SOURCE).reset_index(drop=True)


PRETRAINING_PROGRAM = "training.pretrain"
_WILDCARDS = re.compile(r"[*?[]")


class Novelty(StrEnum):
    """How a start knows the text that it is trained on."""

    NEW = "new"  # it was pretrained on other text
    FAMILIAR = "familiar"  # it was pretrained on such text


_BY_BEGINNING = {
    **{"general": Novelty.FAMILIAR, "c4": Novelty.FAMILIAR},
    **{"biomedical": Novelty.NEW, "pubmed": Novelty.NEW},
}
"""The built-in corpora, and those of Kim et al. (appendix B.1)."""


@dataclass(frozen=True)
class Series:
    """What checkpoints are of: a hub id or a run's folder, its seed and its command.

    Without a manifest the command is None and the seed N where the name ends in `-seedN`, else 0.
    """

    name: str
    seed: int
    command: str | None

    @property
    def is_pretraining(self) -> bool:
        """Whether their steps are steps of pretraining, as far as is known."""
        return self.command in (None, PRETRAINING_PROGRAM)


def series_of(model: str) -> Series:
    """What the checkpoints that a command was given are checkpoints of."""
    folder = Path(model).expanduser()
    if _WILDCARDS.search(folder.name) is not None or folder.parent.name == CHECKPOINTS_FOLDER:
        folder = folder.parent
    if folder.name == CHECKPOINTS_FOLDER:
        folder = folder.parent
    if (folder / MANIFEST_FILE).is_file():
        manifest = read_manifest(folder)
        seed = int(manifest["configuration"]["seed"])
        return Series(folder.resolve().name, seed, manifest.get("command"))
    is_local = folder != Path(model).expanduser() or folder.is_dir()
    name = folder.name if is_local else model
    numbered = re.search(r"-seed(\d+)$", name)
    return Series(name, int(numbered[1]) if numbered else 0, None)


def edit_settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a run that say how its start was edited."""
    ratio, control = configuration["resuscitation_ratio"], configuration["control"]
    has_site = ratio is not None and control is None
    # Edits of one's own are no edit of the papers, and runs of them not unedited.
    own = ", ".join(configuration["edit"]) or None
    return {
        "site": str(configuration["resuscitation_site"]) if has_site else None,
        "ratio": ratio,
        "factor": configuration["resuscitation_factor"],
        "control": own if control is None else str(control),
        "temperature": configuration["attention_temperature"],
        "edit_form": edit_form(configuration),
    }


def settings_of_runs(runs: Sequence[TrainingRun]) -> list[dict[str, Any]]:
    """The columns of `ACQUISITION` that describe each run; what does not apply is None."""
    return [
        {
            "trajectory": trajectory,
            "step": run.start.step,
            "parameters": _parameters(run),
            "novelty": _novelty(run),
            "batch_size": run.configuration["batch_size"],
            "learning_rate": run.configuration["learning_rate"],
            "interval": (interval := run.configuration["injection_interval"]),
            "interval_rows": interval * run.configuration["batch_size"],
            "epochs": run.configuration["epochs"],
            "seed": run.configuration["seed"],
            **edit_settings(run.configuration),
        }
        for run, trajectory in zip(runs, _trajectories(runs), strict=True)
    ]


def _trajectories(runs: Sequence[TrainingRun]) -> list[str]:
    models = [run.configuration["model"] for run in runs]
    names = [series_of(model).name for model in models]
    weights: dict[tuple[str, int | None], set[str]] = {}
    for name, run in zip(names, runs, strict=True):
        weights.setdefault((name, run.start.step), set()).add(run.start.sha256)
    several = {name for (name, _), found in weights.items() if len(found) > 1}
    return [
        f"{_folder_of(model)}/{name}" if name in several else name
        for model, name in zip(models, names, strict=True)
    ]


def _folder_of(model: str) -> str:
    path = Path(model).expanduser().resolve()
    if path.parent.name == CHECKPOINTS_FOLDER:
        path = path.parent.parent
    return path.parent.name


def _novelty(run: TrainingRun) -> Novelty | None:
    """How the start knows the corpus, from its own pretraining where that is on this machine."""
    corpus, start = run.configuration["corpus"], _start_of(run)
    if start is not None and start.run is not None:
        manifest = read_manifest(start.run)
        is_pretraining = manifest.get("command") == PRETRAINING_PROGRAM
        if is_pretraining and corpus in manifest["configuration"]["corpus"]:
            return Novelty.FAMILIAR
    name = PurePath(corpus).name
    return next(
        (novelty for first, novelty in _BY_BEGINNING.items() if name.startswith(first)), None
    )


def _parameters(run: TrainingRun) -> int | None:
    start = _start_of(run)
    places = checkpoint_folders(run.path / CHECKPOINTS_FOLDER)[-1:]
    places += [] if start is None else [Path(start.model).expanduser()]
    files = (place.glob("*.safetensors") for place in places)
    return next((count for found in files if (count := sum(map(_stored_numbers, found)))), None)


def _start_of(run: TrainingRun) -> Start | None:
    try:
        return find_start(run.configuration["model"], run.configuration["revision"])
    except ValueError:
        return None


@cache
def _stored_numbers(file: Path) -> int:
    """Numbers in a file of weights."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as stored:
        return sum(prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118
