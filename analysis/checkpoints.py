"""Checkpoints of one training run, in order: revisions on the hub, folders, or a run directory.

Of a run directory revisions are the names of its checkpoints, `step-000160` say.

Example:
    >>> [c.step for c in checkpoints("EleutherAI/pythia-160m", ["step1000", "step8", "main"])]
    [8, 1000, None]
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from probes.cli import refuse_foreign
from probes.shown import json_text
from training.runs.records import write_whole

if TYPE_CHECKING:
    from probes.hooked_model import HookedModel
    from probes.results import Provenance

MANIFEST, TABLE = "sweep.json", "trajectory.csv"
"""Files of a folder with results of several checkpoints: its settings, and all entropies."""
_WILDCARDS = set("*?[")


@dataclass(frozen=True)
class Checkpoint:
    """One state of a model during training."""

    model: str
    revision: str | None
    label: str  # what tells it from the others: the revision, or the folder's name
    step: int | None  # the pretraining step in its label; None where there is none

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
    """So many checkpoints of a run directory, or of those named of a hub model, evenly spread."""
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
    """The checkpoints meant, by growing step; those without a step last, as they were given."""
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


_SHOWN = 12  # digits of a hash in a message

Origin: TypeAlias = Mapping[str, str | None]
"""What a result belongs to: hashes of weights and texts, type, device and versions."""


def plain_settings(arguments: Any, without: Collection[str]) -> dict[str, Any]:
    """The arguments of a command that its results depend on, as JSON has them."""
    kept = {name: value for name, value in asdict(arguments).items() if name not in without}
    return json.loads(json.dumps(kept, default=str))


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Start a sweep in a folder, or go on with the one that is there."""
    manifest = out / MANIFEST
    refuse_foreign(out, MANIFEST, "sweep")
    if manifest.is_file():
        before = json.loads(manifest.read_text(encoding="utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        # A sweep that failed before its first result binds nobody to its settings.
        if changed and any(path.is_dir() for path in out.glob("[!.]*")):
            name = changed[0]
            raise ValueError(
                f"--out {out} holds a sweep with {name} {before.get(name)!r}, not "
                f"{settings[name]!r}; give another folder, or the same settings to go on"
            )
        if not changed:
            return
    out.mkdir(parents=True, exist_ok=True)
    write_whole(manifest, json_text(settings, f"{manifest}", indent=2) + "\n")


def origin_of(model: "HookedModel", **texts: str | None) -> dict[str, str | None]:
    """What a result that is measured now would belong to."""
    from probes.results import provenance_of

    return _origin(provenance_of(model, {}, documents=0, rows=0, tokens=0), texts)


def origin_in(kept: "Provenance") -> dict[str, str | None]:
    """What a kept result belongs to that was measured on one corpus."""
    return _origin(kept, {"corpus": kept.corpus_sha256})


def _origin(known: "Provenance", texts: Origin) -> dict[str, str | None]:
    hardware = {"weights": known.weights_sha256, "dtype": known.dtype, "device": known.device}
    return {**hardware, **texts, **known.versions}


def refuse_another(path: Path, before: Origin, now: Origin) -> None:
    """Refuse a kept result that belongs to something else."""
    for name in {**now, **before}:
        if (then := before.get(name)) != (today := now.get(name)):
            raise ValueError(
                f"{path} was measured with {name.replace('_', ' ')} {str(then)[:_SHOWN]}, now it "
                f"is {str(today)[:_SHOWN]}; give another --out, or remove it to measure again"
            )
