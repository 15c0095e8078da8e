"""The runs of a study of continual memorization: what they are, and the report of them."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from analysis.remix_study.plan import PlannedRun, groups_of
from analysis.study_runs import REPORT, RUNS, StudyRun, cost_text, not_over
from training.remix.config import RemixConfig
from training.runs.finished import is_over


def study_runs(
    plan: Sequence[PlannedRun], recipe: RemixConfig, recipe_name: str, folder: Path
) -> list[StudyRun]:
    """Planned runs as they are made."""
    from training.remix import main

    return [
        StudyRun(
            one.name,
            one.words(recipe, recipe_name, folder),
            main,
            partial(is_over, configuration=one.final(folder)),
        )
        for one in plan
    ]


def print_plan(plan: Sequence[PlannedRun], mine: Sequence[PlannedRun], folder: Path) -> None:
    """Print how many runs there are and how long they will take, as far as that is known."""
    seeds = len({one.config.seed for one in plan})
    print(
        f"{len(plan)} runs: {len(plan) // seeds} arms, {seeds} seed{'s' if seeds > 1 else ''} "
        f"each; stage A is trained {len(groups_of(plan))} times"
    )
    print(cost_text([one.name for one in mine], [one.name for one in plan], folder))


def report_study(
    plan: Sequence[PlannedRun],
    out: Path,
    command: Sequence[str],
    *,
    localized: int | None,
    device: str | None,
) -> None:
    """Report all runs, if they are over."""
    if not_over([one.name for one in plan], out / RUNS):
        return
    from analysis.arms import remix_arms
    from analysis.numbers import shown_path
    from analysis.remix_report.command import NAME, write_report
    from analysis.report_files import refuse_folder
    from analysis.runs import read_chain

    refuse_folder(out / REPORT, NAME)
    ordered = sorted(plan, key=lambda one: one.place)
    arms = remix_arms([read_chain(out / RUNS / one.name) for one in ordered])
    write_report(
        arms,
        out / REPORT,
        shlex.join(map(shown_path, command)),
        localized=localized,
        device=device,
    )
