"""Study runs: the runs of a study, one after the other, what they will cost, and its shards.

A run is made in this process, by the `main` of its command; what it prints goes to a log. How long
a study takes is known from the runs that it has: from their own records of time, or from the first
run. A study has its runs in `runs/`, logs in `logs/` and the report in `report/`.

Example:
    >>> shown_duration(4000)
    '1 h 7 min'
    >>> shard_of(["a", "b", "c"], "1/2")
    ['a', 'c']
"""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from training.runs.directory import DONE_FILE, TIMING_FILE

RUNS, LOGS, REPORT = "runs", "logs", "report"
Each = TypeVar("Each")


@dataclass(frozen=True)
class StudyRun:
    """A run of a study.

    Attributes:
        name: of its folder.
        words: the arguments that make it, or go on with it.
        main: of the command that takes them.
        is_over: whether a folder holds it, finished; refuses a folder with another run.
    """

    name: str
    words: Sequence[str]
    main: Callable[[Sequence[str]], int]
    is_over: Callable[[Path], bool]


def shard_of(plan: Sequence[Each], shard: str | None) -> list[Each]:
    """The runs of one shard."""
    if shard is None:
        return list(plan)
    first, _, count = shard.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ValueError(f"--shard {shard!r} must be i/n, with i from 1 to n; 1/2 and 2/2 say")
    return list(plan)[int(first) - 1 :: int(count)]


def cost_text(mine: Sequence[str], names: Sequence[str], folder: Path) -> str:
    """How many runs are over, and how long the others will take, as far as that is known."""
    over = {name for name in names if (folder / name / DONE_FILE).is_file()}
    left = [name for name in mine if name not in over]
    if not left:
        return f"all {len(mine)} are over"
    seconds = [_seconds(folder / name) for name in names if name in over]
    cost = "how long they take is known after the first"
    if seconds:
        cost = f"about {shown_duration(len(left) * fmean(seconds))}, at the pace of those over"
    return f"{len(mine) - len(left)} are over; {len(left)} to make, {cost}"


def run_all(
    runs: Sequence[StudyRun],
    out: Path,
    *,
    minutes: float | None = None,
) -> None:
    """Make the runs that are not over."""
    left = [one for one in runs if not one.is_over(out / RUNS / one.name)]
    began, made = time.monotonic(), 0
    for one in left:
        limit = None if minutes is None else minutes - (time.monotonic() - began) / 60
        if limit is not None and limit <= 0:
            break
        before = time.monotonic()
        _make(one, out, limit)
        made += (out / RUNS / one.name / DONE_FILE).is_file()
        pace = (time.monotonic() - began) / max(made, 1)
        rest = f"; about {shown_duration(pace * (len(left) - made))} to go" if made else ""
        took = shown_duration(time.monotonic() - before)
        print(f"{made} of {len(left)}: {one.name}, {took}{rest}", flush=True)


def not_over(names: Sequence[str], folder: Path) -> list[str]:
    """The runs that are not over; says so, if there are any, since the report waits for them."""
    missing = [name for name in names if not (folder / name / DONE_FILE).is_file()]
    if missing:
        print(f"{len(missing)} of {len(names)} runs are not over; the report waits for them")
    return missing


def shown_duration(seconds: float | int) -> str:
    """A time as text."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _make(one: StudyRun, out: Path, limit: float | None) -> None:
    log = out / LOGS / f"{one.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    pieces = [] if limit is None else ["--minutes", f"{limit:.3f}"]
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        code = one.main([*one.words, *pieces])
    if code == 130:
        raise KeyboardInterrupt
    if code != 0:
        raise ValueError(f"the run {one.name} failed, for the reason above; see {log} as well")


def _seconds(folder: Path) -> float:
    """How long the steps and looks of a run took, all its stages together."""
    files = sorted(folder.rglob(TIMING_FILE))
    found = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    return sum(line.get("seconds", 0) + line.get("observing_seconds", 0) for line in found)
