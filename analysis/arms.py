"""Arms: runs that differ in nothing but their seed, what they are called, and their bases.

An arm is called by what tells it from the other arms of a report: its start and what is done beside
plain training, in words, then every other setting in which runs differ. Its base is the arm that
has none of what is done beside plain training and agrees with it in all else.

Scores of an arm of continual knowledge learning are means over its seeds, probe by probe and
question by question, so that intervals over passages stay possible.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, Generic, TypeVar

import pandas as pd

from analysis.numbers import shown_value
from analysis.observations import Observations, rows_where
from analysis.runs import CKL, TOKENS, Chain, Moment, Recorded, Start, TrainingRun
from training.choices import Replay
from training.ckl_config import CklConfig
from training.options import EDIT_FIELDS, Control, EditForm
from training.remix_config import NO_MIX, MixFields

UNEDITED_NAME, PLAIN_NAME = "unedited", "no mixing"
_MIX_FIELDS = tuple(field.name for field in fields(MixFields))
_OF_A_MIX = tuple(name for name in _MIX_FIELDS if name not in ("mix", "replay", "replay_ratio"))
"""Settings that do nothing where nothing is mixed in."""
_BY_STAGE = ("items", "mix", "mix_ratio", "epochs", "stop", "stage_learning_rates")
"""Settings whose one value stands for all stages."""
_OBSERVED_EVERY = tuple(
    f"{what}_every" for what in ("probe", "generate", "evaluate", "recall", "gradient")
)
"""How often a run is evaluated, which changes nothing of how it trains."""
_NOT_SETTINGS = ("seed", "model", "revision", "from_stage_a", "familiarity_cache")
Run = TypeVar("Run", bound=Recorded)


def edit_label(configuration: Mapping[str, Any], *, strength: bool = True) -> str:
    """How a start was edited before training, in words."""
    parts = []
    control, temperature = configuration["control"], configuration["attention_temperature"]
    if configuration["resuscitation_ratio"] is not None:
        site = configuration["resuscitation_site"]
        parts.append(str(site) if control is None else str(control).replace("_", " "))
        if control is None and strength:
            amounts = "ratio {resuscitation_ratio:g}, factor {resuscitation_factor:g}"
            parts.append(amounts.format_map(configuration))
    if temperature is not None:
        schedule = configuration["temperature_schedule"]
        varied = "" if schedule == "constant" else f" ({schedule})"
        parts.append(f"attention temperature {temperature:g}{varied}")
    parts += configuration["edit"]
    if edit_form(configuration) == EditForm.HOOKS:
        parts.append("as hooks")
    return ", ".join(parts) or UNEDITED_NAME


def edit_form(configuration: Mapping[str, Any]) -> str | None:
    """How a start was edited, by hooks or in its weights; None where it was not edited."""
    found = configuration["edit_form"]
    leaves_it = configuration["control"] in (Control.IDENTITY, Control.ROW_LEARNING_RATES)
    scaled = configuration["resuscitation_ratio"] is not None and not leaves_it
    others = configuration["attention_temperature"] is not None or configuration["edit"]
    return str(found) if scaled or others else None


@dataclass(frozen=True, eq=False)
class Arm(ABC, Generic[Run]):
    """Runs of one configuration and one start, by growing seed."""

    name: str  # what tells it from the other arms of a report
    runs: tuple[Run, ...]  # one a seed

    in_words: ClassVar[tuple[str, ...]]  # settings that `words` say
    varied: ClassVar[tuple[str, ...]]  # settings in which an arm may differ from its base

    @property
    def start(self) -> Start:
        return self.runs[0].start

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration without seed and start, and without settings that do nothing."""
        configuration = self.runs[0].configuration
        idle = EDIT_FIELDS if self.edit == UNEDITED_NAME else ()
        left_out = {*_NOT_SETTINGS, *idle}
        return {name: v for name, v in configuration.items() if name not in left_out}

    @property
    def edit(self) -> str:
        return edit_label(self.runs[0].configuration)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is done beside plain training."""
        return self.edit == UNEDITED_NAME

    @property
    def key(self) -> str:
        """The same for runs of one arm."""
        return f"{self.start.sha256} {sorted(self.settings.items())}"

    @property
    def base_key(self) -> str:
        """The same for all arms that differ in what arms may differ in."""
        left_out = {*self.varied, *_OBSERVED_EVERY}
        kept = {name: v for name, v in self.settings.items() if name not in left_out}
        return f"{self.start.sha256} {sorted(kept.items())}"

    @classmethod
    @abstractmethod
    def words(cls, arms: Sequence[Any]) -> list[list[str]]:
        """What each name says first: start and what is done beside plain training."""

    def different(self, arms: Sequence["Arm[Run]"], leave_out: Sequence[str] = ()) -> list[str]:
        """The settings in which some of the arms differ from this one."""
        return [
            f"{name.replace('_', ' ')} {shown_value(value)}"
            for name, value in self.settings.items()
            if name not in leave_out
            and any(other.settings.get(name, value) != value for other in arms)
        ]


AnyArm = TypeVar("AnyArm", bound=Arm[Any])


@dataclass(frozen=True, eq=False)
class CklArm(Arm[TrainingRun]):
    """Runs of continual knowledge learning."""

    in_words = varied = EDIT_FIELDS

    @classmethod
    def words(cls, arms: Sequence["CklArm"]) -> list[list[str]]:
        """Start and edit where arms differ in them, or where there is one arm."""
        alone = len(arms) == 1
        several = alone or len({arm.start.model for arm in arms}) > 1
        amounts = ("resuscitation_ratio", "resuscitation_factor")
        strengths = {tuple(arm.settings.get(name) for name in amounts) for arm in arms}
        strong = alone or sum(ratio is not None for ratio, _ in strengths) > 1
        columns = [
            [arm.start.label if several else arm.start.short for arm in arms],
            [edit_label(arm.runs[0].configuration, strength=strong) for arm in arms],
        ]
        columns = [column for column in columns if alone or len(set(column)) > 1]
        return [[column[place] for column in columns] for place in range(len(arms))]

    @property
    def is_edited(self) -> bool:
        """Whether the start scored differently before it was edited."""
        return self.runs[0].unedited is not None

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
    def all_moments(self) -> dict[str, int]:
        """The step of every moment, the unedited start first where there is one."""
        return ({Moment.UNEDITED: 0} if self.is_edited else {}) | self.moments

    @property
    def compared_with(self) -> tuple[str, ...]:
        """The moments that later ones are compared with."""
        return (Moment.START, Moment.UNEDITED) if self.is_edited else (Moment.START,)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every moment after the start, with those that it is compared with."""
        later = [moment for moment in self.moments if moment != Moment.START]
        yield from ((against, moment) for against in self.compared_with for moment in later)

    def probes(self, moment: str, run: TrainingRun | None = None) -> pd.DataFrame:
        """Knowledge probes at a moment: means over seeds, or those of one run."""
        keys = ["passage", "probe"]
        return self._mean(lambda seen, at: seen.probe_scores.at(at), moment, run, keys, "log_prob")

    def questions(self, moment: str, run: TrainingRun | None = None) -> pd.DataFrame:
        """Questions of the downstream tasks at a moment; empty where none were asked."""
        keys = ["task", "item"]
        return self._mean(
            lambda seen, at: rows_where(seen.tasks, step=at), moment, run, keys, "score"
        )

    def facts(self, moment: str) -> pd.DataFrame:
        """Earlier facts at a moment; empty where none were asked for."""

        def of(seen: Observations, step: int) -> pd.DataFrame:
            found = seen.fact_scores
            return pd.DataFrame() if found is None else found.at(step)

        return self._mean(of, moment, None, ["prompt"], "log_prob")

    def seen(self, run: TrainingRun, moment: str) -> tuple[Observations, int]:
        """The observations of a run at a moment, and their step."""
        if moment == Moment.UNEDITED:
            assert run.unedited is not None
            return run.unedited, 0
        return run, self.moments[moment]

    def _mean(
        self,
        read: Callable[[Observations, int], pd.DataFrame],
        moment: str,
        run: TrainingRun | None,
        keys: list[str],
        value: str,
    ) -> pd.DataFrame:
        runs = self.runs if run is None else (run,)
        first, *others = (read(*self.seen(one, moment)).reset_index(drop=True) for one in runs)
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


