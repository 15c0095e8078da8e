"""Arms: runs of continual knowledge learning that differ in nothing but their seed.

A **moment** is when a run is compared: its unedited start, its start (the model that training began
from), right after the last injection, so many steps later, and its end. Scores of an arm are means
over its seeds, probe by probe and question by question, so that intervals over passages stay
possible; what seeds add is reported as the least and the most of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from analysis.checkpoints import step_of
from analysis.edit_names import EDIT_FIELDS, edit_label
from analysis.numbers import shown_value
from analysis.runs import Observations, TrainingRun
from training.ckl.config import CklConfig
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
    """The start that a configuration names."""
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


PROGRAM = "training.ckl"
_START_FIELDS = ("model", "revision")


class Moment(StrEnum):
    """When scores are compared; between the last two, "20 steps later" and the like."""

    UNEDITED = "unedited start"
    """The start before it was edited."""
    START = "start"
    """What training began from, edited or not."""
    INJECTED = "last injection"
    """Right after the update that the last encounter is part of: the papers' final score."""
    END = "end"
    """After the last update."""


@dataclass(frozen=True)
class Arm:
    """Runs of one configuration and one start, by growing seed.

    Attributes:
        name: what tells it from the other arms of a report.
        runs: one a seed.
        start: the model that they began from.
    """

    name: str
    runs: tuple[TrainingRun, ...]
    start: Start

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its runs."""
        return tuple(run.configuration["seed"] for run in self.runs)

    @property
    def is_edited(self) -> bool:
        """Whether the start scored differently before it was edited."""
        return self.runs[0].unedited is not None

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration without seed and start."""
        return _settings(self.runs[0])

    @property
    def edit(self) -> str:
        """How the start was edited, in words."""
        return edit_label(self.runs[0].configuration)

    @property
    def base_key(self) -> str:
        """The same for all arms that differ in their edits only."""
        kept = {k: v for k, v in self.settings.items() if k not in EDIT_FIELDS}
        return f"{self.start.sha256} {sorted(kept.items())}"

    @cached_property
    def moments(self) -> dict[str, int]:
        """The step of every moment; the unedited start is not among them."""
        run = self.runs[0]
        injected = int(run.injections["step"].max()) + 1
        found: dict[str, int] = {Moment.START: 0, Moment.INJECTED: injected}
        for lag in run.configuration["lags"]:
            if lag and injected + lag < run.last_step:
                found[f"{lag} step{'s' if lag > 1 else ''} later"] = injected + lag
        return found | {Moment.END: run.last_step}

    @property
    def compared_with(self) -> tuple[str, ...]:
        """The moments that later ones are compared with."""
        return (Moment.START, Moment.UNEDITED) if self.is_edited else (Moment.START,)

    def probes(self, moment: str, run: TrainingRun | None = None) -> pd.DataFrame:
        """Knowledge probes at a moment: means over seeds, or those of one run."""
        return self._mean(
            lambda seen, step: seen.probe_scores.at(step),
            moment,
            run,
            ["passage", "probe"],
            "log_prob",
        )

    def questions(self, moment: str, run: TrainingRun | None = None) -> pd.DataFrame:
        """Questions of the downstream tasks at a moment; empty where none were asked."""
        return self._mean(
            lambda seen, step: seen.tasks[seen.tasks["step"] == step],
            moment,
            run,
            ["task", "item"],
            "score",
        )

    def facts(self, moment: str, run: TrainingRun | None = None) -> pd.DataFrame:
        """Earlier facts at a moment; empty where none were asked for."""

        def of(seen: Observations, step: int) -> pd.DataFrame:
            found = seen.fact_scores
            return pd.DataFrame() if found is None else found.at(step)

        return self._mean(of, moment, run, ["prompt"], "log_prob")

    def seen(self, run: TrainingRun, moment: str) -> tuple[Observations, int]:
        """Where a run's observations at a moment are, and at which step."""
        if moment == Moment.UNEDITED:
            assert run.unedited is not None
            return run.unedited, 0
        return run, self.moments[moment]

    def _mean(
        self,
        look: Callable[[Observations, int], pd.DataFrame],
        moment: str,
        run: TrainingRun | None,
        keys: list[str],
        value: str,
    ) -> pd.DataFrame:
        runs = self.runs if run is None else (run,)
        first, *others = (look(*self.seen(one, moment)).reset_index(drop=True) for one in runs)
        for one, table in zip(runs[1:], others, strict=True):
            # The same settings, and yet other items: an input that is not a setting has changed.
            if len(table) != len(first) or not (len(table) == 0 or table[keys].equals(first[keys])):
                raise ValueError(
                    f"{runs[0].path} and {one.path} have the same settings but other items; "
                    "report them one by one"
                )
        if first.empty:
            return first
        return first.assign(**{value: sum(table[value] for table in (first, *others)) / len(runs)})


