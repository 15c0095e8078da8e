"""Making: the jobs of a plan, several at a time, each when what it needs is over.

Every job is a command that runs in a worker process by its `main`; workers live as long as the
reproduction, so that libraries are loaded once each. What a job prints goes to `logs/`. A job that
was stopped is gone on with; finished ones are left alone. Checkpoints that no job needs any more
are removed when asked for; records are kept.

Example:
    >>> Progress({"trajectory-seed-0"}).seconds
    {}
"""

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from analysis.reproduce.jobs import Job
from analysis.study_runs import LOGS, RUNS, shown_duration
from training.runs.directory import CHECKPOINTS_FOLDER

_INTERRUPTED = 130
_TOLD_FROM = 0.05
"""Share of the work that is done before it is said how long the rest will take."""


@dataclass
class Progress:
    """How far a reproduction is.

    Attributes:
        over: names of jobs that are over.
        seconds: that jobs took which were made just now, by name.
    """

    over: set[str]
    seconds: dict[str, float] = field(default_factory=dict)


def make_jobs(
    jobs: Sequence[Job],
    whole: Sequence[Job],
    folder: Path,
    over: Iterable[str],
    *,
    at_once: int,
    cost: Callable[[Job], float],
    minutes: float | None = None,
    tidy: Iterable[str] = (),
) -> Progress:
    """Make the jobs that are not over, as far as what they need is."""
    progress = Progress(set(over))
    todo = [job for job in jobs if job.name not in progress.over]
    if not todo:
        return progress
    removable = set(tidy)
    remove_unneeded(whole, progress.over, folder, removable)
    began, planned = time.monotonic(), list(todo)
    running: dict[Future[float], Job] = {}
    with _workers(at_once) as pool:
        while todo or running:
            left = None if minutes is None else minutes - (time.monotonic() - began) / 60
            if left is None or left > 0:
                for job in _ready(todo, progress.over)[: at_once - len(running)]:
                    todo.remove(job)
                    running[pool.submit(_make, job, folder / LOGS, left)] = job
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                seconds = future.result()
                if not job.is_over(folder / RUNS):
                    continue
                progress.over.add(job.name)
                progress.seconds[job.name] = seconds
                remove_unneeded(whole, progress.over, folder, removable)
                _tell(progress, job, planned, cost, time.monotonic() - began)
    return progress


def remove_unneeded(
    jobs: Sequence[Job], over: Iterable[str], folder: Path, removable: Iterable[str]
) -> None:
    """Remove the checkpoints of finished jobs that no unfinished job needs."""
    done = set(over)
    wanted = {name for job in jobs if job.name not in done for name in job.needs}
    for name in done.intersection(removable) - wanted:
        # A run in stages has a folder of checkpoints in each.
        for checkpoints in sorted((folder / RUNS / name).rglob(CHECKPOINTS_FOLDER)):
            shutil.rmtree(checkpoints)


def _ready(todo: Sequence[Job], over: set[str]) -> list[Job]:
    return [job for job in todo if over.issuperset(job.needs)]


def _tell(
    progress: Progress,
    job: Job,
    planned: Sequence[Job],
    cost: Callable[[Job], float],
    elapsed: float,
) -> None:
    """Print a line about a job that is over, and about how long the others will take."""
    made = sum(cost(one) for one in planned if one.name in progress.seconds)
    left = sum(cost(one) for one in planned if one.name not in progress.seconds)
    # The first few are too short a time to tell.
    told = left and made >= _TOLD_FROM * (made + left)
    rest = f"; about {shown_duration(elapsed * left / made)} to go" if told else ""
    number, took = len(progress.seconds), shown_duration(progress.seconds[job.name])
    print(f"{number} of {len(planned)}: {job.name}, {took}{rest}", flush=True)


@contextlib.contextmanager
def _workers(at_once: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that share the cores; they end with this one."""
    pool = ProcessPoolExecutor(
        at_once, multiprocessing.get_context("spawn"), partial(_begin, at_once)
    )
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
    cores = multiprocessing.cpu_count()
    torch.set_num_threads(max(1, cores // at_once))


def _end_with_parent() -> None:
    """End this worker as soon as the process is gone that it works for, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by another process"
    parent.join()
    os._exit(1)


def _make(job: Job, logs: Path, minutes: float | None) -> float:
    """Run a job's command in this process; what it prints goes to its log."""
    main = importlib.import_module(f"{job.program}.command").main
    words = list(job.words)
    if minutes is not None and job.takes_minutes:
        words += ["--minutes", f"{minutes:.3f}"]
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{job.name}.txt"
    began = time.monotonic()
    with (
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        code = main(words)
    if code not in (0, _INTERRUPTED):
        lines = log.read_text(encoding="utf-8").strip().splitlines() or ["without a word"]
        raise ValueError(f"{job.name} failed: {lines[-1]}; see {log}")
    return time.monotonic() - began
