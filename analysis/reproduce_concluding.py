"""A reproduction from its plan to its conclusion: the plan shown, the runs made, the claims judged.

The folder says in `plan.json` of which scale it is; one of another scale is refused. Claims are
judged when all runs are over.
"""

import json
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from analysis.claims.catalogue import Claim
from analysis.claims.choices import Experiment
from analysis.claims.judging import judge
from analysis.claims.ledger import MARKDOWN_FILE, counts_text, ledger_of, write_ledger
from analysis.jobs import RUNS, Job, duration_text, run_jobs, same_runs_text
from analysis.measurements import Table
from analysis.published.results import settings_of_results
from analysis.published.verification import headline, verify, write_verification
from analysis.report.page import write_page
from analysis.report.parts import Material
from analysis.reproduce_plan import located_names, models_of, pretrained_of
from analysis.reproduce_scales import ReproductionScale
from analysis.result_folders import Results, find_results, tables_of
from analysis.run_rows import fact_depths, memorization_table
from analysis.runs import Chain, read_chain
from analysis.study_runs import refuse_failing
from probes.cli import refuse_foreign
from training.runs.directory import CHECKPOINTS_FOLDER
from training.runs.records import write_whole

PLAN_FILE, TABLES_FOLDER, DEPTHS_FILE, PAGE = "plan.json", "tables", "depths.csv", "report.html"
_PRETRAIN, _PRETRAINING = "training.pretrain", "pretraining"


@dataclass(frozen=True)
class Reproduction:
    """What is to be made and judged, and where."""

    scale: ReproductionScale
    jobs: tuple[Job, ...]
    whole: tuple[Job, ...]  # all jobs of the scale, which may be made later
    claims: tuple[Claim, ...]
    experiments: tuple[Experiment, ...]  # that the claims need
    out: Path

    @property
    def runs(self) -> Path:
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
    plan, scale = made.out / PLAN_FILE, made.scale.name
    refuse_foreign(made.out, PLAN_FILE, "reproduction")
    if plan.is_file() and (found := json.loads(plan.read_text("utf-8"))["scale"]) != scale:
        raise ValueError(
            f"--out {made.out} holds a reproduction at the scale {found}, not {scale}; give "
            "another folder"
        )
    over = {job.name for job in made.jobs if job.is_over(made.runs)}
    print_plan(made, over, at_once)
    if dry_run:
        refuse_failing([job for job in made.jobs if job.name not in over], made.runs)
        return
    made.out.mkdir(parents=True, exist_ok=True)
    write_whole(plan, json.dumps({"scale": scale}) + "\n")
    removable = {job.name for job in made.jobs if job.program != _PRETRAIN and not keep_checkpoints}
    located = set(located_names(made.scale))
    # A run that went on from another one's stage A has its model there.
    located |= {name for job in made.jobs if job.name in located for name in job.needs}

    def tidy(done: Collection[str]) -> None:
        remove_unneeded(made.whole, done, made.runs, removable - located)

    tidy(over)
    over = run_jobs(mine, made.out, over, at_once=at_once, minutes=minutes, on_over=tidy)
    if left := [job for job in made.jobs if job.name not in over]:
        waiting = sum(not over.issuperset(job.needs) for job in left)
        print(
            f"{len(left)} of {len(made.jobs)} runs are not over, {waiting} of them wait for "
            "others; give the same command again to go on"
        )
        return
    conclude(made, command)
    remove_unneeded(made.whole, over, made.runs, removable)


def print_plan(made: Reproduction, over: Collection[str], at_once: int) -> None:
    """Print which runs there are, and about how long they take."""
    from rich.console import Console
    from rich.table import Table as RichTable

    title = f"{made.scale.name}: {len(made.claims)} claims, {len(made.jobs)} runs"
    table = RichTable("runs for", title=title)
    for heading in ("runs", "finished", f"about, on {made.scale.machine}"):
        table.add_column(heading, justify="right")
    rows = _by_experiment(made)
    for name, jobs in {**rows, "all": made.jobs}.items():
        left = [job.seconds for job in jobs if job.name not in over]
        cost = duration_text(sum(left) / at_once) if left or name not in rows else ""
        table.add_row(name, str(len(jobs)), str(len(jobs) - len(left)), cost)
    Console().print(table)
    print(
        f"estimated from operations, {at_once} at a time; runs that several experiments need are "
        "counted once"
    )
    print(same := same_runs_text(made.jobs), end="\n" * bool(same))


