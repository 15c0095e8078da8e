"""Chains: runs of continual memorization, read stage by stage.

A run has a folder for each of its stages; stage A may lie in another run, whose later stages went
another way. A **moment** is when a list of items is asked for: at the start, or after a stage.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs import TrainingRun, read_run
from training.remix.config import RemixConfig
from training.remix.looks import RELEARNING_FILE
from training.runs.directory import DONE_FILE, MANIFEST_FILE, read_manifest
from training.runs.records import RecallRecord, read_items, records_of

PROGRAM = "training.remix"
START = "start"
TOKENS = "tokens"
"""The match of teacher forcing."""


def after(stage: str) -> str:
    """The moment when a stage is over."""
    return f"after {stage}"


@dataclass(frozen=True)
class RecallLooks:
    """Looks at one list of items: rows are steps, columns are items.

    Attributes:
        correct: 1 where the answer is right, 0 where it is not.
        log_probs: of the answers, in nats; None where they were not asked for.
    """

    correct: pd.DataFrame
    log_probs: pd.DataFrame | None


@dataclass(frozen=True)
class StageRun:
    """A stage of a chain.

    Attributes:
        name: its letter.
        run: what it recorded.
        outcome: how it ended: `status`, `steps`, `reason`.
        shared: whether it is a stage of another chain, which this one went on from.
    """

    name: str
    run: TrainingRun
    outcome: Mapping[str, Any]
    shared: bool

    @cached_property
    def recalls(self) -> dict[tuple[str, str], RecallLooks]:
        """Looks at items, by the list and by what counts as right."""
        found: dict[tuple[str, str], list[RecallRecord]] = {}
        for record in records_of(self.run.path, RecallRecord):
            found.setdefault((record.items, record.match), []).append(record)
        return {key: self._looks(key[0], records) for key, records in found.items()}

    def _looks(self, items: str, records: list[RecallRecord]) -> RecallLooks:
        # An item is called by all that is known of it, so that seeds with the same items pair up.
        names = [json.dumps(row, sort_keys=True) for row in read_items(self.run.path, items)]
        steps = [record.step for record in records]
        if wrong := [record for record in records if len(record.correct) != len(names)]:
            raise ValueError(
                f"{self.run.path} asked for {len(wrong[0].correct)} items at step {wrong[0].step}, "
                f"but its list {items!r} has {len(names)}; its files are not of one run"
            )
        scored = all(record.log_probs is not None for record in records)
        return RecallLooks(
            pd.DataFrame([r.correct for r in records], steps, names, dtype=float),
            pd.DataFrame([r.log_probs for r in records], steps, names) if scored else None,
        )


@dataclass(frozen=True)
class Chain:
    """A run of continual memorization.

    Attributes:
        path: its folder.
        manifest: what it is.
        stages: by their letters, in order.
        relearning: what came back when a few items were taught again; None where that was not
            tried.
    """

    path: Path
    manifest: Mapping[str, Any]
    stages: Mapping[str, StageRun]
    relearning: Mapping[str, Any] | None

    @property
    def configuration(self) -> Mapping[str, Any]:
        """Every setting."""
        return self.manifest["configuration"]

    @property
    def seed(self) -> int:
        """What its random draws come from."""
        return int(self.configuration["seed"])

    @property
    def start_sha256(self) -> str:
        """Of the weights that stage A began from."""
        return str(self.manifest["inputs"]["start_sha256"])

    @property
    def moments(self) -> tuple[str, ...]:
        """When items are asked for."""
        return (START, *map(after, self.stages))

    def step_of(self, moment: str) -> tuple[StageRun, int]:
        """The stage that tells what was so at a moment, and its step."""
        if moment == START:
            return next(iter(self.stages.values())), 0
        stage = self.stages[moment.removeprefix("after ")]
        return stage, int(stage.outcome["steps"])

    def answers(
        self, items: str, moment: str, match: str = TOKENS, *, log_probs: bool = False
    ) -> pd.Series | None:
        """What the model made of every item at a moment; None where it was not asked."""
        stage, step = self.step_of(moment)
        looks = stage.recalls.get((items, match))
        table = None if looks is None else looks.log_probs if log_probs else looks.correct
        return None if table is None or step not in table.index else table.loc[step]

    @property
    def lists(self) -> dict[tuple[str, str], None]:
        """Lists that were asked for in any stage, and what counted as right."""
        return {key: None for stage in self.stages.values() for key in stage.recalls}


def read_chain(directory: str | Path) -> Chain:
    """Read a finished run."""
    path = Path(directory).expanduser()
    if not (path / MANIFEST_FILE).is_file():
        raise ValueError(
            f"{directory} holds no run, found no {MANIFEST_FILE}; give the --out folder of "
            f"{PROGRAM}"
        )
    manifest = read_manifest(path)
    if (command := manifest.get("command")) != PROGRAM or "stage" in manifest["inputs"]:
        what = "a stage" if command == PROGRAM else f"a run of {command or 'another program'}"
        raise ValueError(f"{path} is {what}, not a run of {PROGRAM}; give the folder of one")
    missing = {*RemixConfig.__dataclass_fields__} - {"device", "resume_every"}
    if missing := missing - set(manifest["configuration"]):
        raise ValueError(
            f"{path} was written by another version, found no setting {sorted(missing)[0]!r}; "
            "report it with the version that wrote it"
        )
    if not (path / DONE_FILE).is_file():
        raise ValueError(f"the run {path} is not over; go on with it, with --resume")
    ended = json.loads((path / DONE_FILE).read_text(encoding="utf-8"))["stages"]
    stages = {outcome["name"]: _stage(path, outcome) for outcome in ended}
    relearning = path / RELEARNING_FILE
    return Chain(
        path,
        manifest,
        stages,
        json.loads(relearning.read_text(encoding="utf-8")) if relearning.is_file() else None,
    )


def _stage(path: Path, outcome: Mapping[str, Any]) -> StageRun:
    told = Path(outcome["folder"])
    # The folder of another run's stage is told as it was, and may have moved along with this one.
    places = [path / told, path.parent / told.parent.name / told.name]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise ValueError(
            f"{path} has no stage {outcome['name']}, found no {places[0]}; give all runs that it "
            "went on from where they were, or beside it"
        )
    return StageRun(outcome["name"], read_run(folder), outcome, told.is_absolute())
