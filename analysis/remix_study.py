"""A study of continual memorization: `python -m analysis.remix_study`.

Runs `training.remix` in the ways that `--study` says and reports it all as `analysis.remix_report`
does. An arm is a few settings that differ from plain training of one stage after the other:

| study            | arms                                                                       |
|------------------|----------------------------------------------------------------------------|
| `arms`           | mixes at A, later, and both; replay, self-replay; as many steps; edited    |
| `main-table`     | mixes at A, later, and both, for every pair of --first-sets and later ones |
| `replay-ratios`  | 1, 5 and 10 % of the earlier items shown again, beside REMIX               |
| `mix-ratios`     | mixes of half, as many, twice and four times the items, at A and later     |
| `mix-lengths`    | mixes of a half, once, twice and four times the words                      |
| `three-stages`   | no mix, at A, later, and both, over three stages                           |
| `familiar`       | factoids that the base knew, while a later stage has each mix              |

All stages go to their last epoch, so that arms have as many updates wherever they have as many
items. Runs with the same stage A train it once. Writes `runs/`, `logs/` and, once all runs are
over, `report/` into `--out`; goes on where it was, and is shared out over machines with `--shard`.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: Tables 1
to 6, Figures 6 to 8.

Example:
    $ python -m analysis.remix_study --model runs/tiny --out runs/study
    $ python -m analysis.remix_study --model runs/tiny --study mix-ratios --out runs/ratios --list
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any

from analysis.ckl_study import Changes, resuscitation
from analysis.jobs import REPORT, RUNS, Job, in_groups, same_runs, training_job
from analysis.study_runs import RunsFields, refuse_chosen, run_study
from probes.cli import command_main, refuse_foreign
from training.choices import NoMixControl, Replay
from training.remix import COMMAND
from training.remix_config import NO_MIX, RemixConfig

PROGRAM = "analysis.remix_study"
REPLAY_RATIOS = (0.01, 0.05, 0.1)
MIX_RATIOS = LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""Sizes of mixes over the items, and their lengths over the recipe's."""
FAMILIARITY_ITEMS = 500  # items that the base is asked, where the recipe does not say
PLAIN = "no-mixing"
_CHOSEN_BY_THE_STUDY = (
    *("mix", "no_mix_control", "replay", "from_stage_a", "resuscitation_ratio"),
    *("resuscitation_factor", "control", "attention_temperature", "stop"),
)
FAMILIAR_MIXES = ("random", "knowledge-pile", "arxiv-pile", "fineweb")
"""The mixes of Tables 5 and 6; all but the first are text from the hub."""


class Study(StrEnum):
    """Which arms there are; see the table of the module."""

    ARMS = "arms"
    MAIN_TABLE = "main-table"
    REPLAY_RATIOS = "replay-ratios"
    MIX_RATIOS = "mix-ratios"
    MIX_LENGTHS = "mix-lengths"
    THREE_STAGES = "three-stages"
    FAMILIAR = "familiar"


@dataclass(frozen=True, kw_only=True)
class ArmSettings:
    """Which arms, mixes and sets a study has."""

    arms: tuple[str, ...] = ()
    """Only these arms of the study, by the names of their folders; all."""
    first_mix: str = "random"
    """Mix of stage A."""
    later_mix: str = "generic"
    """Mix of later stages."""
    first_sets: tuple[str, ...] = ("kvr", "popqa", "triviaqa")
    """Sets that stage A learns in main-table."""
    later_sets: tuple[str, ...] = (
        *("lama", "entityquestions", "webquestions"),
        *("gsm8k", "math", "evolcode", "apps", "ultrachat"),
    )
    """Sets that stage B learns in main-table."""
    familiar_mixes: tuple[str, ...] = FAMILIAR_MIXES
    """Mixes of later stages in familiar."""


