"""Stages: training runs one after the other, each from where the one before it ended.

A chain of stages A, B, C, ... is a folder with a run directory for each. A stage starts from the
last checkpoint of the one before, loaded anew. What it trains on is made when its turn comes, since
some of that depends on the model. A stage whose rule was not fulfilled within its steps ends with
the status "cap reached"; the next ones go on from there, unless all rules are required.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from interventions.edit_forms import Edit
from interventions.learning_rates import RowLearningRates
from probes.hooked_model import HookedModel
from training.batches import BatchSource
from training.choices import OptimizerStart, StageStatus, Tracker
from training.data.mixed_batches import MixedSource
from training.loop import TrainingResult, train
from training.observers import Observer
from training.processes import this_process
from training.runs.directory import (
    CHECKPOINTS_FOLDER,
    DONE_FILE,
    MANIFEST_FILE,
    RunDirectory,
    begin_folder,
    is_finished,
    opened_directory,
    refuse_other_inputs,
    run_manifest,
)
from training.runs.records import write_json
from training.settings import LoopSettings
from training.start_or_resume import Start
from training.stop_rules import Rule

OUTCOME_FILE = "outcome.json"


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended."""

    name: str
    status: StageStatus
    steps: int  # updates
    reason: str  # what its rule said, or what was missing; empty where there is no rule
    checkpoint: Path  # where its last weights are

    @property
    def folder(self) -> Path:
        return self.checkpoint.parents[1]

    @property
    def sentence(self) -> str:
        missing = "before " if self.status is StageStatus.CAP_REACHED else ""
        reason = f" {missing}{self.reason}" if missing else f": {self.reason}" * bool(self.reason)
        return f"stage {self.name}: {self.status}{reason}, after {self.steps:,} steps"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "checkpoint": self.checkpoint.name}

    @classmethod
    def from_json(cls, folder: Path, stored: Mapping[str, Any]) -> "StageOutcome":
        checkpoint = folder / CHECKPOINTS_FOLDER / stored["checkpoint"]
        status = StageStatus(stored["status"])
        return cls(stored["name"], status, stored["steps"], stored["reason"], checkpoint)


@dataclass(frozen=True)
class ChainResult:
    """How a chain, or a piece of one, ended."""

    outcomes: tuple[StageOutcome, ...]  # of the stages that are over
    unfinished: tuple[str, int] | None = None
    """Name and steps of a stage that the time limit has interrupted."""


@dataclass(frozen=True, kw_only=True)
class ChainIdentity:
    """What a chain is: the manifests are made from it."""

    command: str
    recipe: str
    configuration: Any  # every setting, a dataclass with the fields of `LoopFields`
    inputs: Mapping[str, Any]  # hashes and counts of what all stages share

    def manifest(self, **inputs: Any) -> dict[str, Any]:
        everything = {**self.inputs, **inputs}
        return run_manifest(self.command, self.recipe, self.configuration, everything)


def stage_folder(out: Path, name: str) -> Path:
    """The folder of a stage of a chain."""
    return out / f"stage-{name}"


def read_outcome(folder: Path) -> StageOutcome:
    """How a stage ended."""
    path = folder / OUTCOME_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no stage that is over; give the folder of a finished stage, or go on "
            "with its run, with --resume"
        )
    return StageOutcome.from_json(folder, json.loads(path.read_text(encoding="utf-8")))


def finished_chain(out: Path, identity: ChainIdentity) -> ChainResult | None:
    """How a chain ended that is over; None where it is not, or is not there."""
    if not (out / DONE_FILE).is_file():
        return None
    refuse_other_inputs(out, identity.manifest())
    done = json.loads((out / DONE_FILE).read_text(encoding="utf-8"))
    found = (StageOutcome.from_json(out / stored["folder"], stored) for stored in done["stages"])
    return ChainResult(tuple(found))


def _finish_chain(out: Path, outcomes: Sequence[StageOutcome]) -> None:
    """Say that a chain has come to its end; folders are seen from its own where they are inside."""
    stages = []
    for outcome in outcomes:
        folder = outcome.folder
        inside = folder.relative_to(out) if folder.is_relative_to(out) else folder.resolve()
        stages.append({**outcome.as_json(), "folder": str(inside)})
    write_json(out / DONE_FILE, {"stages": stages})


@dataclass(frozen=True, kw_only=True)
class ReadyStage:
    """A stage whose turn has come."""

    source: BatchSource
    settings: LoopSettings  # its steps are the cap where there is a rule
    stop: Rule | None = None
    observers: Sequence[Observer] = ()
    edits: Sequence[Edit] = ()  # made by hooks for its length
    optimizer_edits: Sequence[RowLearningRates] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Hashes and counts of what goes in, for the manifest."""
    begin: Callable[[RunDirectory], None] | None = None
    """Called when its folder is there, before the model is edited."""
    edit: Callable[[], None] = lambda: None
    """Writes edits into the weights."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a chain."""

    name: str
    prepare: Callable[[HookedModel], ReadyStage]
    """Makes it ready, from the model that it starts from, which it leaves as it is."""
    optimizer: OptimizerStart = OptimizerStart.FRESH
    done_in: Path | None = None
    """Run directory of the same stage in another chain, to go on from instead of running it."""