@dataclass(frozen=True, eq=False)
class RemixArm(Arm[Chain]):
    """Runs of continual memorization."""

    in_words = ("mix", "no_mix_control", "replay", "replay_ratio", *EDIT_FIELDS, "edit_before")
    varied = (*_MIX_FIELDS, *EDIT_FIELDS, "edit_before")

    @classmethod
    def words(cls, arms: Sequence["RemixArm"]) -> list[list[str]]:
        """The start where arms differ in it, and what is done beside plain training."""
        several = len({arm.start.label for arm in arms}) > 1
        return [[arm.start.label] * several + (arm._beside() or [PLAIN_NAME]) for arm in arms]

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self.runs[0].stages)

    @property
    def moments(self) -> tuple[str, ...]:
        return self.runs[0].moments

    @property
    def is_plain(self) -> bool:
        """Whether it trains one stage after the other, and nothing else."""
        return not self._beside()

    @cached_property
    def settings(self) -> dict[str, Any]:
        found = super().settings
        count = len(found["data"])
        found |= {name: found[name] * count for name in _BY_STAGE if len(found[name]) == 1}
        pairs = zip(found["mix"], found["mix_ratio"], strict=True)
        ratios = [ratio for mix, ratio in pairs if mix != NO_MIX]
        found["mix_ratio"] = ratios[:1] if len(set(ratios)) == 1 else ratios
        idle = () if ratios else _OF_A_MIX
        if found["replay"] == Replay.NONE:
            idle = (*idle, "replay_ratio")
        return {name: value for name, value in found.items() if name not in idle}

    def answers(
        self, items: str, moment: str, match: str = TOKENS, *, log_probs: bool = False
    ) -> dict[int, pd.Series]:
        """What every seed made of a list at a moment; see `Chain.answers`."""
        found = [run.answers(items, moment, match, log_probs=log_probs) for run in self.runs]
        asked = [values for values in found if values is not None]
        return dict(zip(self.seeds, asked, strict=True)) if len(asked) == len(found) else {}

    def _beside(self) -> list[str]:
        """What is done beside plain training, each in a few words."""
        configuration = self.runs[0].configuration
        control = configuration["no_mix_control"]
        pairs = zip(self.stages, self.settings["mix"], strict=True)
        parts = [f"{name} at {stage}" for stage, name in pairs if name != NO_MIX]
        if parts and control is not None:
            parts = [f"{PLAIN_NAME}, as many {control} as with {' and '.join(parts)}"]
        if configuration["replay"] != Replay.NONE:
            own = "self-generated " * (configuration["replay"] == Replay.SELF)
            parts.append(f"{own}replay of {100 * configuration['replay_ratio']:g} %")
        if self.edit != UNEDITED_NAME:
            parts.append(f"{self.edit} before {configuration['edit_before']}")
        return parts