@dataclass(frozen=True, kw_only=True)
class RemixStudyArguments(ArmSettings, RunsFields):
    """Run continual memorization in many ways and report what came of it."""

    recipe: str
    """Recipe of training.remix, where the defaults below are from."""
    study: Study = Study.ARMS
    """Which arms there are."""
    localization: bool = True
    """Whether the report says where in depth items are readable, which loads all models."""
    localization_items: int = 64
    """Items of stage A to localize."""
    config: RemixConfig


def plan_study(
    config: RemixConfig,
    study: Study = Study.ARMS,
    settings: ArmSettings | None = None,
    *,
    seeds: int,
) -> dict[str, RemixConfig]:
    """The settings of all runs by their names, those of the first seed first."""
    if seeds < 1:
        raise ValueError(f"a study needs 1 or more --seeds, found {seeds}")
    settings = settings or ArmSettings()
    arms = _chosen(dict(_arms(config, study, settings)), settings.arms)
    return {
        f"{name}-seed-{seed}": replace(config, seed=seed, **changes)
        for seed in range(config.seed, config.seed + seeds)
        for name, changes in arms.items()
    }


def stage_jobs(
    runs: Mapping[str, RemixConfig], recipe: str, folder: Path, *, processes: int = 1
) -> list[Job]:
    """The jobs of runs; those with the same stage A stand together and go on from the first."""
    how: dict[str, Any] = {"processes": processes}
    groups: dict[Any, list[str]] = {}
    once = same_runs(runs)
    for name in once:
        config = runs[name]
        # An edit before stage A is measured in the run that makes it.
        edited = config.is_edited and config.edit_before == config.names[0]
        alone = edited or len(config.data) < 2
        groups.setdefault(name if alone else config.stage_a(), []).append(name)
    jobs = []
    for first, *others in groups.values():
        made = {**how, "also": once[first]}
        jobs.append(training_job(COMMAND, first, runs[first], recipe, folder, **made))
        for name in others:
            config = replace(runs[name], from_stage_a=folder / first)
            made = {**how, "also": once[name], "needs": (first,)}
            jobs.append(training_job(COMMAND, name, config, recipe, folder, **made))
    return jobs


def placements(
    count: int, first: str, later: str, *, few: bool = False
) -> dict[str, dict[str, tuple[str, ...]]]:
    """Arms with no mix, each mix at A and later, and the one at A with the other later."""
    mixes = {PLAIN: (NO_MIX, NO_MIX), f"{_name(first)}-at-a": (first, NO_MIX)}
    if not few and first != later:
        mixes[f"{_name(later)}-at-a"] = (later, NO_MIX)
        mixes[f"{_name(first)}-later"] = (NO_MIX, first)
    mixes[f"{_name(later)}-later"] = (NO_MIX, later)
    mixes["both"] = (first, later)
    return {name: {"mix": mix_of_stages(count, *pair)} for name, pair in mixes.items()}


def mix_of_stages(count: int, first: str, later: str) -> tuple[str, ...]:
    """The mix of every stage, as a configuration has it."""
    found = (first, *[later] * (count - 1))
    return (first,) if set(found) == {first} else found


def mix_amounts(
    mixes: Mapping[str, tuple[str, ...]], ratios: Sequence[float], lengths: Sequence[int]
) -> Iterator[tuple[str, Changes]]:
    """Arms with mixes of several sizes and several lengths."""
    for place, mix in mixes.items():
        for ratio in ratios:
            yield f"{place}-ratio-{ratio:g}", {"mix": mix, "mix_ratio": (ratio,)}
        for words in lengths:
            yield f"{place}-{words}-words", {"mix": mix, "mix_words": words}


def _chosen(arms: dict[str, Changes], names: Sequence[str]) -> dict[str, Changes]:
    for name in names:
        if name not in arms:
            nearest = get_close_matches(name, arms, n=1, cutoff=0)[0]
            raise ValueError(
                f"the study has no arm {name!r}; did you mean {nearest}? It has {', '.join(arms)}"
            )
    return {name: changes for name, changes in arms.items() if name in names or not names}


