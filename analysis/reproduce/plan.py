"""The plan of a reproduction: all jobs that its claims need, each once, those that wait last.

A part of it, for some experiments, is cut from the whole plan of its scale, so that runs are called
and made the same whatever else is asked for, and a reproduction can be gone on with.

Example:
    >>> from analysis.reproduce.scales import smoke
    >>> jobs = plan_part(whole_plan(smoke(), Path("runs")), [Experiment.ENTROPIES])
    >>> [job.name for job in jobs if "seed-0" in job.name]
    ['trajectory-seed-0', 'entropies-seed-0']
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from analysis.reproduce.cost import reading_work, training_work
from analysis.reproduce.experiments import Experiment
from analysis.reproduce.jobs import Job, in_waves
from analysis.reproduce.knowledge_runs import knowledge_jobs
from analysis.reproduce.memorization_runs import memorization_jobs
from analysis.reproduce.scales import ReproductionScale
from analysis.reproduce.starts import Starts, starts_of, trajectory_jobs

_VARIANTS = ("relu_output", "relu_gate")
_ROW_LENGTH = 256
_UPDATE_ROWS = 4


def whole_plan(scale: ReproductionScale, folder: Path) -> list[Job]:
    """All jobs of a scale, in an order in which they can be made."""
    jobs = _each_once(
        [
            *trajectory_jobs(scale, folder),
            *trajectory_jobs(scale, folder, smaller=True),
            *_measuring_jobs(scale, folder, scale.experiments),
            *knowledge_jobs(scale, folder, scale.experiments),
            *memorization_jobs(scale, folder, scale.experiments),
        ]
    )
    # All jobs of the first seed come first, so that what is stopped early has some of everything.
    return [
        job
        for wave in in_waves(jobs)
        for job in sorted(wave, key=lambda job: int(job.name.rpartition("-")[2]))
    ]


def plan_part(whole: Sequence[Job], experiments: Collection[Experiment]) -> list[Job]:
    """The jobs of some experiments, and those that they need."""
    wanted = {job.name for job in whole if not set(experiments).isdisjoint(job.experiments)}
    # What a job needs stands before it.
    for job in reversed(whole):
        if job.name in wanted:
            wanted.update(job.needs)
    return [job for job in whole if job.name in wanted]


def _measuring_jobs(
    scale: ReproductionScale, folder: Path, experiments: Iterable[Experiment]
) -> Iterator[Job]:
    """Jobs that look at checkpoints and train nothing; seeds of a hub model are one."""
    for seed, starts in enumerate(dict.fromkeys(starts_of(scale, folder))):
        if Experiment.ENTROPIES in experiments:
            yield _entropies(scale, folder, starts, f"entropies-seed-{seed}")
        if Experiment.UPDATES in experiments:
            yield _updates(scale, folder, starts, f"updates-seed-{seed}")


def _entropies(scale: ReproductionScale, folder: Path, starts: Starts, name: str) -> Job:
    read = scale.entropy_tokens * len(scale.corpora) * len(starts.revisions)
    return Job(
        name,
        "analysis.entropy",
        (
            *("--model", starts.model, "--revisions", *starts.revisions),
            *("--corpus", *scale.corpora, "--max-tokens", str(scale.entropy_tokens)),
            *("--variants", *_VARIANTS, "--sequence-length", str(_ROW_LENGTH)),
            *("--out", str(folder / name)),
        ),
        reading_work(read, starts.parameters),
        (Experiment.ENTROPIES,),
        starts.needs,
        last_file="trajectory.csv",
    )


def _updates(scale: ReproductionScale, folder: Path, starts: Starts, name: str) -> Job:
    read = scale.update_batches * _UPDATE_ROWS * _ROW_LENGTH * len(starts.revisions)
    return Job(
        name,
        "analysis.memory_updates",
        (
            *("--model", starts.model, "--revisions", *starts.revisions),
            *("--corpus", scale.corpora[0], "--batches", str(scale.update_batches)),
            *("--batch-size", str(_UPDATE_ROWS), "--sequence-length", str(_ROW_LENGTH)),
            *("--out", str(folder / name)),
        ),
        training_work(read, starts.parameters),
        (Experiment.UPDATES,),
        starts.needs,
        last_file="updates.csv",
    )


def _each_once(jobs: Iterable[Job]) -> list[Job]:
    """Jobs by their names, each part of all experiments that have it."""
    found: dict[str, Job] = {}
    for job in jobs:
        there = found.setdefault(job.name, job)
        others = [one for one in job.experiments if one not in there.experiments]
        found[job.name] = replace(there, experiments=(*there.experiments, *others))
    return list(found.values())
