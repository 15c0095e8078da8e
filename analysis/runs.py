"""Runs: what training commands wrote, each read once.

A `TrainingRun` is a run directory with its records as tables. A `Chain` is a run of continual
memorization: a folder for each of its stages, of which stage A may lie in another run, whose later
stages went another way. Both know the `Start` that they began from. A **moment** is when something
is compared: at the start, after a stage, and for runs that inject passages a `Moment`.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from analysis.checkpoints import step_of
from analysis.observations import (
    TRAINING,
    Observations,
    levels_table,
    observations_of,
    record_table,
    records_of_kind,
)
from probes.refusals import path as a_path
from probes.shown import Difference, Result, Shown, paired, require_kind, require_same
from training.remix_config import RELEARNING_FILE, RemixConfig
from training.runs.directory import CHECKPOINTS_FOLDER, DONE_FILE, MANIFEST_FILE, read_manifest
from training.runs.records import (
    BASELINE_FILE,
    InjectionRecord,
    RecallRecord,
    StepRecord,
    StopRecord,
    from_line,
    read_items,
    read_records,
    records_of,
)
from training.start_or_resume import find_start

CKL, REMIX = "training.ckl", "training.remix"  # commands
TOKENS = "tokens"  # the match of teacher forcing
_STEPS = ("step", "loss", "learning_rate", "gradient_norm", "trained_tokens")


class Moment(StrEnum):
    """When scores are compared; between the last two, "20 steps later" and the like."""

    UNEDITED = "unedited start"  # the start before it was edited
    START = "start"  # what training began from, edited or not
    INJECTED = "last injection"
    """Right after the update that the last encounter is part of: the papers' final score."""
    END = "end"  # after the last update


def after(stage: str) -> str:
    """The moment when a stage is over."""
    return f"after {stage}"


@dataclass(frozen=True)
class Start:
    """A model that training began from."""

    model: str  # its name, or its run's
    step: int | None  # the pretraining step of its checkpoint; None where that is not known
    sha256: str  # the hash of its weights, before any edit

    @property
    def short(self) -> str:
        """What tells it from other checkpoints of the same model."""
        return self.model if self.step is None else f"step {self.step:,}"

    @property
    def label(self) -> str:
        return self.model if self.step is None else f"{self.model} at {self.short}"


