"""The folder of a chain of stages: what it is, and how its stages ended.

    manifest.json             configuration and inputs of the whole; written before anything else
    stage-A/                  a run directory (`training.runs.directory`), and
    stage-A/outcome.json      how the stage ended
    stage-B/ ...
    done.json                 the outcomes; there when the last stage has come to its end

Each file is there whole or not at all. `training.stages` runs the stages.

Example:
    >>> read_outcome(Path("runs/remix/stage-A")).sentence                     # doctest: +SKIP
    'stage A: rule fulfilled: exact match of A of 1 or more, after 320 steps'
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.commands.fields import NOT_DECISIVE
from training.commands.recipes import as_json
from training.runs.directory import (
    CHECKPOINTS_FOLDER,
    DONE_FILE,
    MANIFEST_FILE,
    read_manifest,
    refuse_other_inputs,
)
from training.runs.durable_files import one_line_for_disk_errors, write_whole
from training.runs.manifest import run_manifest
from training.stage_choices import StageStatus

OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended."""

    name: str
    status: StageStatus
    steps: int
    """Updates."""
    reason: str
    """What its rule said, or what was missing; empty where there is no rule."""
    checkpoint: Path
    """Where its last weights are."""

    @property
    def folder(self) -> Path:
        """Of the stage."""
        return self.checkpoint.parents[1]

    @property
    def sentence(self) -> str:
        """It as one line."""
        missing = "before " if self.status is StageStatus.CAP_REACHED else ""
        reason = f" {missing}{self.reason}" if missing else f": {self.reason}" * bool(self.reason)
        return f"stage {self.name}: {self.status}{reason}, after {self.steps:,} steps"


@dataclass(frozen=True)
class ChainResult:
    """How a chain, or a piece of one, ended."""

    outcomes: tuple[StageOutcome, ...]
    """Of the stages that are over."""
    unfinished: tuple[str, int] | None = None
    """Name and steps of a stage that the time limit has interrupted."""

    @property
    def finished(self) -> bool:
        """Whether the last stage is over."""
        return self.unfinished is None


@dataclass(frozen=True, kw_only=True)
class ChainIdentity:
    """What a chain is: the manifests are made from it.

    Attributes:
        command: that runs it.
        recipe: whose settings were the defaults.
        configuration: every setting, a dataclass with the fields of `LoopFields`.
        inputs: hashes and counts of what all stages share.
    """

    command: str
    recipe: str
    configuration: Any
    inputs: Mapping[str, Any]

    def manifest(self, **inputs: Any) -> dict[str, Any]:
        """What goes into a manifest."""
        everything = {**self.inputs, **inputs}
        return run_manifest(self.command, self.recipe, self.configuration, everything)


def stage_folder(out: Path, name: str) -> Path:
    """Where a stage of a chain is."""
    return out / f"stage-{name}"


def read_outcome(folder: Path) -> StageOutcome:
    """How a stage ended.

    Args:
        folder: of the stage.

    Raises:
        ValueError: it is not over, or the folder holds no stage.
    """
    path = folder / OUTCOME_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no stage that is over; give the folder of a finished stage, or go on "
            "with its run, with --resume"
        )
    return _restored(folder, json.loads(path.read_text(encoding="utf-8")))


def finished_chain(out: Path, identity: ChainIdentity) -> ChainResult | None:
    """How a chain ended that is over; None where it is not, or is not there.

    Args:
        out: its folder.
        identity: what it should be.

    Raises:
        ValueError: the folder holds a finished chain of other settings, weights or texts.
    """
    if not (out / DONE_FILE).is_file():
        return None
    _refuse_another(out, identity)
    done = json.loads((out / DONE_FILE).read_text(encoding="utf-8"))
    found = [_restored(out / stored.pop("folder"), stored) for stored in done["stages"]]
    return ChainResult(tuple(found))


def begin_chain(out: Path, identity: ChainIdentity, resume: bool) -> None:
    """Write the manifest of a chain, or see that the one there is the same.

    Args:
        out: its folder.
        identity: what it is.
        resume: whether to go on with what is there.

    Raises:
        ValueError: the folder holds another chain, or something else, or cannot be written to.
    """
    if resume and (out / MANIFEST_FILE).is_file():
        _refuse_another(out, identity)
        return
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder, which need not exist")
    if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise ValueError(f"{out} is not empty, and is not to be gone on with; give another folder")
    with one_line_for_disk_errors(f"making {out}"):
        out.mkdir(parents=True, exist_ok=True)
    _write(out / MANIFEST_FILE, identity.manifest())


def _refuse_another(out: Path, identity: ChainIdentity) -> None:
    refuse_other_settings(out, identity.configuration)
    refuse_other_inputs(out, json.loads(json.dumps(identity.manifest())))


def refuse_other_settings(out: Path, configuration: Any) -> None:
    """Refuse a folder whose chain has other settings, before anything is loaded.

    Args:
        out: its folder.
        configuration: what it should be.

    Raises:
        ValueError: it holds no chain, or one of other settings.
    """
    stored = read_manifest(out)["configuration"]
    asked = json.loads(json.dumps(as_json(configuration)))
    for name, value in asked.items():
        if name not in NOT_DECISIVE and stored.get(name) != value:
            raise ValueError(
                f"{out} holds a run with another {name}: {json.dumps(stored.get(name))} there, "
                f"{json.dumps(value)} asked for; give the settings that it was begun with, or "
                "another folder"
            )


def write_outcome(outcome: StageOutcome) -> None:
    """Write down how a stage ended, in its folder.

    Raises:
        ValueError: that cannot be written to.
    """
    _write(outcome.folder / OUTCOME_FILE, _plain(outcome))


def finish_chain(out: Path, outcomes: Sequence[StageOutcome]) -> None:
    """Say that a chain has come to its end.

    Args:
        out: its folder.
        outcomes: of all stages.

    Raises:
        ValueError: that cannot be written to.
    """
    _write(out / DONE_FILE, {"stages": [_located(outcome, out) for outcome in outcomes]})


def _plain(outcome: StageOutcome) -> dict[str, Any]:
    return {**asdict(outcome), "checkpoint": outcome.checkpoint.name}


def _located(outcome: StageOutcome, out: Path) -> dict[str, Any]:
    """An outcome with its folder, as seen from the chain's where it is inside that."""
    folder = outcome.folder
    inside = folder.relative_to(out) if folder.is_relative_to(out) else folder.resolve()
    return {**_plain(outcome), "folder": str(inside)}


def _restored(folder: Path, stored: Mapping[str, Any]) -> StageOutcome:
    return StageOutcome(
        stored["name"],
        StageStatus(stored["status"]),
        stored["steps"],
        stored["reason"],
        folder / CHECKPOINTS_FOLDER / stored["checkpoint"],
    )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with one_line_for_disk_errors(f"writing {path}"):
        write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
