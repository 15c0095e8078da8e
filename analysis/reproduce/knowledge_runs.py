"""Knowledge runs: continual knowledge learning, as the experiments of a reproduction have it.

Most experiments change one thing about runs from the last checkpoint; `ages` and its like start
from all of them. Curves of runs are looked at step by step where a claim asks for them, and else
only when passages have been met.

Example:
    >>> from analysis.reproduce.scales import smoke
    >>> from analysis.reproduce.starts import starts_of
    >>> len(list(knowledge_jobs(smoke(), Path("runs"), [Experiment.AGES])))
    24
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.command_words import configured
from analysis.reproduce.cost import knowledge_work
from analysis.reproduce.experiments import Experiment
from analysis.reproduce.jobs import Job
from analysis.reproduce.scales import Changes, Knowledge, ReproductionScale
from analysis.reproduce.starts import Starts, starts_of
from interventions.choices import ResuscitationSite
from training.ckl.recipes import CKL_RECIPES
from training.commands.fields import Control, EditForm

RATIO, FACTOR = 0.5, 2.0
"""The resuscitation that is compared with others: the paper's."""
_FACTORS = (0.5, 1.0, 3.0)
_RATIOS = (0.3, 0.5, 0.7, 0.9)
_FACTOR_OF_RATIOS = 1.0
_TEMPERATURES = (1.5, 2.0, 3.0)
_CONTROLS = tuple(control for control in Control if control is not Control.IDENTITY)


def knowledge_jobs(
    scale: ReproductionScale, folder: Path, experiments: Iterable[Experiment]
) -> Iterator[Job]:
    """The runs of experiments; one that several have in common is there once for each."""
    for experiment in experiments:
        every_age = experiment in _AT_EVERY_AGE
        smaller = experiment is Experiment.SIZES
        for name, changes in _arms(experiment, scale.knowledge):
            for seed, starts in enumerate(starts_of(scale, folder, smaller=smaller)):
                for revision in starts.revisions if every_age else (starts.last,):
                    prefix = "smaller-" if smaller else ""
                    called = f"ckl-{prefix}{revision}{name}-seed-{seed}"
                    yield _job(called, changes, seed, revision, starts, scale, folder, experiment)


def _job(
    name: str,
    changes: Changes,
    seed: int,
    revision: str,
    starts: Starts,
    scale: ReproductionScale,
    folder: Path,
    experiment: Experiment,
) -> Job:
    knowledge = scale.knowledge
    where: dict[str, Any] = {"model": starts.model, "revision": revision, "seed": seed}
    config = replace(knowledge.config, **where, **changes)
    recipe = CKL_RECIPES[knowledge.recipe]()
    words = configured(config, recipe, knowledge.recipe)
    return Job(
        name,
        "training.ckl",
        (*words, "--out", str(folder / name), "--resume"),
        knowledge_work(config, starts.parameters),
        (experiment,),
        starts.needs,
        config,
    )


Arms = Iterator[tuple[str, Changes]]


def _arms(experiment: Experiment, knowledge: Knowledge) -> Arms:
    """What an experiment changes, by what its runs are called."""
    made = _ARMS.get(experiment)
    return made(knowledge) if made else iter(())


def _plain(knowledge: Knowledge) -> Arms:
    yield "", knowledge.looked_at


def _resuscitated(_: Knowledge) -> Arms:
    yield f"-up-{FACTOR:g}", _edit(RATIO, FACTOR)


def _familiar(knowledge: Knowledge) -> Arms:
    yield "-familiar", {"corpus": knowledge.familiar_corpus}


def _doses(knowledge: Knowledge) -> Arms:
    yield from _resuscitated(knowledge)
    for factor in _FACTORS:
        yield f"-up-{factor:g}", _edit(RATIO, factor)
    for ratio in _RATIOS:
        if ratio != RATIO:
            yield f"-ratio-{ratio:g}", _edit(ratio, _FACTOR_OF_RATIOS)


def _controls(_: Knowledge) -> Arms:
    preserving = {"resuscitation_site": ResuscitationSite.PRESERVING}
    yield "-preserving", {**_edit(RATIO, FACTOR), **preserving}
    for control in _CONTROLS:
        # Neurons that start afresh have to learn, which a hook would keep them from.
        form = {"edit_form": EditForm.WEIGHTS} if control is Control.REDO else {}
        name = f"-{control}".replace("_", "-")
        yield name, {**_edit(RATIO, FACTOR), "control": control, **form}
    for temperature in _TEMPERATURES:
        yield f"-temperature-{temperature:g}", {"attention_temperature": temperature}


def _spacings(knowledge: Knowledge) -> Arms:
    config = knowledge.config
    for interval in knowledge.intervals:
        if interval != config.injection_interval:
            # As many encounters, and an interval after the last one.
            steps = interval * (config.injection_rounds + 2)
            shorter = {"probe_every": min(config.probe_every, interval)}
            yield (
                f"-interval-{interval}",
                {"injection_interval": interval, "steps": steps, **shorter, **knowledge.looked_at},
            )


def _batches(knowledge: Knowledge) -> Arms:
    for rows in knowledge.batch_sizes:
        if rows != knowledge.config.batch_size:
            yield f"-batch-{rows}", {"batch_size": rows, **knowledge.looked_at}


def _rates(knowledge: Knowledge) -> Arms:
    for rate in knowledge.learning_rates:
        if rate != knowledge.config.learning_rate:
            yield f"-rate-{rate:g}", {"learning_rate": rate, **knowledge.looked_at}


def _edit(ratio: float, factor: float) -> dict[str, Any]:
    return {"resuscitation_ratio": ratio, "resuscitation_factor": factor}


_AT_EVERY_AGE = (Experiment.AGES, Experiment.EDITED_AGES, Experiment.FAMILIAR_TEXT)
_ARMS: Mapping[Experiment, Callable[[Knowledge], Arms]] = {
    Experiment.UNEDITED: _plain,
    Experiment.AGES: _plain,
    Experiment.EDITED_AGES: _resuscitated,
    Experiment.FAMILIAR_TEXT: _familiar,
    Experiment.DOSES: _doses,
    Experiment.CONTROLS: _controls,
    Experiment.SPACINGS: _spacings,
    Experiment.BATCHES: _batches,
    Experiment.RATES: _rates,
    Experiment.SIZES: _plain,
}