def remove_unneeded(
    jobs: Iterable[Job], over: Collection[str], runs: Path, removable: Iterable[str]
) -> None:
    """Remove the checkpoints of finished jobs that no unfinished job needs."""
    wanted = {name for job in jobs if job.name not in over for name in job.needs}
    for name in set(removable).intersection(over) - wanted:
        # A run in stages has a folder of checkpoints in each.
        for checkpoints in sorted((runs / name).rglob(CHECKPOINTS_FOLDER)):
            shutil.rmtree(checkpoints)


def conclude(made: Reproduction, command: str) -> None:
    """Judge the claims on the runs, and write tables, ledger, verification and report."""
    results = find_results([made.runs / job.name for job in made.jobs])
    tables = measured_tables(made, results)
    pretrained, models = pretrained_of(made.scale), tuple(models_of(made.scale))
    provenance = {
        "seeds": made.scale.seeds,
        "checkpoints": made.scale.checkpoints,
        "runs": len(made.jobs),
        "experiments": list(_by_experiment(made)),
        "pretrained": asdict(pretrained),
    }
    ledger = ledger_of(
        judge(made.claims, tables, pretrained),
        scale=made.scale.name,
        command=command,
        page=PAGE,
        models=models,
        provenance=provenance,
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
    print("\n".join(ledger.models))
    print(f"{len(made.claims)} claims: {counts_text(ledger.claims)}")
    print(headline(comparisons))
    print(f"ledger: {made.out / MARKDOWN_FILE}")
    print(f"page: {made.out / PAGE}")


def measured_tables(made: Reproduction, results: Results) -> dict[Table, pd.DataFrame]:
    """The tables that claims are tested on; they are written into a folder as well."""
    folder = made.out / TABLES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tables = tables_of(results)
    there = {path.name for path in results.remix_runs}
    names = [name for name in located_names(made.scale) if name in there]
    if chains := [read_chain(made.runs / name) for name in names]:
        depths = _depths(chains, made.scale.memorization.located, folder / DEPTHS_FILE)
        rows = memorization_table(chains, depths=depths)
        deep = rows[rows["measure"].isin(depths["measure"])]
        tables[Table.MEMORIZATION] = pd.concat(
            [tables[Table.MEMORIZATION], deep], ignore_index=True
        )
    for name, table in tables.items():
        write_whole(folder / f"{name}.csv", table.to_csv(index=False))
    return tables


def _depths(chains: Sequence[Chain], items: int, file: Path) -> pd.DataFrame:
    """The depths at which facts are readable; measured once, for models are removed afterwards."""
    if not file.is_file():
        found = fact_depths(chains, items)
        named = found.assign(run=[Path(path).name for path in found["run"]])
        write_whole(file, named.to_csv(index=False))
    read = pd.read_csv(file, dtype={"cluster": object})
    paths = {chain.path.name: str(chain.path) for chain in chains}
    return read.assign(
        run=[paths[name] for name in read["run"]],
        cluster=read["cluster"].where(read["cluster"].notna(), None),
    )


def _by_experiment(made: Reproduction) -> dict[str, Sequence[Job]]:
    """Jobs by the first experiment that wants them, in the order of experiments."""
    found: dict[str, list[Job]] = {name: [] for name in (_PRETRAINING, *map(str, made.experiments))}
    for job in made.jobs:
        wanting = [one for one in made.experiments if one in job.experiments]
        # A run that only makes a stage A for another one is part of what that one is for.
        name = next(map(str, [*wanting, *job.experiments]), _PRETRAINING)
        found.setdefault(name, []).append(job)
    return {name: jobs for name, jobs in found.items() if jobs}
