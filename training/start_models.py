"""The base of a run: what `--model` means, and which run it comes from.

A run directory stands for its last checkpoint, or for the one that a revision names. Of a
checkpoint inside a run it is known which facts the run was asked about
(`items/cloze.jsonl`), so that a later run can ask again.

Example:
    >>> find_start("smollm2-135m-instruct-q4").run is None
    True
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import probes
from probes.assets.fetching import is_here
from probes.assets.table import asset_names
from probes.hooked_model import HookedModel
from probes.prompts import set_bos_habit
from training.recipes import TINY_RUN
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER, MANIFEST_FILE
from training.runs.records import ITEMS_FOLDER

CLOZE = "cloze"
"""The list of items that a pretraining run writes about its facts."""


@dataclass(frozen=True)
class Start:
    """A model to be loaded, and the run directory that it comes from, where it does."""

    model: str
    revision: str | None = None
    run: Path | None = None

    def load(self, config: Any) -> HookedModel:
        """The model in float32, on the device and with the BOS habit of a configuration."""
        found = probes.load_model(
            self.model, revision=self.revision, device=config.device, dtype="float32"
        )
        set_bos_habit(found.tokenizer, config.prepend_bos)
        return found

    @property
    def cloze(self) -> Path | None:
        """The facts that the run was asked about, where it was."""
        path = None if self.run is None else self.run / ITEMS_FOLDER / f"{CLOZE}.jsonl"
        return path if path is not None and path.is_file() else None


def find_start(model: str, revision: str | None = None) -> Start:
    """What to load."""
    path = Path(model).expanduser()
    if not _is_run(path):
        parent = path.parent.parent
        inside = path.parent.name == CHECKPOINTS_FOLDER and _is_run(parent)
        return Start(model, revision, parent if inside else None)
    folders = {folder.name: folder for folder in checkpoint_folders(path / CHECKPOINTS_FOLDER)}
    if not folders:
        raise ValueError(f"the run {model} has no checkpoint yet; go on with it, with --resume")
    name = list(folders)[-1] if revision is None else revision
    if name not in folders:
        raise ValueError(
            f"the run {model} has no checkpoint {revision!r}; it has {', '.join(folders)}"
        )
    return Start(str(folders[name]), None, path)


def find_base(model: str, revision: str | None) -> Start:
    """What to load for a training command, whose smoke recipe names a run that is made first."""
    if model == TINY_RUN and not Path(TINY_RUN).exists():
        raise ValueError(
            f"there is no {TINY_RUN}; make it with python -m training.pretrain --recipe tiny "
            f"--out {TINY_RUN}, or give another --model"
        )
    return find_start(model, revision)


def why_not_here(model: str) -> str | None:
    """Why a model cannot be loaded without the hub, as a clause; None where it can."""
    if model in asset_names():
        return None if is_here(model) else f"the built-in model {model} is not fetched yet"
    here = Path(model).expanduser().exists()
    return None if here else f"the model {model} is not on this machine"


def _is_run(path: Path) -> bool:
    return (path / MANIFEST_FILE).is_file() and (path / CHECKPOINTS_FOLDER).is_dir()
