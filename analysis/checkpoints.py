"""Checkpoints of one training run, in order: revisions on the hub, folders, or a run directory.

Of a run directory revisions are the names of its checkpoints, `step-000160` say.

Example:
    >>> [c.step for c in checkpoints("EleutherAI/pythia-160m", ["step1000", "step8", "main"])]
    [8, 1000, None]
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
