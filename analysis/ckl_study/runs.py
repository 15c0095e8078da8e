"""The runs of a study of continual knowledge learning: what they are, and the report of them."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.ckl_study.plan import PlannedRun
from analysis.study_runs import REPORT, RUNS, StudyRun, cost_text, not_over
from training.ckl.config import CklConfig
from training.runs.finished import is_over


def study_runs(
    plan: Sequence[PlannedRun], recipe: CklConfig, recipe_name: str, folder: Path
) -> list[StudyRun]:
    """Planned runs as they are made."""
    from training.ckl import main

    return [
        StudyRun(
            one.name,
            one.words(recipe, recipe_name, folder),
            main,
            partial(is_over, configuration=one.config),
        )
        for one in plan
    ]


def print_plan(plan: Sequence[PlannedRun], mine: Sequence[PlannedRun], folder: Path) -> None:
    """Print how many runs there are and how long they will take, as far as that is known."""
    starts = {one.config.revision: None for one in plan}
    edits = [one for one in plan if one.config.is_edited]
    seeds = len({one.config.seed for one in plan})
    print(
        f"{len(plan)} runs: {len(starts)} starts ({', '.join(map(str, starts))}) and "
        f"{len(edits) // seeds} edits of the last, {seeds} seed{'s' if seeds > 1 else ''} each"
    )
    print(cost_text([one.name for one in mine], [one.name for one in plan], folder))


def report_study(plan: Sequence[PlannedRun], out: Path, command: Sequence[str]) -> None:
    """Report all runs, if they are over."""
    folders = [out / RUNS / one.name for one in plan]
    if not_over([one.name for one in plan], out / RUNS):
        return
    from analysis.arms import ckl_arms
    from analysis.ckl_report.command import NAME, write_report
    from analysis.numbers import shown_path
    from analysis.report_files import refuse_folder
    from analysis.runs import read_run

    refuse_folder(out / REPORT, NAME)
    arms = ckl_arms([read_run(folder) for folder in folders])
    write_report(arms, out / REPORT, shlex.join(map(shown_path, command)))
