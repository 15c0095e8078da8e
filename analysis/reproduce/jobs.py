"""Jobs: the commands of a reproduction, what each waits for, and whether it is over.

Example:
    >>> job = Job("trajectory-seed-0", "training.pretrain", ("--recipe", "tiny"), work=1.0)
    >>> job.line()
    'python -m training.pretrain --recipe tiny'
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.reproduce.experiments import Experiment
from training.runs.directory import DONE_FILE


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        name: of its folder.
        program: the module that `python -m` runs.
        words: its arguments.
        work: floating-point operations, about.
        experiments: that it is part of; none for pretraining.
        needs: names of jobs that must be over.
        config: of a training run; None for other commands.
        last_file: that it writes when all else is there.
    """

    name: str
    program: str
    words: tuple[str, ...]
    work: float
    experiments: tuple[Experiment, ...] = ()
    needs: tuple[str, ...] = ()
    config: Any = None
    last_file: str = DONE_FILE

    @property
    def takes_minutes(self) -> bool:
        """Whether it can stop after some minutes, to go on later."""
        return self.config is not None

    def line(self) -> str:
        """As a command line."""
        return shlex.join(["python", "-m", self.program, *self.words])

    def is_over(self, folder: Path) -> bool:
        """Whether there is nothing left to do of it."""
        if self.config is None:
            return (folder / self.name / self.last_file).is_file()
        from training.runs.finished import is_over

        return is_over(folder / self.name, self.config)


def in_waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in sets: each needs none but those of the sets before it."""
    depth = depths(jobs)
    waves = range(1 + max(depth.values(), default=-1))
    return [[job for job in jobs if depth[job.name] == n] for n in waves]


def depths(jobs: Sequence[Job]) -> Mapping[str, int]:
    """By name, how many jobs have to be made before it, one after the other."""
    by_name = {job.name: job for job in jobs}
    found: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in found:
            found[name] = max((1 + depth(other) for other in by_name[name].needs), default=0)
        return found[name]

    return {job.name: depth(job.name) for job in jobs}