def _arms(
    config: RemixConfig, study: Study, settings: ArmSettings
) -> Iterator[tuple[str, Changes]]:
    first, later = settings.first_mix, settings.later_mix
    count = len(config.data)
    placed = placements(count, first, later)
    asked = {"familiarity_items": config.familiarity_items or FAMILIARITY_ITEMS}
    if study is Study.ARMS:
        yield from placed.items()
        yield "replay", {"replay": Replay.ITEMS}
        yield "self-replay", {"replay": Replay.SELF}
        yield "as-many-steps", {**placed["both"], "no_mix_control": NoMixControl.STEPS}
        yield "resuscitated", resuscitation()
    elif study is Study.MAIN_TABLE:
        for one, other in product(settings.first_sets, settings.later_sets):
            for name, changes in placements(2, first, later).items():
                yield f"{_name(one)}-{_name(other)}-{name}", {"data": (one, other), **changes}
    elif study is Study.REPLAY_RATIOS:
        yield PLAIN, {}
        for ratio in REPLAY_RATIOS:
            yield f"replay-{ratio:g}", {"replay": Replay.ITEMS, "replay_ratio": ratio}
        yield "both", placed["both"]
    elif study is Study.THREE_STAGES:
        data = config.data if count > 2 else (*config.data, config.data[-1])
        for name, changes in placements(len(data), first, later, few=True).items():
            yield name, {"data": data, **changes}
    elif study is Study.FAMILIAR:
        yield PLAIN, asked
        for mix in settings.familiar_mixes:
            yield f"{_name(mix)}-later", {**asked, "mix": mix_of_stages(count, NO_MIX, mix)}
    else:
        at_a, last = mix_of_stages(count, first, NO_MIX), mix_of_stages(count, NO_MIX, later)
        ratios = MIX_RATIOS if study is Study.MIX_RATIOS else ()
        lengths = LENGTHS if study is Study.MIX_LENGTHS else ()
        words = [max(1, round(config.mix_words * length)) for length in lengths]
        yield PLAIN, {}
        yield from mix_amounts({"at-a": at_a, "later": last}, ratios, words)


def _name(text: str) -> str:
    """A set or a mix as a part of a folder's name; of a file its stem."""
    return Path(text).stem


def _run(arguments: RemixStudyArguments, given: Sequence[str]) -> None:
    given_config, recipe, runs = arguments.config, arguments.recipe, arguments.out / RUNS
    why = "it tries several ways; leave it out, or run training.remix"
    refuse_chosen(given_config, COMMAND.recipes[recipe](), _CHOSEN_BY_THE_STUDY, why)
    # What all runs have in common, none of what the study tries.
    plain = RemixConfig(model="", data=("kvr",), batch_size=1, learning_rate=1.0)
    common = replace(given_config, **{name: getattr(plain, name) for name in _CHOSEN_BY_THE_STUDY})
    plan = plan_study(common, arguments.study, arguments, seeds=arguments.seeds)
    jobs = stage_jobs(plan, recipe, runs, processes=arguments.processes_per_run)
    arms, groups = len(jobs) // arguments.seeds, len(in_groups(jobs))
    trained = f"; stage A is trained {groups} times"
    if run_study(jobs, arguments, f"{arms} arms", trained):
        from analysis.arms import remix_arms
        from analysis.numbers import command_line
        from analysis.remix_report import NAME, write_report
        from analysis.runs import read_chain

        out = arguments.out / REPORT
        refuse_foreign(out, f"{NAME}.json", "report")
        write_report(
            remix_arms([read_chain(runs / run) for run in same_runs(plan)]),
            out,
            command_line(PROGRAM, given),
            localized=arguments.localization_items if arguments.localization else None,
            device=given_config.device,
        )


main = command_main(RemixStudyArguments, _run, program=PROGRAM, defaults=COMMAND.recipe_defaults)

if __name__ == "__main__":
    sys.exit(main())
