"""Sources: which pretraining run checkpoints are from, and which result a row is from.

Example:
    >>> series = series_of("EleutherAI/pythia-160m-seed3")
    >>> series.name, series.seed, series.command
    ('EleutherAI/pythia-160m-seed3', 3, None)
    >>> series_of("elsewhere/tiny/checkpoints/step-*").name
    'tiny'
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims.measurements import Table, settings_of
from training.runs.directory import CHECKPOINTS_FOLDER, MANIFEST_FILE, read_manifest

SOURCE = "source"
"""The column, in tables that are being made, that says which result a row is from."""
PRETRAINING_PROGRAM = "training.pretrain"
_WILDCARDS = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Series:
    """What checkpoints are checkpoints of.

    Attributes:
        name: the hub id, or the name of the run's folder.
        seed: of the run that made them: its manifest's, or N where the name ends in `-seedN`,
            else 0.
        command: that made them; None where no manifest says so.
    """

    name: str
    seed: int
    command: str | None

    @property
    def is_pretraining(self) -> bool:
        """Whether their steps are steps of pretraining, as far as is known."""
        return self.command in (None, PRETRAINING_PROGRAM)


def series_of(model: str) -> Series:
    """What the checkpoints that a command was given are checkpoints of.

    Args:
        model: hub id, a folder, a pattern of folders, or a run directory.
    """
    folder = Path(model).expanduser()
    is_pattern = _WILDCARDS.search(folder.name) is not None
    if is_pattern or folder.parent.name == CHECKPOINTS_FOLDER:
        folder = folder.parent
    if folder.name == CHECKPOINTS_FOLDER:
        folder = folder.parent
    if (folder / MANIFEST_FILE).is_file():
        manifest = read_manifest(folder)
        return Series(
            folder.resolve().name, int(manifest["configuration"]["seed"]), manifest.get("command")
        )
    is_local = folder != Path(model).expanduser() or folder.is_dir()
    name = folder.name if is_local else model
    numbered = re.search(r"-seed(\d+)$", name)
    return Series(name, int(numbered[1]) if numbered else 0, None)


def refuse_unlike(settings: Mapping[Path, Mapping[str, Any]], alike: Sequence[str]) -> None:
    """Refuse results whose values differ for other reasons than the columns of a table say.

    Args:
        settings: of each result, with the `model` that it was given.
        alike: settings that must be the same in all.

    Raises:
        ValueError: a setting differs, or two results are of different runs with the same seed.
    """
    names: dict[int, tuple[Path, str]] = {}
    for result, told in settings.items():
        first, wanted = next(iter(settings.items()))
        if changed := [name for name in alike if told.get(name) != wanted.get(name)]:
            name = changed[0]
            raise ValueError(
                f"{first} and {result} were measured with {name} {wanted.get(name)!r} and "
                f"{told.get(name)!r}; give results with the same settings"
            )
        series = series_of(told["model"])
        other, known = names.setdefault(series.seed, (result, series.name))
        if known != series.name:
            raise ValueError(
                f"{other} is of {known} and {result} of {series.name}, both with seed "
                f"{series.seed}; give results of one model, a seed for each run"
            )


def of_one_source_each(table: Table, frame: pd.DataFrame) -> pd.DataFrame:
    """A table without its `SOURCE`, if it has every value once.

    Args:
        table: which it is.
        frame: its rows, with `SOURCE`.

    Raises:
        ValueError: two rows differ in their value and source only.
    """
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
