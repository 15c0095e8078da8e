"""Job checks: which planned runs could not start, and why.

Every run is tried as it would start, up to its first update: texts and passages are read, the
schedule of injections built, edits made, an optimizer attached, a checkpoint written and read back.
Models are tiny ones of the same family, and what is of the hub has stand-ins
(`training.stand_ins`). A command that measures checkpoints is run on such a model, over a few rows.
Runs that differ in nothing that is checked are tried once. Nothing stays on the disk.
"""

import contextlib
import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analysis.jobs import Job
from probes.cli import progress
from training.pretrain_config import PretrainConfig
from training.recipes import beginning_of, option_words
from training.stand_ins import StandIns

_NOT_CHECKED = {"seed": 0, "learning_rate": 1.0, "stage_learning_rates": (), "data_seed": 0}
"""Settings that nothing is found out about by starting a run, which has them all right already."""
_FEW_ROWS = 4


def refuse_failing(jobs: Sequence[Job], runs: Path) -> None:
    """Try all jobs, and show those that could not start, if there are any.

    Raises:
        ValueError: there are some.
    """
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
            start: Callable[[], object]
            try:
                key, start = _start(job, stand_ins, Path(folder))
            except ValueError as error:
                key, start = job.name, partial(_refuse, error)
            if key not in reasons:
                reasons[key] = _why_not(start, folder)
            if (reason := reasons[key]) is not None:
                failing[job.name] = reason
            advance(1)
    return failing, list(stand_ins.said), len(reasons)


def _start(job: Job, stand_ins: StandIns, folder: Path) -> tuple[Any, Callable[[], object]]:
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


def _measured(asked: Mapping[str, Any], stand_ins: StandIns) -> dict[str, Any]:
    """The options of a sweep for one tiny model and a few rows."""
    options = dict(asked)
    revisions, corpus = options.pop("revisions"), options["corpus"]
    options["model"] = stand_ins.model(options["model"], revisions[-1])
    single = isinstance(corpus, str)
    # Several corpora of the hub may have one stand-in, which is measured once.
    found = dict.fromkeys(map(stand_ins.corpus, [corpus] if single else corpus))
    options["corpus"] = next(iter(found)) if single else [*found]
    few = {"max_tokens": _FEW_ROWS * options["sequence_length"], "batches": 1, "batch_size": 1}
    return {**options, **{name: value for name, value in few.items() if name in options}}


def _run(main: Callable[[Sequence[str]], int], words: Sequence[str]) -> None:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(words)
    if code:
        raise ValueError(said.getvalue().strip().splitlines()[-1])


def _refuse(error: ValueError) -> None:
    raise error


def _why_not(start: Callable[[], object], folder: str) -> str | None:
    """Why a run cannot start; None where it can. What it prints is left out."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            start()
    except (ValueError, OSError) as error:
        return str(error).replace(f"{folder}/", "")
    return None
