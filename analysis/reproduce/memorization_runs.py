"""Memorization runs: facts learnt in stages, as the experiments of a reproduction have it.

An arm is a few settings that differ from plain training of one stage after the other. Runs that
agree in all that stage A is made from need it once: the first of them trains it, and the others
wait for it.

Example:
    >>> from analysis.reproduce.scales import smoke
    >>> jobs = list(memorization_jobs(smoke(), Path("runs"), [Experiment.THREE_STAGES]))
    >>> jobs[0].name
    'remix-three-stages-no-mixing-seed-0'
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.remix_study.plan import PlannedRun, sharing_stage_a
from analysis.reproduce.cost import memorization_work
from analysis.reproduce.experiments import Experiment
from analysis.reproduce.jobs import Job
from analysis.reproduce.knowledge_runs import FACTOR, RATIO
from analysis.reproduce.scales import Changes, Memorization, ReproductionScale
from analysis.reproduce.starts import starts_of
from training.choices import NoMixControl, Replay
from training.remix.config import NO_MIX, RemixConfig
from training.remix.recipes import REMIX_RECIPES

_FIRST, _LATER = "random", "generic"
_REPLAYED = 0.1
_BY_STAGE = ("items", "epochs", "stage_learning_rates")
LOCATED = ("no-mixing", "both")
"""Arms whose facts are looked for in depth."""
Arms = Iterator[tuple[str, Changes]]


def memorization_jobs(
    scale: ReproductionScale, folder: Path, experiments: Iterable[Experiment]
) -> Iterator[Job]:
    """The runs of experiments, those that make a stage A before those that go on from it."""
    wanted = scale.memorization
    recipe = REMIX_RECIPES[wanted.recipe]()
    made: dict[RemixConfig, tuple[str, list[Experiment]]] = {}
    for experiment in experiments:
        for name, changes in _ARMS[experiment](wanted) if experiment in _ARMS else ():
            for seed in range(scale.seeds):
                config = _started(replace(wanted.config, seed=seed, **changes), scale, folder)
                # A mix of the usual size is an arm of several experiments.
                made.setdefault(config, (f"remix-{name}-seed-{seed}", []))[1].append(experiment)
    runs = [PlannedRun(name, config, n) for n, (config, (name, _)) in enumerate(made.items())]
    for one in sharing_stage_a(runs):
        starts = starts_of(scale, folder)[one.config.seed]
        parameters = starts.parameters if wanted.own_start else wanted.parameters
        stages = len(one.config.data) - 1 if one.stage_a_of else None
        needs = starts.needs if wanted.own_start else ()
        yield Job(
            one.name,
            "training.remix",
            tuple(one.words(recipe, wanted.recipe, folder)),
            memorization_work(one.config, parameters, stages=stages),
            tuple(made[one.config][1]),
            (*needs, one.stage_a_of) if one.stage_a_of else needs,
            one.final(folder),
        )


def located_names(scale: ReproductionScale) -> list[str]:
    """The runs whose facts are looked for in depth."""
    return [f"remix-{arm}-seed-{seed}" for arm in LOCATED for seed in range(scale.seeds)]


def _started(config: RemixConfig, scale: ReproductionScale, folder: Path) -> RemixConfig:
    if not scale.memorization.own_start:
        return config
    starts = starts_of(scale, folder)[config.seed]
    return replace(config, model=starts.model, revision=starts.last)


def _mixes(_: Memorization) -> Arms:
    for name, mix in _placements().items():
        yield name, {"mix": mix}
    yield "replay", {"replay": Replay.ITEMS, "replay_ratio": _REPLAYED}
    yield "as-many-steps", {"mix": (_FIRST, _LATER), "no_mix_control": NoMixControl.STEPS}
    edited = {"resuscitation_ratio": RATIO, "resuscitation_factor": FACTOR}
    yield "both-resuscitated", {"mix": (_FIRST, _LATER), **edited}


def _other_tasks(wanted: Memorization) -> Arms:
    placed = _placements()
    for name in ("no-mixing", "random-at-a", "generic-later"):
        yield f"other-{name}", {**wanted.other_tasks, "mix": placed[name]}
    replay = {"replay": Replay.ITEMS, "replay_ratio": _REPLAYED}
    yield "other-replay", {**wanted.other_tasks, **replay}


def _amounts(wanted: Memorization) -> Arms:
    for place, mix in (("at-a", (_FIRST, NO_MIX)), ("later", (NO_MIX, _LATER))):
        for size in wanted.mix_sizes:
            yield f"{place}-ratio-{size:g}", {"mix": mix, "mix_ratio": (size,)}
        for words in wanted.mix_lengths:
            yield f"{place}-{words}-words", {"mix": mix, "mix_words": words}


def _three_stages(wanted: Memorization) -> Arms:
    config = wanted.config
    longer: dict[str, Any] = {"data": (*config.data, config.data[-1])}
    for name in _BY_STAGE:
        values = getattr(config, name)
        if len(values) > 1:
            longer[name] = (*values, values[-1])
    yield "three-stages-no-mixing", longer
    yield "three-stages-both", {**longer, "mix": (_FIRST, _LATER, _LATER)}


def _familiar_facts(wanted: Memorization) -> Arms:
    tasks = wanted.other_tasks.get("data", wanted.config.data)[-1]
    for kind, data in (
        ("facts", wanted.familiar["data"]),
        ("tasks", (wanted.familiar["data"][0], tasks)),
    ):
        for name, mix in (("no-mixing", (NO_MIX,)), ("generic-later", (NO_MIX, _LATER))):
            yield f"familiar-{kind}-{name}", {**wanted.familiar, "data": data, "mix": mix}


def _placements() -> dict[str, tuple[str, ...]]:
    """Mixes of both stages, by what runs are called."""
    return {
        "no-mixing": (NO_MIX,),
        "random-at-a": (_FIRST, NO_MIX),
        "generic-later": (NO_MIX, _LATER),
        "both": (_FIRST, _LATER),
        "generic-at-a": (_LATER, NO_MIX),
        "random-later": (NO_MIX, _FIRST),
    }


_ARMS: Mapping[Experiment, Callable[[Memorization], Arms]] = {
    Experiment.MIXES: _mixes,
    Experiment.OTHER_TASKS: _other_tasks,
    Experiment.AMOUNTS: _amounts,
    Experiment.THREE_STAGES: _three_stages,
    Experiment.FAMILIAR_FACTS: _familiar_facts,
}
