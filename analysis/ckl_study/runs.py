"""The runs of a study: what they will cost, making them one after the other, and the report.

A run is made in this process, by `training.ckl`; what it prints goes to a log. How long a study
takes is known from the runs that it has: from their own records of time, or from the first run.

Example:
    >>> shown_duration(4000)
    '1 h 7 min'
"""

import contextlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from analysis.ckl_study.command import LOGS, REPORT, RUNS
from analysis.ckl_study.plan import PlannedRun
from training.runs.directory import DONE_FILE, TIMING_FILE
from training.runs.manifest import is_finished


def print_plan(plan: Sequence[PlannedRun], mine: Sequence[PlannedRun], folder: Path) -> None:
    """Print how many runs there are and how long they will take, as far as that is known.

    Args:
        plan: all runs.
        mine: those that this process makes.
        folder: of the runs.
    """
    over = [one for one in plan if (folder / one.name / DONE_FILE).is_file()]
    left = [one for one in mine if one not in over]
    starts = {one.config.revision: None for one in plan}
    edits = [one for one in plan if one.config.is_edited]
    seeds = len({one.config.seed for one in plan})
    print(
        f"{len(plan)} runs: {len(starts)} starts ({', '.join(map(str, starts))}) and "
        f"{len(edits) // seeds} edits of the last, {seeds} seed{'s' if seeds > 1 else ''} each"
    )
    if not left:
        print(f"all {len(mine)} are over")
        return
    seconds = [_seconds(folder / one.name) for one in over]
    cost = "how long they take is known after the first"
    if seconds:
        cost = f"about {shown_duration(len(left) * fmean(seconds))}, at the pace of those over"
    print(f"{len(mine) - len(left)} are over; {len(left)} to make, {cost}")


def run_all(
    runs: Sequence[PlannedRun],
    words: Mapping[str, Sequence[str]],
    out: Path,
    *,
    minutes: float | None = None,
) -> None:
    """Make the runs that are not over.

    Args:
        runs: in their order.
        words: the arguments of each, by its name.
        out: folder of the study.
        minutes: stop after so many; None to go on to the end.

    Raises:
        ValueError: a run is another one than was planned, or failed.
    """
    left = [one for one in runs if not is_finished(out / RUNS / one.name, one.config, resume=True)]
    began, made = time.monotonic(), 0
    for one in left:
        limit = None if minutes is None else minutes - (time.monotonic() - began) / 60
        if limit is not None and limit <= 0:
            break
        before = time.monotonic()
        _make(one, words[one.name], out, limit)
        made += (out / RUNS / one.name / DONE_FILE).is_file()
        pace = (time.monotonic() - began) / max(made, 1)
        rest = f"; about {shown_duration(pace * (len(left) - made))} to go" if made else ""
        took = shown_duration(time.monotonic() - before)
        print(f"{made} of {len(left)}: {one.name}, {took}{rest}", flush=True)


def report_study(plan: Sequence[PlannedRun], out: Path, command: Sequence[str]) -> None:
    """Report all runs, if they are over.

    Args:
        plan: all runs.
        out: folder of the study.
        command: that asked for it.
    """
    folders = [out / RUNS / one.name for one in plan]
    if missing := [folder for folder in folders if not (folder / DONE_FILE).is_file()]:
        print(f"{len(missing)} of {len(folders)} runs are not over; the report waits for them")
        return
    from analysis.ckl_report.arms import arms_of
    from analysis.ckl_report.command import refuse_folder, write_report
    from analysis.ckl_report.starts import shown_path
    from analysis.run_reading import read_run

    refuse_folder(out / REPORT)
    arms = arms_of([read_run(folder) for folder in folders])
    write_report(arms, out / REPORT, shlex.join(map(shown_path, command)))


def shown_duration(seconds: float | int) -> str:
    """A time as text."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _make(one: PlannedRun, words: Sequence[str], out: Path, limit: float | None) -> None:
    from training.ckl.command import main

    log = out / LOGS / f"{one.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    pieces = [] if limit is None else ["--minutes", f"{limit:.3f}"]
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        code = main([*words, *pieces])
    if code == 130:
        raise KeyboardInterrupt
    if code != 0:
        raise ValueError(f"the run {one.name} failed, for the reason above; see {log} as well")


def _seconds(folder: Path) -> float:
    """How long the steps and looks of a run took."""
    with (folder / TIMING_FILE).open(encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return sum(line.get("seconds", 0) + line.get("observing_seconds", 0) for line in found)