def arms_of(runs: Sequence[TrainingRun]) -> list[Arm]:
    """Finished runs as arms, in the order of their first runs."""
    if not runs:
        raise ValueError("a report needs at least one run, found none; give run directories")
    grouped: dict[str, list[TrainingRun]] = {}
    for run in runs:
        _refuse(run)
        key = f"{start_of(run).sha256} {sorted(_settings(run).items())}"
        grouped.setdefault(key, []).append(run)
    sets = [sorted(found, key=lambda run: run.configuration["seed"]) for found in grouped.values()]
    for one, other in (pair for found in sets for pair in pairwise(found)):
        if one.configuration["seed"] == other.configuration["seed"]:
            raise ValueError(f"{one.path} and {other.path} are the same run; give one of them")
    names = _names([found[0] for found in sets])
    return [
        Arm(name, tuple(found), start_of(found[0])) for name, found in zip(names, sets, strict=True)
    ]


def _refuse(run: TrainingRun) -> None:
    if (command := run.manifest.get("command")) != PROGRAM:
        raise ValueError(
            f"{run.path} is a run of {command or 'another program'}, not of {PROGRAM}; give runs "
            "of continual knowledge learning"
        )
    missing = {field.name for field in fields(CklConfig)} - {"device", "resume_every"}
    if missing := missing - set(run.configuration):
        raise ValueError(
            f"{run.path} was written by another version, found no setting {sorted(missing)[0]!r}; "
            "report it with the version that wrote it"
        )
    run.require_finished()
    if run.injections.empty:
        raise ValueError(f"{run.path} injected nothing; there is no knowledge to report on")
    injected = int(run.injections["step"].max()) + 1
    if unseen := {0, injected, run.last_step} - set(run.probe_scores.steps.tolist()):
        raise ValueError(
            f"{run.path} scored no probes at step {min(unseen)}, but a report needs the start, the "
            f"last injection (step {injected}) and the end; train with 0 among --lags"
        )


def _settings(run: TrainingRun) -> dict[str, Any]:
    left_out = ("seed", *_START_FIELDS)
    return {name: value for name, value in run.configuration.items() if name not in left_out}


def _names(runs: Sequence[TrainingRun]) -> list[str]:
    """What tells arms from each other; start and edit of an arm that is alone."""
    starts = [start_of(run) for run in runs]
    several = len({start.model for start in starts}) > 1
    labels = [start.label if several or len(runs) == 1 else start.short for start in starts]
    strengths = {strength for run in runs if (strength := _strength(run)) is not None}
    told = len(runs) == 1 or len(strengths) > 1
    edits = [edit_label(run.configuration, strength=told) for run in runs]
    shown = [
        [label] * (len(set(labels)) > 1 or len(runs) == 1)
        + [edit] * (len(set(edits)) > 1 or len(runs) == 1)
        + _different(run, runs, leave_out=EDIT_FIELDS)
        for run, label, edit in zip(runs, labels, edits, strict=True)
    ]
    alike = [[o for o, other in zip(runs, shown, strict=True) if other == mine] for mine in shown]
    return [
        ", ".join([*mine, *_different(run, same), *_hash_where(run, same)])
        for run, mine, same in zip(runs, shown, alike, strict=True)
    ]


def _strength(run: TrainingRun) -> tuple[float, float] | None:
    """Ratio and factor of a resuscitation, or of what it is a control of."""
    ratio, factor = (run.configuration[f"resuscitation_{name}"] for name in ("ratio", "factor"))
    return None if ratio is None else (ratio, factor)


def _different(
    run: TrainingRun, runs: Sequence[TrainingRun], leave_out: Sequence[str] = ()
) -> list[str]:
    """The settings in which some of the runs differ, of one of them."""
    return [
        f"{name.replace('_', ' ')} {shown_value(value)}"
        for name, value in _settings(run).items()
        if name not in leave_out and any(r.configuration[name] != value for r in runs)
    ]


def _hash_where(run: TrainingRun, alike: Sequence[TrainingRun]) -> list[str]:
    """Two starts of one name are told apart by their weights."""
    same = [r for r in alike if _settings(r) == _settings(run)]
    return [f"weights {start_of(run).sha256[:8]}"] if len(same) > 1 else []
