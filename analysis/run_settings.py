"""Settings: what tells runs apart in tables of measurements.

- `trajectory` is the name of the pretraining run that the start is from, or a hub id. Two runs of
  that name with other weights at the same step are told apart by the folder that they lie in.
- `parameters` are counted in the weights of the run's last checkpoint, of its start where there is
  none; missing where neither is on this machine.
- `novelty` is that of the corpus trained on: familiar where the start was pretrained on it or its
  name begins with "general" or "c4", new where it begins with "biomedical" or "pubmed", otherwise
  missing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from math import prod
from pathlib import Path, PurePath
from typing import Any

from analysis.arms import edit_form
from analysis.runs import TrainingRun
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER, MANIFEST_FILE, read_manifest
from training.start_or_resume import Start, find_start

PRETRAINING_PROGRAM = "training.pretrain"
_WILDCARDS = re.compile(r"[*?[]")


class Novelty(StrEnum):
    """How a start knows the text that it is trained on."""

    NEW = "new"
    """It was pretrained on other text."""
    FAMILIAR = "familiar"
    """It was pretrained on such text."""


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
    """The folder that a pretraining run lies in."""
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
    return next((count for place in places if (count := _stored_numbers(place))), None)


def _start_of(run: TrainingRun) -> Start | None:
    try:
        return find_start(run.configuration["model"], run.configuration["revision"])
    except ValueError:
        return None


@cache
def _shapes(file: Path) -> tuple[tuple[int, ...], ...]:
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as stored:
        return tuple(tuple(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118


def _stored_numbers(folder: Path) -> int:
    """Numbers in the weights of a model's folder; 0 where there are none."""
    return sum(prod(shape) for file in folder.glob("*.safetensors") for shape in _shapes(file))
