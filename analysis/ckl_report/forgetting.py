"""What runs forgot: the downstream score P and forgetting F, where they say anything.

F is the fall of P, the mean accuracy of the downstream tasks, as a share of its size before
(`analysis.metrics`). A model that guesses has nothing to forget: where no task stands above
guessing at the start, F is **not tested**, and the reason names the tasks. A task stands above
guessing where the interval of its accuracy lies above it; the level is shared out over the tasks
(Bonferroni), so that one of many does not do so by luck. Intervals draw questions.

Example:
    >>> table = forgetting_table(arms, chance_table(arms))                   # doctest: +SKIP
    >>> table[["arm", "task", "value", "reason"]]                            # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.ckl_report.arms import Arm, Moment
from analysis.ckl_report.scores import bounds, typed, units
from analysis.cluster_bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.item_tables import TASK_TABLE
from analysis.metrics import forgetting
from analysis.theme import percent

ALL_TASKS = "P"
"""The mean over tasks."""
_CHANCE = ("arm", "moment", "task", "score", "low", "high", "chance", "above", "questions")
_FORGETTING = (
    *("arm", "seed", "against", "moment", "task", "value", "low", "high"),
    *("before", "after", "questions", "reason"),
)


def chance_table(
    arms: Sequence[Arm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """How well every task is answered at the start, against guessing.

    Args:
        arms: the runs.
        bootstrap: how intervals are made.

    Returns:
        Columns `arm`, `moment` (which start), `task`, `score` with `low` and `high`, `chance`,
        `above` (whether the interval lies above it), `questions`; intervals of all tasks of a start
        together have the level of the bootstrap.
    """
    rows = [
        row for arm in arms for moment in arm.compared_with for row in _at(arm, moment, bootstrap)
    ]
    return pd.DataFrame(rows, columns=list(_CHANCE)).astype({"low": float, "high": float})


def forgetting_table(
    arms: Sequence[Arm],
    chances: pd.DataFrame,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """F at every moment after the start, of all tasks together and of each.

    Rows of single seeds are of all tasks together only.

    Args:
        arms: the runs.
        chances: `chance_table` of them.
        bootstrap: how intervals are made.

    Returns:
        Columns `arm`, `seed` (missing for the mean over seeds), `against`, `moment`, `task` (`P`
        for the mean over tasks), `value` with `low` and `high` (shares; missing where not tested),
        `before` and `after` (accuracies), `questions`, and `reason`, why F is not tested; missing
        where it is. Empty where no tasks were asked.
    """
    rows = [
        (arm.name, seed, against, moment, *found)
        for arm, run, seed in units(arms)
        for against in arm.compared_with
        if not (before := arm.questions(against, run)).empty
        for moment in arm.moments
        if moment != Moment.START
        for found in _forgotten(
            before,
            arm.questions(moment, run),
            untested(chances, arm.name, against),
            bootstrap,
            by_task=run is None,
        )
    ]
    return typed(pd.DataFrame(rows, columns=list(_FORGETTING)))


def untested(chances: pd.DataFrame, arm: str, moment: str) -> dict[str, str]:
    """Why F of tasks, and of all of them, is not tested at a start; nothing for those that are.

    Args:
        chances: `chance_table`.
        arm: name of an arm.
        moment: which start.
    """
    rows = chances[(chances["arm"] == arm) & (chances["moment"] == moment)]
    found = {
        row.task: f"at the {moment} no better than guessing: {_against_chance(row)}"
        for row in rows[~rows["above"]].itertuples()
    }
    if len(rows) and not rows["above"].any():
        each = "; ".join(_against_chance(row) for row in rows.itertuples())
        found[ALL_TASKS] = f"at the {moment} no task is answered better than by guessing: {each}"
    return found


def _against_chance(row: Any) -> str:
    interval = "" if pd.isna(row.low) else f" [{percent(row.low)}, {percent(row.high)}]"
    return f"{row.task} {percent(row.score)}{interval}, guessing {percent(row.chance)}"


def _at(arm: Arm, moment: str, bootstrap: ClusterBootstrap) -> Iterator[tuple[Any, ...]]:
    questions = arm.questions(moment)
    if questions.empty:
        return
    seen, _ = arm.seen(arm.runs[0], moment)
    chances = dict(zip(seen.task_scores["task"], seen.task_scores["chance"], strict=True))
    tasks = list(questions.groupby("task", sort=False))
    shared = replace(bootstrap, level=1 - (1 - bootstrap.level) / len(tasks))
    for task, rows in tasks:
        scores = rows["score"].to_numpy(dtype=float)
        interval = shared.mean_interval(scores)
        above = interval is not None and interval.low > chances[task]
        found = (scores.mean(), *bounds(interval), chances[task], above, len(rows))
        yield arm.name, str(moment), task, *found


def _forgotten(
    before: pd.DataFrame,
    after: pd.DataFrame,
    reasons: dict[str, str],
    bootstrap: ClusterBootstrap,
    *,
    by_task: bool,
) -> Iterator[tuple[Any, ...]]:
    of_tasks = list(before.groupby("task", sort=False)) if by_task else []
    for task, rows in [(ALL_TASKS, before), *of_tasks]:
        later = after if task == ALL_TASKS else after[after["task"] == task]
        reason = reasons.get(task)
        scores = [TASK_TABLE.items(table).score for table in (rows, later)]
        if reason is not None:
            yield task, None, None, None, *scores, len(rows), reason
            continue
        change = forgetting(rows, later, bootstrap=bootstrap)
        yield task, change.value, *bounds(change.interval), *scores, len(rows), None
