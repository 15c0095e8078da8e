"""Settings: what tells runs of continual knowledge learning apart in the table `ACQUISITION`.

- `trajectory` is the name of the pretraining run that the start is from, or a hub id. Two runs of
  that name with other weights at the same step are told apart by the folder that they lie in.
- `parameters` are counted in the weights of the run's last checkpoint, of its start where there is
  none; missing where neither is on this machine.
- `novelty` is that of the corpus trained on: familiar where the start was pretrained on it or its
  name begins with "general", new where it begins with "biomedical", otherwise missing.

Example:
    >>> settings_of_runs(runs)[0]["trajectory"]                              # doctest: +SKIP
    'tiny'
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from math import prod
from pathlib import Path, PurePath
from typing import Any

from analysis.ckl_report.starts import start_of
from analysis.claim_tables.edits import edit_settings
from analysis.claim_tables.sources import PRETRAINING_PROGRAM, series_of
from analysis.run_reading import TrainingRun
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER, read_manifest
from training.start_models import Start, find_start


class Novelty(StrEnum):
    """How a start knows the text that it is trained on."""

    NEW = "new"
    """It was pretrained on other text."""
    FAMILIAR = "familiar"
    """It was pretrained on such text."""


_BY_BEGINNING = {"general": Novelty.FAMILIAR, "biomedical": Novelty.NEW}
"""Of the built-in corpora."""


def settings_of_runs(
    runs: Sequence[TrainingRun], novelty: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The settings of each run that are columns of the table; what does not apply is None.

    Args:
        runs: of continual knowledge learning.
        novelty: of corpora, by the name that a run was given; instead of what is found.

    Raises:
        ValueError: a novelty is none.
    """
    given = {name: _novelty(name, value) for name, value in (novelty or {}).items()}
    return [
        {
            "trajectory": trajectory,
            "step": start_of(run).step,
            "parameters": _parameters(run),
            "novelty": given.get(run.configuration["corpus"], _found_novelty(run)),
            "batch_size": run.configuration["batch_size"],
            "learning_rate": run.configuration["learning_rate"],
            "interval": run.configuration["injection_interval"],
            "seed": run.configuration["seed"],
            **edit_settings(run.configuration),
        }
        for run, trajectory in zip(runs, _trajectories(runs), strict=True)
    ]


def _trajectories(runs: Sequence[TrainingRun]) -> list[str]:
    names = [series_of(run.configuration["model"]).name for run in runs]
    starts = [start_of(run) for run in runs]
    weights: dict[tuple[str, int | None], set[str]] = {}
    for name, start in zip(names, starts, strict=True):
        weights.setdefault((name, start.step), set()).add(start.sha256)
    several = {name for (name, _), found in weights.items() if len(found) > 1}
    return [
        f"{_folder_of(run.configuration['model'])}/{name}" if name in several else name
        for run, name in zip(runs, names, strict=True)
    ]


def _folder_of(model: str) -> str:
    """The folder that a pretraining run lies in."""
    path = Path(model).expanduser().resolve()
    if path.parent.name == CHECKPOINTS_FOLDER:
        path = path.parent.parent
    return path.parent.name


def _novelty(corpus: str, value: str) -> Novelty:
    try:
        return Novelty(value)
    except ValueError:
        raise ValueError(
            f"the novelty of {corpus!r} is {value!r}; choose from {', '.join(Novelty)}"
        ) from None


def _found_novelty(run: TrainingRun) -> Novelty | None:
    corpus = run.configuration["corpus"]
    if corpus in _pretrained_on(run.configuration["model"], run.configuration["revision"]):
        return Novelty.FAMILIAR
    name = PurePath(corpus).name
    found = (novelty for start, novelty in _BY_BEGINNING.items() if name.startswith(start))
    return next(found, None)


def _pretrained_on(model: str, revision: str | None) -> list[str]:
    """The corpora of the pretraining run that a start is from, where that is on this machine."""
    start = _start(model, revision)
    if start is None or start.run is None:
        return []
    manifest = read_manifest(start.run)
    is_pretraining = manifest.get("command") == PRETRAINING_PROGRAM
    return list(manifest["configuration"]["corpus"]) if is_pretraining else []


def _parameters(run: TrainingRun) -> int | None:
    folders = checkpoint_folders(run.path / CHECKPOINTS_FOLDER)
    start = _start(run.configuration["model"], run.configuration["revision"])
    places = [*folders[-1:], *([] if start is None else [Path(start.model).expanduser()])]
    return next((count for place in places if (count := _stored_numbers(place))), None)


def _start(model: str, revision: str | None) -> Start | None:
    try:
        return find_start(model, revision)
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
