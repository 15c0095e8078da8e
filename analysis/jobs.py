"""Jobs: commands that wait for one another, made once each, and gone on with after a stop.

Each runs by the `main` of its command, in this process or in workers; what it prints goes to
`logs/`. What is finished with other settings, weights or texts than a job asks for is refused.

Example:
    >>> Job("tiny", "training.pretrain", ("--recipe", "tiny")).line()
    'python -m training.pretrain --recipe tiny'
    >>> shard_of(["a", "b", "c"], "1/2"), duration_text(4000)
    (['a', 'c'], '1 h 7 min')
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

from training.choices import Parallel
from training.commands import TrainingCommand
from training.options import EDIT_FIELDS, deciding_edits
from training.recipes import command_words

RUNS, LOGS, REPORT, CHECKPOINTS = "runs", "logs", "report", "checkpoints"
_WEIGHTS = re.compile(r'"weights_sha256": ?"(\w+)"')
_SEED = re.compile(r"-seed-\d+$")
_INTERRUPTED = 130
_ESTIMATED_FROM = 0.05
"""Share of the work that is done before it is said how long the rest will take."""
Each = TypeVar("Each")


@dataclass(frozen=True)
class Job:
    """A command."""

    name: str  # the folder's name
    program: str  # the module that `python -m` runs
    words: tuple[str, ...]  # its arguments
    seconds: float = 1.0  # about how long it takes; equal numbers where that is not known
    experiments: tuple[str, ...] = ()  # the experiments that it is part of
    needs: tuple[str, ...] = ()  # names of jobs that must be over before
    config: Any = None  # the settings of a training run; None for other commands
    processes: int | None = None  # processes that torchrun starts; None where it is started without
    last_file: str = ""  # the file that a command other than a training run writes last
    # what a sweep over checkpoints is asked to do, by the names of its options
    asked: Mapping[str, Any] = field(default_factory=dict, hash=False)
    also: tuple[str, ...] = ()  # names of runs that train the same, for which this one is made

    def line(self) -> str:
        started = ["torchrun", *_each_node(self.processes)] if self.processes else ["python"]
        return shlex.join([*started, "-m", self.program, *self.words])

    def is_over(self, runs: Path) -> bool:
        """Whether there is nothing left to do of it."""
        folder = runs / self.name
        if self.config is not None:
            from training.single_run import is_over

            return is_over(folder, self.config)
        if not (folder / self.last_file).is_file():
            return False
        if self.asked:
            _refuse_other_sweep(folder, self.asked)
        return True


def _refuse_other_sweep(folder: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a sweep with other settings, or of checkpoints that are here with other weights."""
    from analysis.checkpoints import MANIFEST
    from training.single_run import weights_hash

    settings = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    differ = {name: value for name, value in asked.items() if settings.get(name, value) != value}
    for name, value in differ.items():
        raise ValueError(
            f"{folder} holds a sweep with {name} {settings[name]!r}, not {value!r}; give another "
            "folder"
        )
    for revision in asked["revisions"]:
        checkpoint = Path(asked["model"]) / CHECKPOINTS / revision
        files = (folder / revision).rglob("*.json") if checkpoint.is_dir() else ()
        kept = {sha for file in files for sha in _WEIGHTS.findall(file.read_text("utf-8"))}
        if kept - {weights_hash(str(checkpoint))}:
            raise ValueError(
                f"{folder} holds results of other weights than {checkpoint} has now; put back what "
                "they were, or give another folder"
            )


def _each_node(processes: int) -> list[str]:
    return ["--standalone", "--nproc-per-node", str(processes)]


def training_job(
    command: TrainingCommand,
    name: str,
    config: Any,
    recipe: str,
    folder: Path,
    *,
    processes: int = 1,
    **others: Any,
) -> Job:
    """The job that makes a training run, by so many processes where it is a run of several, or goes
    on with it.
    """
    words = command_words(config, command.recipes[recipe](), recipe)
    words += ["--out", str(folder / name), "--resume"]
    several = None if config.parallel is Parallel.NONE else processes
    return Job(name, command.program, tuple(words), config=config, processes=several, **others)


