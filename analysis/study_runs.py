"""Runs of a study: what every study can be asked, and its runs listed, checked or made."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from analysis.jobs import (
    RUNS,
    Job,
    duration_text,
    in_groups,
    run_jobs,
    same_runs_text,
    shard_of,
)
from training.recipes import flag


def refuse_chosen(config: Any, recipe: Any, chosen: Sequence[str], why: str) -> None:
    """Refuse settings that a study chooses itself, where they are not the recipe's."""
    for name in chosen:
        if getattr(config, name) != getattr(recipe, name):
            raise ValueError(f"{flag(name)} is the study's to choose: {why}")


@dataclass(frozen=True, kw_only=True)
class RunsFields:
    """The folder of a study, and how its runs are made."""

    out: Path
    """Folder of the study; made if it is not there, gone on with if it is."""
    seeds: int = 3
    """Runs of each; the first has --seed."""
    processes_per_run: int = 1
    """Processes that torchrun starts for each run, where --parallel is ddp or fsdp."""
    dry_run: bool = False
    """Try every run on a tiny model as it would start, say which cannot, and stop."""
    list: bool = False
    """Print the commands, one a run, and stop."""
    shard: str | None = None
    """Only every n-th run, or group of runs that share stage A, the i-th first: i/n."""
    minutes: float | None = None
    """Stop after so many, to go on later; at the end of the study."""
    debug: bool = False
    """Show the traceback of an error."""


def run_study(jobs: Sequence[Job], arguments: Any, arms: str, more: str = "") -> bool:
    """List or make the jobs of a study; whether all of them are over."""
    mine = [job for group in shard_of(in_groups(jobs), arguments.shard) for job in group]
    same = same_runs_text(jobs)
    if arguments.list:
        print("\n".join([f"# {same}"] * bool(same) + [job.line() for job in mine]))
        return False
    runs = arguments.out / RUNS
    over = {job.name for job in jobs if job.is_over(runs)}
    seeds = arguments.seeds
    print(f"{len(jobs)} runs: {arms}, {seeds} seed{'s' if seeds > 1 else ''} each{more}")
    print(same, end="\n" * bool(same))
    if arguments.dry_run:
        from analysis.job_checks import refuse_failing

        refuse_failing([job for job in mine if job.name not in over], runs)
        return False
    # How many jobs are over, and how long the others will take at the pace of these.
    left = [job for job in mine if job.name not in over]
    cost = "how long they take is known after the first"
    if seconds := [_recorded_seconds(runs / name) for name in over]:
        cost = f"about {duration_text(len(left) * fmean(seconds))}, at the pace of those over"
    counts = f"{len(mine) - len(left)} are over; {len(left)} to make, {cost}"
    print(counts if left else f"all {len(mine)} are over")
    run_jobs(mine, arguments.out, over, minutes=arguments.minutes)
    # Other machines may have made their shards meanwhile.
    if waiting := [job for job in jobs if not job.is_over(runs)]:
        print(f"{len(waiting)} of {len(jobs)} runs are not over; the report waits for them")
    return not waiting


def _recorded_seconds(folder: Path) -> float:
    """How long the updates and evaluations of a run took, all its stages together."""
    from training.runs.directory import TIMING_FILE

    files = sorted(folder.rglob(TIMING_FILE))
    found = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    return sum(line.get("seconds", 0) + line.get("observing_seconds", 0) for line in found)
