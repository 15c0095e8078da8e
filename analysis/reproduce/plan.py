"""The plan of a reproduction: all jobs that its claims need, each once, those that wait last.

Example:
    >>> from analysis.reproduce.scales import smoke
    >>> jobs = plan_jobs(smoke(), Path("runs"), [Experiment.ENTROPIES])
    >>> [job.name for job in jobs if "seed-0" in job.name]
    ['trajectory-seed-0', 'entropies-seed-0']
"""

from collections.abc import Iterable, Iterator, Sequence
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


def plan_jobs(
    scale: ReproductionScale, folder: Path, experiments: Sequence[Experiment]
) -> list[Job]:
    """All jobs of some experiments, in an order in which they can be made.

    Args:
        scale: of the reproduction.
        folder: of its runs.
        experiments: wanted.
    """
    runs = [
        *_measuring_jobs(scale, folder, experiments),
        *knowledge_jobs(scale, folder, experiments),
        *memorization_jobs(scale, folder, experiments),
    ]
    makers = [
        *trajectory_jobs(scale, folder),
        *trajectory_jobs(scale, folder, smaller=True),
    ]
    used = {name for job in runs for name in job.needs}
    wanted = [job for job in makers if job.name in used] + _each_once(runs)
    # All jobs of the first seed come first, so that what is stopped early has some of everything.
    return [
        job
        for wave in in_waves(wanted)
        for job in sorted(wave, key=lambda job: int(job.name.rpartition("-")[2]))
    ]


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
        Experiment.ENTROPIES,
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
        Experiment.UPDATES,
        starts.needs,
        last_file="updates.csv",
    )


def _each_once(jobs: Sequence[Job]) -> list[Job]:
    """Jobs without those that are there already, by their names."""
    found: dict[str, Job] = {}
    for job in jobs:
        found.setdefault(job.name, job)
    return list(found.values())
