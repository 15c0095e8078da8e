"""Checkpoints of one training run, in order: revisions on the hub, folders, or a run directory.

Of a run directory revisions are the names of its checkpoints, `step-000160` say.

Example:
    >>> [c.step for c in checkpoints("EleutherAI/pythia-160m", ["step1000", "step8", "main"])]
    [8, 1000, None]
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST, TABLE = "sweep.json", "trajectory.csv"
"""Files of a folder with results of several checkpoints: its settings, and all entropies."""
_WILDCARDS = set("*?[")


@dataclass(frozen=True)
class Checkpoint:
    """One state of a model during training."""

    model: str
    revision: str | None
    label: str
    """What tells it from the others: the revision, or the folder's name."""
    step: int | None
    """The pretraining step in its label; None where there is none."""

    @property
    def slug(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.-]+", "-", self.label).strip("-.") or "checkpoint"


@dataclass(frozen=True)
class Starts:
    """Checkpoints of one trajectory that runs begin from, by growing age, and the job of it."""

    model: str
    revisions: tuple[str | None, ...]
    parameters: int = 0
    job: Any = None  # an `analysis.jobs.Job`, where they are still to be made

    @property
    def needs(self) -> tuple[str, ...]:
        """The job that makes them, as other jobs need it."""
        return () if self.job is None else (self.job.name,)


def starts_along(
    model: str, revisions: Sequence[str], count: int, *, parameters: int = 0
) -> Starts:
    """So many checkpoints of a run directory, or of those named of a hub model, evenly spread.

    Raises:
        ValueError: there are fewer, or none that has a step.
    """
    if count < 1:
        raise ValueError(f"1 or more --checkpoints are needed, found {count}")
    if not revisions and not _is_run(Path(model)):
        raise ValueError(
            f"--trajectory {model} has no checkpoints; give the --out folder of "
            "training.pretrain, or name --revisions of a hub model"
        )
    labels = [found.label for found in checkpoints(model, revisions)]
    by_step = {step: name for name in labels if (step := step_of(name)) is not None}
    steps = evenly_spread(list(by_step), count)
    return Starts(model, tuple(by_step[step] for step in steps), parameters)


def evenly_spread(steps: Sequence[int], count: int) -> list[int]:
    """The steps that are nearest to equal parts of the way to the last one; 0 is left out."""
    left = sorted(step for step in steps if step > 0)
    if len(left) < count:
        raise ValueError(
            f"--checkpoints {count} was asked for, found {len(left)} after step 0; ask for fewer, "
            "or pretrain with more"
        )
    last, chosen = left[-1], []
    # From the end, so that the last checkpoint is always among them.
    for part in range(count, 0, -1):
        goal = last * part / count
        # Enough of the earlier ones must be left for the parts to come.
        nearest = min(left[part - 1 :], key=lambda step: abs(step - goal))
        chosen.append(nearest)
        left = left[: left.index(nearest)]
    return chosen[::-1]


def is_series(model: str, revisions: Sequence[str]) -> bool:
    """Whether what was asked for is several checkpoints: revisions, a pattern, or a run."""
    return bool(revisions) or bool(_WILDCARDS & set(model)) or _is_run(Path(model))


def checkpoints(model: str, revisions: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints meant, by growing step; those without a step last, as they were given.

    Args:
        model: a hub id, a run directory, or a pattern of folders.
        revisions: of a hub id or of a run; one may be several, with commas.

    Raises:
        ValueError: there are none, one stands twice, or revisions do not go with the model.
    """
    revisions = [name for part in revisions for name in part.split(",") if name]
    if revisions and _is_run(Path(model)):
        there = {path.name: path for path in _folders(model)}
        if missing := [name for name in revisions if name not in there]:
            raise ValueError(
                f"the run {model} has no checkpoint {missing[0]!r}; it has {', '.join(there)}"
            )
        found = [Checkpoint(str(there[name]), None, name, step_of(name)) for name in revisions]
    elif not revisions:
        found = [
            Checkpoint(str(path), None, path.name, step_of(path.name)) for path in _folders(model)
        ]
    elif is_series(model, ()) or Path(model).is_dir():
        raise ValueError(
            f"revisions belong to a hub id or a run directory, and --model {model!r} is neither; "
            "leave them out, or give a pattern of folders"
        )
    else:
        found = [Checkpoint(model, name, name, step_of(name)) for name in revisions]
    labels = [checkpoint.label for checkpoint in found]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise ValueError(f"{sorted(twice)[0]!r} stands twice among the checkpoints; name it once")
    return sorted(found, key=lambda c: (c.step is None, c.step or 0))


def step_of(label: str) -> int | None:
    """The step in a name such as `step3000`, `step-000160` or `step1000-tokens4B`."""
    match = re.search(r"step[-_]?(\d+)", label) or re.fullmatch(r"\D*(\d+)", label)
    return int(match[1]) if match else None


def unfinished(models: Iterable[str]) -> list[str]:
    """A sentence for every run that some folders are checkpoints of and that was never finished."""
    paths = [Path(model) for model in models]
    runs = dict.fromkeys(p.parent.parent for p in paths if p.parent.name == "checkpoints")
    return [
        f"The run {run.name} was never finished: its checkpoints end before its last step."
        for run in runs
        if (run / "manifest.json").is_file() and not (run / "done.json").is_file()
    ]


def _is_run(path: Path) -> bool:
    return (path / "checkpoints").is_dir() and not (path / "config.json").is_file()


def _folders(model: str) -> list[Path]:
    path = Path(model)
    pattern = path / "checkpoints" / "*" if _is_run(path) else path
    parent = Path(pattern.anchor) if pattern.is_absolute() else Path()
    relative = str(pattern.relative_to(parent))
    # A run that is being written has a hidden folder for what is not whole yet.
    found = sorted(
        p
        for p in parent.glob(relative)
        if (p / "config.json").is_file() and not p.name.startswith(".")
    )
    if not found:
        raise ValueError(
            f"{model!r} matches no folder with a config.json; give a pattern such as "
            "runs/a/checkpoints/*, quoted, or a run directory"
        )
    return found
