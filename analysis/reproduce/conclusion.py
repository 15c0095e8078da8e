"""A reproduction from its plan to its conclusion: the plan shown, the runs made, the claims judged.

The folder says in `plan.json` of which scale it is; one of another scale is refused. Claims are
judged when all runs are over: measurements become tables, tables become verdicts, and these the
ledger, the comparison with published numbers and the report.

Example:
    >>> from analysis.reproduce.scales import smoke
    >>> Reproduction(smoke(), (), (), (), (), Path("runs/smoke")).runs
    PosixPath('runs/smoke/runs')
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.claims.claim import Claim
from analysis.reproduce.experiments import Experiment
from analysis.reproduce.jobs import Job
from analysis.reproduce.making import make_jobs, remove_unneeded
from analysis.reproduce.memorization_runs import located_names
from analysis.reproduce.scales import ReproductionScale
from analysis.study_runs import RUNS, shown_duration
from training.runs.durable_files import write_whole

PLAN_FILE, TABLES_FOLDER, PAGE = "plan.json", "tables", "report.html"
_TRAINED_ONCE = "training.pretrain"
_PRETRAINING = "pretraining"


@dataclass(frozen=True)
class Reproduction:
    """What is to be made and judged, and where.

    Attributes:
        scale: of the runs.
        jobs: to be made.
        whole: all jobs of the scale, which may be made later.
        claims: that are judged.
        experiments: that they need.
        out: the folder.
    """

    scale: ReproductionScale
    jobs: tuple[Job, ...]
    whole: tuple[Job, ...]
    claims: tuple[Claim, ...]
    experiments: tuple[Experiment, ...]
    out: Path

    @property
    def runs(self) -> Path:
        """The folder of the runs."""
        return self.out / RUNS


def reproduce(
    made: Reproduction,
    *,
    command: str,
    at_once: int,
    mine: Sequence[Job],
    minutes: float | None = None,
    keep_checkpoints: bool = False,
    dry_run: bool = False,
) -> None:
    """Make what is not over, and conclude once all is."""
    if at_once < 1:
        raise ValueError(f"--processes must be 1 or more, found {at_once}")
    _refuse_folder(made)
    over = {job.name for job in made.jobs if job.is_over(made.runs)}
    print_plan(made, over, at_once)
    if dry_run:
        return
    made.out.mkdir(parents=True, exist_ok=True)
    write_whole(made.out / PLAN_FILE, json.dumps({"scale": made.scale.name}) + "\n")
    kept = {job.name for job in made.jobs if job.program == _TRAINED_ONCE}
    located = set(located_names(made.scale))
    # A run that went on from another one's stage A has its model there.
    located |= {name for job in made.jobs if job.name in located for name in job.needs}
    removable = set() if keep_checkpoints else {job.name for job in made.jobs} - kept
    progress = make_jobs(
        mine,
        made.whole,
        made.out,
        over,
        at_once=at_once,
        cost=lambda job: _seconds([job], made.scale, at_once),
        minutes=minutes,
        tidy=removable - located,
    )
    left = [job for job in made.jobs if job.name not in progress.over]
    if left:
        waiting = sum(not progress.over.issuperset(job.needs) for job in left)
        print(
            f"{len(left)} of {len(made.jobs)} runs are not over, {waiting} of them wait for "
            "others; give the same command again to go on"
        )
        return
    conclude(made, command)
    remove_unneeded(made.whole, progress.over, made.out, removable)


def print_plan(made: Reproduction, over: set[str], at_once: int) -> None:
    """Print which runs there are, and about how long they take."""
    from rich.console import Console
    from rich.table import Table as RichTable

    scale = made.scale
    table = RichTable(title=f"{scale.name}: {len(made.claims)} claims, {len(made.jobs)} runs")
    for heading in ("runs for", "runs", "finished", "about, on " + scale.machine):
        table.add_column(heading, justify="left" if heading == "runs for" else "right")
    for name, jobs in _by_experiment(made).items():
        left = [job for job in jobs if job.name not in over]
        cost = shown_duration(_seconds(left, scale, at_once)) if left else ""
        table.add_row(name, str(len(jobs)), str(len(jobs) - len(left)), cost)
    left = [job for job in made.jobs if job.name not in over]
    total = shown_duration(_seconds(left, scale, at_once))
    table.add_row("all", str(len(made.jobs)), str(len(over)), total)
    Console().print(table)
    print(
        f"estimated from operations, {at_once} at a time; runs that several experiments need are "
        "counted once"
    )


def conclude(made: Reproduction, command: str) -> None:
    """Judge the claims on the runs, and write tables, ledger, verification and report."""
    from analysis.claims.judging import judge
    from analysis.claims.ledger import MARKDOWN_FILE, counts_text, ledger_of, write_ledger
    from analysis.published import (
        headline,
        settings_of_results,
        verify,
        write_verification,
    )
    from analysis.report.material import Material
    from analysis.report.writing import write_page
    from analysis.reproduce.measuring import measured_tables, results_of

    results = results_of(made.jobs, made.runs)
    located = located_names(made.scale)
    tables = measured_tables(
        results, made.runs, located, made.scale.memorization.located, made.out / TABLES_FOLDER
    )
    ledger = ledger_of(
        judge(made.claims, tables),
        scale=made.scale.name,
        command=command,
        page=PAGE,
        provenance=_provenance(made),
    )
    write_ledger(ledger, made.out)
    comparisons = verify(tables, settings_of_results(results))
    write_verification(comparisons, made.out)
    write_page(
        Material(results=results, measured=tables, ledger=ledger),
        made.out / PAGE,
        command=command,
        title=f"The papers' claims, at the scale {made.scale.name}",
    )
    print(f"{len(made.claims)} claims: {counts_text(ledger.claims)}")
    print(headline(comparisons))
    print(f"ledger: {made.out / MARKDOWN_FILE}")
    print(f"page: {made.out / PAGE}")


def _provenance(made: Reproduction) -> dict[str, Any]:
    return {
        "seeds": made.scale.seeds,
        "checkpoints": made.scale.checkpoints,
        "runs": len(made.jobs),
        "experiments": list(_by_experiment(made)),
    }


def _refuse_folder(made: Reproduction) -> None:
    plan = made.out / PLAN_FILE
    if plan.is_file():
        found = json.loads(plan.read_text(encoding="utf-8"))["scale"]
        if found != made.scale.name:
            raise ValueError(
                f"--out {made.out} holds a reproduction at the scale {found}, not "
                f"{made.scale.name}; give another folder"
            )
    elif made.out.exists() and (not made.out.is_dir() or any(made.out.iterdir())):
        raise ValueError(f"--out {made.out} exists and holds no reproduction; give another folder")


def _by_experiment(made: Reproduction) -> dict[str, list[Job]]:
    """Jobs by the first experiment that wants them, in the order of experiments."""
    found: dict[str, list[Job]] = {_PRETRAINING: []}
    found |= {str(experiment): [] for experiment in made.experiments}
    for job in made.jobs:
        wanting = [one for one in made.experiments if one in job.experiments]
        # A run that only makes a stage A for another one is part of what that one is for.
        name = next(map(str, [*wanting, *job.experiments]), _PRETRAINING)
        found.setdefault(name, []).append(job)
    return {name: jobs for name, jobs in found.items() if jobs}


def _seconds(jobs: Sequence[Job], scale: ReproductionScale, at_once: int) -> float:
    return sum(job.work / scale.rate + scale.overhead for job in jobs) / at_once