def run_stages(
    stages: Sequence[Stage],
    out: Path,
    start: Start,
    identity: ChainIdentity,
    *,
    resume: bool = False,
    time_limit: float | None = None,
    require_reached: bool = False,
    track: Tracker | None = None,
    on_stage: Callable[[str, ReadyStage], None] | None = None,
    at_end: Callable[[Path], None] | None = None,
) -> ChainResult:
    """Run stages one after the other, and write down how each ended.

    Args:
        stages: in order.
        out: folder of the chain.
        start: where the first one starts.
        identity: what the chain is.
        resume: go on with what is in the folder, if there is anything.
        time_limit: seconds after which to leave, to go on later; one update is made in any case.
        require_reached: end with an error after a stage whose rule was not fulfilled.
        track: a tracker that every stage is shown in too.
        on_stage: called when a stage is ready, before it is trained.
        at_end: called with the last checkpoint of the last stage, before the chain is over.

    Returns:
        How it ended.

    Raises:
        ValueError: the folder holds something else, a stage cannot be prepared or trained, or it
            did not get where it was required to.
    """
    began = time.monotonic()
    if this_process().is_first:
        if resume and (out / MANIFEST_FILE).is_file():
            refuse_other_inputs(out, identity.manifest())
        else:
            begin_folder(out, identity.manifest())
    outcomes: list[StageOutcome] = []
    has_trained = False
    for stage in stages:
        before = outcomes[-1].checkpoint if outcomes else None
        left = None if time_limit is None else max(time_limit - (time.monotonic() - began), 0.0)
        found = _finished(stage, out, identity, resume)
        if found is None:
            if has_trained and this_process().any_says(left == 0.0, torch.device("cpu")):
                return ChainResult(tuple(outcomes), (stage.name, 0))
            has_trained = True
            ended = _run(stage, out, start, before, identity, resume, left, track, on_stage)
            if isinstance(ended, TrainingResult):
                return ChainResult(tuple(outcomes), (stage.name, ended.steps_done))
            found = ended
        outcomes.append(found)
        if require_reached and found.status is StageStatus.CAP_REACHED:
            raise ValueError(
                f"{found.sentence}; give it more epochs or a weaker rule, or leave out "
                "--require-reached to go on from there"
            )
    if at_end is not None:
        at_end(outcomes[-1].checkpoint)
    if this_process().is_first:
        _finish_chain(out, outcomes)
    return ChainResult(tuple(outcomes))


def _finished(
    stage: Stage, out: Path, identity: ChainIdentity, resume: bool
) -> StageOutcome | None:
    """How a stage ended that is over already."""
    if stage.done_in is not None:
        return read_outcome(stage.done_in)
    folder = stage_folder(out, stage.name)
    is_over = (folder / OUTCOME_FILE).is_file() and is_finished(
        folder, identity.configuration, resume=resume
    )
    return read_outcome(folder) if is_over else None


def _run(
    stage: Stage,
    out: Path,
    start: Start,
    before: Path | None,
    identity: ChainIdentity,
    resume: bool,
    time_limit: float | None,
    track: Tracker | None,
    on_stage: Callable[[str, ReadyStage], None] | None,
) -> StageOutcome | TrainingResult:
    """Run a stage, or what is left of it; a result where it is not over yet."""
    model = (start if before is None else Start(str(before))).load(identity.configuration)
    ready = stage.prepare(model)
    manifest = identity.manifest(stage=stage.name, **ready.inputs)
    directory = opened_directory(stage_folder(out, stage.name), manifest, resume=resume)
    if on_stage is not None and this_process().is_first:
        on_stage(stage.name, ready)
    if ready.begin is not None:
        ready.begin(directory)
    ready.edit()
    result = train(
        model,
        ready.source,
        ready.settings,
        directory,
        edits=ready.edits,
        observers=ready.observers,
        stop=ready.stop,
        optimizer_edits=ready.optimizer_edits,
        start_state=before if stage.optimizer is OptimizerStart.KEPT else None,
        resume=resume,
        time_limit=time_limit,
        track=track,
    )
    if not result.finished:
        return result
    if isinstance(ready.source, MixedSource):
        ready.source.assert_complete(result.steps_done)
    status, reason = StageStatus.COMPLETE, ""
    if result.stop_reason is not None:
        status, reason = StageStatus.RULE_FULFILLED, result.stop_reason
    elif ready.stop is not None:
        status, reason = StageStatus.CAP_REACHED, ready.stop.shortfall()
    outcome = StageOutcome(stage.name, status, result.steps_done, reason, result.checkpoint)
    if this_process().is_first:
        write_json(outcome.folder / OUTCOME_FILE, outcome.as_json())
    this_process().wait_for_all()
    return outcome