def ckl_arms(runs: Sequence[TrainingRun]) -> list[CklArm]:
    """Finished runs of continual knowledge learning as arms, in the order of their first runs."""
    for run in runs:
        _refuse(run)
    return _arms(CklArm, runs)


def remix_arms(chains: Sequence[Chain]) -> list[RemixArm]:
    """Runs of continual memorization as arms, in the order of their first runs."""
    return _arms(RemixArm, chains)


def base_of(arm: AnyArm, arms: Sequence[AnyArm], named: AnyArm | None) -> AnyArm | None:
    """The arm that one is compared with; None where there is none, or it is the one itself."""
    if named is not None:
        return None if arm is named else named
    if arm.is_plain:
        return None
    return next((one for one in arms if one.is_plain and one.base_key == arm.base_key), None)


def pooled(arms: Sequence[AnyArm], names: Sequence[str]) -> list[AnyArm]:
    """Arms by other names, those of one name as one arm; as they were where seeds repeat."""
    grouped: dict[str, list[AnyArm]] = {}
    for arm, name in zip(arms, names, strict=True):
        grouped.setdefault(name, []).append(arm)
    found: list[AnyArm] = []
    for name, alike in grouped.items():
        runs = sorted((run for arm in alike for run in arm.runs), key=lambda run: run.seed)
        several = len({run.seed for run in runs}) < len(runs)
        found += alike if several else [replace(alike[0], name=name, runs=tuple(runs))]
    return found


def _arms(kind: type[AnyArm], runs: Sequence[Any]) -> list[AnyArm]:
    if not runs:
        raise ValueError("a report needs at least one run, found none; give run directories")
    grouped: dict[str, list[Any]] = {}
    for run in runs:
        grouped.setdefault(kind("", (run,)).key, []).append(run)
    sets = [sorted(found, key=lambda run: run.seed) for found in grouped.values()]
    for one, other in (pair for found in sets for pair in pairwise(found)):
        if one.seed == other.seed:
            raise ValueError(f"{one.path} and {other.path} are the same run; give one of them")
    arms = [kind("", tuple(found)) for found in sets]
    words = [
        one + arm.different(arms, (*arm.in_words, *_OBSERVED_EVERY))
        for arm, one in zip(arms, kind.words(arms), strict=True)
    ]
    named = []
    for arm, mine in zip(arms, words, strict=True):
        alike = [other for other, theirs in zip(arms, words, strict=True) if theirs == mine]
        name = [*mine, *arm.different(alike)]
        # Two starts of one name are told apart by their weights.
        if sum(other.settings == arm.settings for other in alike) > 1:
            name.append(f"weights {arm.start.sha256[:8]}")
        named.append(replace(arm, name=", ".join(name)))
    return named


def _refuse(run: TrainingRun) -> None:
    if (command := run.manifest.get("command")) != CKL:
        raise ValueError(
            f"{run.path} is a run of {command or 'another program'}, not of {CKL}; give runs "
            "of continual knowledge learning"
        )
    run.require_settings(CklConfig)
    run.require_finished()
    if run.injections.empty:
        raise ValueError(f"{run.path} injected nothing; there is no knowledge to report on")
    injected = int(run.injections["step"].max()) + 1
    if unseen := {0, injected, run.last_step} - set(run.probe_scores.steps.tolist()):
        raise ValueError(
            f"{run.path} scored no probes at step {min(unseen)}, but a report needs the start, the "
            f"last injection (step {injected}) and the end; train with 0 among --lags"
        )
