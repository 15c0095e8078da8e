"""Runs of a study: what every study can be asked, and its runs listed, checked or made.

To check a run is to try it as it would start, up to its first update, with a tiny model of the same
family and stand-ins for what is of the hub (`training.stand_ins`). A command that measures
checkpoints is run on such a model, over a few rows. Nothing stays on the disk.
"""

import contextlib
import importlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from analysis.jobs import RUNS, Job, duration_text, in_groups, run_jobs, same_runs_text, shard_of
from probes.cli import progress
from training.pretrain_config import PretrainConfig
from training.recipes import beginning_of, flag, option_words

if TYPE_CHECKING:
    from training.stand_ins import StandIns


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


_NOT_CHECKED = {"seed": 0, "learning_rate": 1.0, "stage_learning_rates": (), "data_seed": 0}
"""Settings that nothing is found out about by starting a run, which has them all right already."""
_FEW_ROWS = 4


def refuse_failing(jobs: Sequence[Job], runs: Path) -> None:
    """Try all jobs, and show those that could not start, if there are any."""
    failing, said, tried = _checked(jobs, runs)
    print("\n".join([*said, f"{len(jobs)} runs checked, {tried} of them different to a start"]))
    if not failing:
        print("all can start")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "cannot start, because", title=f"{len(failing)} runs cannot start")
    by_reason: dict[str, list[str]] = {}
    for name, reason in failing.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        others = f" and {len(names) - 1} more" * (len(names) > 1)
        table.add_row(names[0] + others, reason)
    Console().print(table)
    raise ValueError(
        f"{len(failing)} of {len(jobs)} runs cannot start, for the reasons in the table above"
    )


def _checked(jobs: Sequence[Job], runs: Path) -> tuple[dict[str, str], list[str], int]:
    """Why jobs fail, by name; what stood in; and how many were tried."""
    from training.stand_ins import StandIns

    configs = {str(runs / job.name): job.config for job in jobs}
    planned = {path: one for path, one in configs.items() if isinstance(one, PretrainConfig)}
    reasons: dict[Any, str | None] = {}
    failing: dict[str, str] = {}
    with (
        TemporaryDirectory(prefix="stand-ins-") as folder,
        progress("runs checked", len(jobs)) as advance,
    ):
        stand_ins = StandIns(Path(folder), many=True, planned=planned)
        for job in jobs:
            key: Any = job.name
            try:
                key, start = _start(job, stand_ins, Path(folder))
                if key not in reasons:
                    reasons[key] = None
                    _silently(start)
            except (ValueError, OSError) as error:
                reasons[key] = str(error).replace(f"{folder}/", "")
            if (reason := reasons[key]) is not None:
                failing[job.name] = reason
            advance(1)
    return failing, list(stand_ins.said), len(reasons)


def _start(job: Job, stand_ins: "StandIns", folder: Path) -> tuple[Any, Callable[[], object]]:
    """What a check of a job depends on, and the check."""
    program = importlib.import_module(job.program)
    if job.config is None:
        options = _measured(job.asked, stand_ins)
        words = option_words(options)
        out = folder / f"{job.program}-{len(list(folder.iterdir()))}"
        return (job.program, *words), partial(_run, program.main, [*words, "--out", str(out)])
    recipe = program.COMMAND.recipes[beginning_of(job.words).recipe]()
    config = stand_ins.configuration(job.config)
    same = {name: value for name, value in _NOT_CHECKED.items() if hasattr(config, name)}
    return (job.program, replace(config, **same)), partial(program.COMMAND.tried, config, recipe)


def _measured(asked: Mapping[str, Any], stand_ins: "StandIns") -> dict[str, Any]:
    options = dict(asked)
    revisions, corpus = options.pop("revisions"), options["corpus"]
    options["model"] = stand_ins.model(options["model"], revisions[-1])
    single = isinstance(corpus, str)
    # Several corpora of the hub may have one stand-in, which is measured once.
    found = dict.fromkeys(map(stand_ins.corpus, [corpus] if single else corpus))
    options["corpus"] = next(iter(found)) if single else [*found]
    few = {"max_tokens": _FEW_ROWS * options["sequence_length"], "batches": 1, "batch_size": 1}
    return {**options, **{name: value for name, value in few.items() if name in options}}


def _silently(start: Callable[[], object]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        start()


def _run(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(words)
    if code:
        raise ValueError(said.getvalue().strip().splitlines()[-1])