def same_runs(configs: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The first of all runs that train the same up to rounding, and the names of the others."""
    found: dict[str, list[str]] = {}
    for name, config in configs.items():
        settings = vars(config)
        if EDIT_FIELDS[0] in settings:
            others = {key: value for key, value in settings.items() if key not in EDIT_FIELDS}
            settings = others | deciding_edits(settings)
        found.setdefault(repr(sorted(settings.items())), []).append(name)
    return {first: tuple(others) for first, *others in found.values()}


def same_runs_text(jobs: Sequence[Job]) -> str:
    """A line about arms that train the same; empty where there are none."""
    pairs = [(one, job.name) for job in jobs for one in job.also]
    arms = dict.fromkeys(f"{_SEED.sub('', one)} is {_SEED.sub('', made)}" for one, made in pairs)
    return f"the same training by two names, made once: {'; '.join(arms)}" if arms else ""


def in_waves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in sets: each needs none but those of the sets before it."""
    sorter, waves = TopologicalSorter({job.name: job.needs for job in jobs}), []
    sorter.prepare()
    while sorter.is_active():
        ready = sorter.get_ready()
        sorter.done(*ready)
        waves.append([job for job in jobs if job.name in ready])
    return waves


def in_groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs in sets that share nothing: those that go on from the same first job."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.needs[0] if job.needs else job.name, []).append(job)
    return list(groups.values())


def shard_of(plan: Sequence[Each], shard: str | None) -> list[Each]:
    """Every n-th of a plan, the i-th of them first."""
    if shard is None:
        return list(plan)
    first, _, count = shard.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ValueError(f"--shard {shard!r} must be i/n, with i from 1 to n; 1/2 and 2/2 say")
    return list(plan)[int(first) - 1 :: int(count)]


def run_jobs(
    jobs: Sequence[Job],
    out: Path,
    over: Collection[str],
    *,
    at_once: int | None = None,
    minutes: float | None = None,
    on_over: Callable[[set[str]], None] = lambda _: None,
) -> set[str]:
    """Make the jobs that are not over, as far as what they need is; names of all that are then.

    They are made by `at_once` worker processes; None makes one after the other in this process,
    with its progress on the terminal. None begins after `minutes`, and those that can stop do.
    """
    done = set(over)
    planned = [job for job in jobs if job.name not in done]
    todo, took, running = list(planned), dict[str, float](), dict[Future[float], Job]()
    began = time.monotonic()
    with _executor(at_once) as executor:
        while todo or running:
            left = None if minutes is None else minutes - (time.monotonic() - began) / 60
            if left is None or left > 0:
                ready = [job for job in todo if done.issuperset(job.needs)]
                for job in ready[: (at_once or 1) - len(running)]:
                    todo.remove(job)
                    made = executor.submit(_make, job, out / LOGS, left, at_once is None)
                    running[made] = job
            if not running:
                break
            for made in wait(running, return_when=FIRST_COMPLETED).done:
                job, seconds = running.pop(made), made.result()
                if job.is_over(out / RUNS):
                    done.add(job.name)
                    took[job.name] = seconds
                    on_over(done)
                    print(_progress(job, planned, took, time.monotonic() - began), flush=True)
    return done


def duration_text(seconds: float | int) -> str:
    """A time, rounded to what is of interest."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _progress(job: Job, planned: Sequence[Job], took: Mapping[str, float], elapsed: float) -> str:
    made = sum(one.seconds for one in planned if one.name in took)
    left = sum(one.seconds for one in planned if one.name not in took)
    # The first few are too short a time to go by.
    is_known = left and made >= _ESTIMATED_FROM * (made + left)
    rest = f"; about {duration_text(elapsed * left / made)} to go" if is_known else ""
    return f"{len(took)} of {len(planned)}: {job.name}, {duration_text(took[job.name])}{rest}"


def _make(job: Job, logs: Path, minutes: float | None, here: bool) -> float:
    """Run a job's command in this process; the seconds that it took.

    Its errors and progress go to its log as well, unless it is made `here`, before a user's eyes.
    """
    can_stop = minutes is not None and job.config is not None
    words = [*job.words, *(["--minutes", f"{minutes:.3f}"] if can_stop else [])]
    log = logs / f"{job.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(sys.stderr if here else file),
    ):
        if job.processes is None:
            code = importlib.import_module(job.program).main(words)
        else:
            torchrun = [sys.executable, "-m", "torch.distributed.run", *_each_node(job.processes)]
            started = [*torchrun, "-m", job.program, *words]
            code = subprocess.run(started, stdout=file, stderr=file, check=False).returncode
    if code == _INTERRUPTED and here:
        raise KeyboardInterrupt
    if code not in (0, _INTERRUPTED):
        lines = log.read_text(encoding="utf-8").strip().splitlines() or ["without a word"]
        # torchrun says more after the line of the run itself.
        own = [line for line in lines if line.startswith(f"{job.program}: error: ")] or lines
        reason = "for the reason above" if here and job.processes is None else own[-1]
        raise ValueError(f"the run {job.name} failed: {reason}; see {log}")
    return time.monotonic() - began


class _ThisProcess(Executor):
    """Runs what is submitted at once."""

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        made: Future[Any] = Future()
        made.set_result(function(*args, **options))
        return made


@contextlib.contextmanager
def _executor(at_once: int | None) -> Iterator[Executor]:
    """This process, or worker processes that share the cores and end with this one."""
    if at_once is None:
        yield _ThisProcess()
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(at_once, spawn, partial(_begin, at_once))
    try:
        yield pool
    except BaseException:
        # What was not begun is not to be waited for.
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    pool.shutdown()


def _begin(at_once: int) -> None:
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The first process tells the others; two answers to one key would be two tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(max(1, multiprocessing.cpu_count() // at_once))


def _end_with_parent() -> None:
    """End this worker as soon as the process is gone that it works for, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by another process"
    parent.join()
    os._exit(1)