@dataclass(frozen=True, kw_only=True)
class Recorded(Result):
    """A folder that a training command wrote."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.resolve().name

    @property
    def configuration(self) -> Mapping[str, Any]:
        """Every setting."""
        return self.manifest["configuration"]

    @property
    def seed(self) -> int:
        """What its random draws come from."""
        return int(self.configuration["seed"])

    @cached_property
    def start(self) -> Start:
        """The model that it began from."""
        given = self.manifest["inputs"].get("model")
        if given is not None:  # of a script, which was given a model
            return Start(given["name"], step_of(given["revision"] or ""), given["sha256"])
        model, revision = (self.configuration[name] for name in ("model", "revision"))
        path = PurePosixPath(model)
        name, checkpoint = path.name, revision
        if path.parent.name == CHECKPOINTS_FOLDER:
            name, checkpoint = path.parent.parent.name, path.name
        elif revision is None and step_of(name) is None:
            # A run directory stands for its last checkpoint, where it is still there.
            with suppress(ValueError):
                found = find_start(model)
                checkpoint = None if found.run is None else Path(found.model).name
        step = None if checkpoint is None else step_of(checkpoint)
        return Start(name, step, str(self.manifest["inputs"]["start_sha256"]))

    def _facts(self) -> Mapping[str, Any]:
        words = {"command": self.manifest.get("command"), "seed": self.seed}
        return {"": self.name, **words, "base": self.start.label, **self._ended()}

    def _ended(self) -> Mapping[str, Any]:
        return {}

    def compare(self, other: "Recorded") -> "RunDifference":
        """The other less this, at every moment that both were looked at.

        Raises:
            ValueError: they are of other commands, were asked for other items, or share no number.
        """
        require_kind(self, other)
        commands = (one.manifest.get("command") for one in (self, other))
        require_same("command", commands, "compare runs of one command")
        for name, asked in self._items().items():
            if name in (theirs := other._items()) and asked != theirs[name]:
                raise ValueError(
                    f"the two were asked for other items under the name {name!r}, so their scores "
                    "cannot be compared; compare runs of one set of items"
                )
        names = (self.name, other.name)
        if names[0] == names[1]:
            names = (f"{self.path.parent.name}/{names[0]}", f"{other.path.parent.name}/{names[1]}")
        numbers = paired(self.to_dataframe(), other.to_dataframe(), "runs")
        return RunDifference(self, other, names, numbers)

    def _items(self) -> Mapping[str, Any]:
        return {}

    def require_settings(self, kind: type[Any]) -> None:
        """Refuse a run whose configuration lacks settings that a kind of configuration has.

        Raises:
            ValueError: it lacks one.
        """
        wanted = {field.name for field in fields(kind)} - {"device", "resume_every"}
        if missing := wanted - set(self.configuration):
            raise ValueError(
                f"{self.path} was written by another version, found no setting "
                f"{sorted(missing)[0]!r}; report it with the version that wrote it"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Recorded, Observations):
    """A run directory, read."""

    steps: pd.DataFrame
    """Every update: `step`, `loss`, `learning_rate`, `gradient_norm`, `trained_tokens`."""
    injections: pd.DataFrame
    """Every encounter: `step`, the updates before it, and `passage`."""
    unedited: Observations | None
    """What the start scored before it was edited; None where it was not."""
    stopped: str | None
    """Why it ended before its last step; None where it did not."""
    summary: Mapping[str, Any] | None
    """How it ended; None where it has not."""

    def _items(self) -> Mapping[str, Any]:
        return {name: scores.items.astype(str).to_dict() for name, scores in self.scores.items()}

    @property
    def last_step(self) -> int:
        """Updates done."""
        return int(self.steps["step"].max()) if len(self.steps) else 0

    def _ended(self) -> Mapping[str, Any]:
        wanted = self.configuration.get("steps")
        steps = f"{self.last_step:,}{f' of {wanted:,}' if wanted else ''}"
        state = "never finished" if self.summary is None else self.stopped or "finished"
        loss = float(self.steps["loss"].iloc[-1]) if len(self.steps) else None
        return {"steps": steps, "state": state, "last loss": loss}

    def to_dataframe(self) -> pd.DataFrame:
        """One row per step and measure: `step`, `group`, `measure`, `value`; the loss of every
        update, and whatever was evaluated.
        """
        columns = {"group": TRAINING, "measure": "loss", "value": self.steps["loss"]}
        losses = pd.DataFrame({"step": self.steps["step"], **columns})
        return pd.concat([losses, levels_table(self)], ignore_index=True)

    def plot(self, measure: str = "loss") -> Any:
        """One measure of `to_dataframe()` over steps (a `plotly` Figure)."""
        return self._drawn(measure=measure)

    def require_finished(self) -> None:
        """Refuse a run that is not over.

        Raises:
            ValueError: it is not.
        """
        if self.summary is None:
            wanted = self.configuration.get("steps")
            of = f" of {wanted}" if wanted else ""
            raise ValueError(
                f"the run {self.path} is not over, found {self.last_step}{of} steps; go on with "
                "it, with --resume"
            )


class RunDifference(Difference):
    """Two runs of one command: see `TrainingRun.compare`."""

    def plot(self, measure: str = "loss") -> Any:
        """One measure of both runs over steps (a `plotly` Figure); of chains, `"correct"`."""
        return self._drawn(measure=measure)


def read_run(directory: str | Path) -> TrainingRun:
    """Read a run directory; the run need not be over.

    Args:
        directory: what a training command wrote.

    Raises:
        ValueError: it holds no run, no records yet, or records that do not go together.
    """
    path = _folder(directory, "a training command")
    records = list(read_records(path))
    if not records:
        raise ValueError(f"the run {directory} has no records yet; let it train first")
    done = path / DONE_FILE
    return TrainingRun(
        path=path,
        manifest=read_manifest(path),
        steps=record_table(records, StepRecord, _STEPS),
        injections=pd.DataFrame(
            [(r.step, p) for r in records_of_kind(records, InjectionRecord) for p in r.passages],
            columns=["step", "passage"],
        ),
        unedited=_baseline(path),
        stopped=next((record.reason for record in records_of_kind(records, StopRecord)), None),
        summary=json.loads(done.read_text(encoding="utf-8")) if done.is_file() else None,
        **observations_of(path, records),
    )


def _baseline(path: Path) -> Observations | None:
    file = path / BASELINE_FILE
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8").splitlines()
    return Observations(**observations_of(path, [from_line(line) for line in lines]))


class Answers(NamedTuple):
    """Answers to one list of items: rows are steps, columns are items."""

    correct: pd.DataFrame  # 1 where the answer is right, 0 where it is not
    log_probs: pd.DataFrame | None  # in nats; None where they were not asked for


@dataclass(frozen=True)
class StageRun(Shown):
    """A stage of a chain."""

    name: str  # its letter
    run: TrainingRun  # what it recorded
    outcome: Mapping[str, Any]  # how it ended: `status`, `steps`, `reason`
    shared: bool  # whether it is a stage of another chain, which this one went on from

    @cached_property
    def recalls(self) -> dict[tuple[str, str], Answers]:
        """Answers to items, by the list and by what counts as right."""
        by_list: dict[tuple[str, str], list[RecallRecord]] = {}
        for record in records_of(self.run.path, RecallRecord):
            by_list.setdefault((record.items, record.match), []).append(record)
        found = {}
        for (items, match), records in by_list.items():
            # An item is called by all that is known of it, so that seeds with the same pair up.
            names = [json.dumps(row, sort_keys=True) for row in read_items(self.run.path, items)]
            if wrong := [record for record in records if len(record.correct) != len(names)]:
                raise ValueError(
                    f"{self.run.path} asked for {len(wrong[0].correct)} items at step "
                    f"{wrong[0].step}, but its list {items!r} has {len(names)}; its files are not "
                    "of one run"
                )
            steps = [record.step for record in records]
            scored = all(record.log_probs is not None for record in records)
            found[items, match] = Answers(
                pd.DataFrame([r.correct for r in records], steps, names, dtype=float),
                pd.DataFrame([r.log_probs for r in records], steps, names) if scored else None,
            )
        return found


@dataclass(frozen=True, kw_only=True)
class Chain(Recorded):
    """A run of continual memorization.

    Attributes:
        stages: by their letters, in order.
        relearning: what came back when a few items were taught again; None where that was not
            tried.
    """

    stages: Mapping[str, StageRun]
    relearning: Mapping[str, Any] | None

    def _ended(self) -> Mapping[str, Any]:
        return {"stages": " ".join(self.stages), "state": "finished"}

    def to_dataframe(self) -> pd.DataFrame:
        """One row per moment, list of `items`, `match` and `measure` (the share `correct`, or the
        mean `log_prob` in nats), with its `value`.
        """
        rows = [
            (moment, items, match, measure, float(answers.mean()))
            for moment in self.moments
            for items, match in self.lists
            for measure in ("correct", "log_prob")
            if (answers := self.answers(items, moment, match, log_probs=measure == "log_prob"))
            is not None
        ]
        return pd.DataFrame(rows, columns=["moment", "items", "match", "measure", "value"])

    def _items(self) -> Mapping[str, Any]:
        recalls = [stage.recalls for stage in self.stages.values()]
        return {key[0]: list(one[key].correct.columns) for one in recalls for key in one}

    @property
    def moments(self) -> tuple[str, ...]:
        """When items are asked for."""
        return (Moment.START.value, *map(after, self.stages))

    def step_of(self, moment: str) -> tuple[StageRun, int]:
        """The stage that tells what was so at a moment, and its step."""
        if moment == Moment.START:
            return next(iter(self.stages.values())), 0
        stage = self.stages[moment.removeprefix("after ")]
        return stage, int(stage.outcome["steps"])

    def answers(
        self, items: str, moment: str, match: str = TOKENS, *, log_probs: bool = False
    ) -> pd.Series | None:
        """What the model made of every item at a moment; None where it was not asked."""
        stage, step = self.step_of(moment)
        correct, scores = stage.recalls.get((items, match), (None, None))
        table = scores if log_probs else correct
        return None if table is None or step not in table.index else table.loc[step]

    @property
    def lists(self) -> dict[tuple[str, str], None]:
        """Lists that were asked for in any stage, and what counted as right."""
        return {key: None for stage in self.stages.values() for key in stage.recalls}


def read_chain(directory: str | Path) -> Chain:
    """Read a finished run."""
    path = _folder(directory, REMIX)
    manifest = read_manifest(path)
    if (command := manifest.get("command")) != REMIX or "stage" in manifest["inputs"]:
        what = "a stage" if command == REMIX else f"a run of {command or 'another program'}"
        raise ValueError(f"{path} is {what}, not a run of {REMIX}; give the folder of one")
    begun = Chain(path=path, manifest=manifest, stages={}, relearning=None)
    begun.require_settings(RemixConfig)
    if not (path / DONE_FILE).is_file():
        raise ValueError(f"the run {path} is not over; go on with it, with --resume")
    ended = json.loads((path / DONE_FILE).read_text(encoding="utf-8"))["stages"]
    stages = {outcome["name"]: _stage(path, outcome) for outcome in ended}
    relearning = path / RELEARNING_FILE
    again = json.loads(relearning.read_text(encoding="utf-8")) if relearning.is_file() else None
    return Chain(path=path, manifest=manifest, stages=stages, relearning=again)


def _stage(path: Path, outcome: Mapping[str, Any]) -> StageRun:
    given = Path(outcome["folder"])
    # The folder of another run's stage is named as it was, and may have moved along with this one.
    places = [path / given, path.parent / given.parent.name / given.name]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise ValueError(
            f"{path} has no stage {outcome['name']}, found no {places[0]}; give all runs that it "
            "went on from where they were, or beside it"
        )
    return StageRun(outcome["name"], read_run(folder), outcome, given.is_absolute())


def _folder(directory: str | Path, command: str) -> Path:
    if wrong := a_path(directory):
        raise ValueError(f"the directory of a run is {wrong}")
    path = Path(directory).expanduser()
    if not (path / MANIFEST_FILE).is_file():
        raise ValueError(
            f"{directory} holds no run, found no {MANIFEST_FILE}; give the --out folder of "
            f"{command}"
        )
    return path
