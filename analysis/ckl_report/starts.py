"""Starts: which model a run of continual knowledge learning began from, and how old it was.

Example:
    >>> start_named("runs/tiny/checkpoints/step-000025", None, "ab" * 32).label
    'tiny at step 25'
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from analysis.checkpoints import step_of
from analysis.run_reading import TrainingRun
from training.runs.directory import CHECKPOINTS_FOLDER
from training.start_models import find_start


@dataclass(frozen=True)
class Start:
    """A model that training began from.

    Attributes:
        model: its name, or its run's.
        step: the pretraining step of its checkpoint; None where that is not known.
        sha256: of its weights, before any edit.
    """

    model: str
    step: int | None
    sha256: str

    @property
    def short(self) -> str:
        """What tells it from other checkpoints of the same model."""
        return self.model if self.step is None else f"step {self.step:,}"

    @property
    def label(self) -> str:
        """Its full name."""
        return self.model if self.step is None else f"{self.model} at step {self.step:,}"


def start_of(run: TrainingRun) -> Start:
    """The start of a run."""
    configuration = run.configuration
    return start_named(
        configuration["model"], configuration["revision"], run.manifest["inputs"]["start_sha256"]
    )


def start_named(model: str, revision: str | None, sha256: str) -> Start:
    """The start that a configuration names.

    Args:
        model: as for `training.ckl`.
        revision: of it.
        sha256: of its weights.
    """
    path = PurePosixPath(model)
    if path.parent.name == CHECKPOINTS_FOLDER:
        return Start(path.parent.parent.name, step_of(path.name), sha256)
    name = path.name
    if revision is not None:
        return Start(name, step_of(revision), sha256)
    if step_of(path.name) is None and (last := _last_checkpoint(model)) is not None:
        return Start(name, step_of(last), sha256)
    return Start(name, None, sha256)


def _last_checkpoint(model: str) -> str | None:
    """What a run directory stands for, where it is still there."""
    try:
        found = find_start(model)
    except ValueError:
        return None
    return Path(found.model).name if found.run is not None else None
