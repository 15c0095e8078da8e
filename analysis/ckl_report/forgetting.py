"""What runs forgot: the downstream score P and forgetting F, where they say anything.

F is the fall of P, the mean accuracy of the downstream tasks, as a share of its size before
(`analysis.metrics`). A model that guesses has nothing to forget: where no task stands above
guessing at the start, F is **not tested**, and the reason names the tasks. A task stands above
guessing where the interval of its accuracy lies above it; the level is shared out over the tasks
(Bonferroni), so that one of many does not do so by luck. Intervals draw questions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.arms import CklArm, base_of
from analysis.ckl_report.scores import bounds, typed, units
from analysis.metrics import HELD_OUT, TASK_TABLE, forgetting
from analysis.runs import Moment, TrainingRun
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.statistics.tests import holm, paired_permutation
from analysis.theme import percent

ALL_TASKS = "P"
"""The mean over tasks."""
_CHANCE = ("arm", "moment", "task", "score", "low", "high", "chance", "above", "questions")
_FORGETTING = (
    *("arm", "seed", "against", "moment", "task", "value", "low", "high"),
    *("before", "after", "questions", "reason"),
)


def chance_table(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """How well every task is answered at the start, against guessing."""
    rows = [
        row for arm in arms for moment in arm.compared_with for row in _at(arm, moment, bootstrap)
    ]
    return pd.DataFrame(rows, columns=list(_CHANCE)).astype({"low": float, "high": float})


def forgetting_table(
    arms: Sequence[CklArm],
    chances: pd.DataFrame,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """F at every moment after the start, of all tasks together and of each."""
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
    """Why F of tasks, and of all of them, is not tested at a start; nothing for those that are."""
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


def _at(arm: CklArm, moment: str, bootstrap: ClusterBootstrap) -> Iterator[tuple[Any, ...]]:
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


LEAST_CLUSTERS = 3
_DIGITS = 9
_COLUMNS = (
    *("arm", "base", "measure", "unit", "effect", "low", "high", "p_value", "p_holm"),
    *("clusters", "of", "seeds"),
)
Pair = tuple[CklArm, CklArm]
Look = Callable[[CklArm, TrainingRun], pd.Series]
"""Values of an arm's run, indexed by their cluster."""


@dataclass(frozen=True)
class Measure:
    """Something to compare arms in.

    Attributes:
        name: of it.
        unit: of the effect.
        cluster: what is drawn.
        look: the values of a run; empty where it has none.
    """

    name: str
    unit: str
    cluster: str
    look: Look


def comparison_table(arms: Sequence[CklArm], base: CklArm | None = None) -> pd.DataFrame:
    """Every arm against its base."""
    pairs = [(arm, other) for arm in arms if (other := base_of(arm, arms, base)) is not None]
    rows = [row for measure in MEASURES for row in _adjusted(measure, pairs)]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def _adjusted(measure: Measure, pairs: Sequence[Pair]) -> Iterator[tuple[Any, ...]]:
    found = [
        (arm, base, *compared)
        for arm, base in pairs
        if (compared := _compared(measure, arm, base)) is not None
    ]
    adjusted = holm([comparison.p_value for _, _, comparison, _ in found])
    for (arm, base, comparison, seeds), p_holm in zip(found, adjusted, strict=True):
        yield (
            *(arm.name, base.name, measure.name, measure.unit, comparison.effect),
            *(comparison.interval.low, comparison.interval.high, comparison.p_value, p_holm),
            *(comparison.n, measure.cluster, seeds),
        )


def _compared(measure: Measure, arm: CklArm, base: CklArm) -> tuple[Any, int] | None:
    """The comparison and how many seeds it is over; None where there is nothing to compare."""
    shared = [seed for seed in arm.seeds if seed in base.seeds]
    ours, theirs = (_values(measure, one, shared) for one in (arm, base))
    # Arms that scored other items, of another set of passages say, cannot be paired.
    if len(ours) < LEAST_CLUSTERS or not ours.index.equals(theirs.index):
        return None
    # Differences that are alike but for rounding must be alike: their interval is that one value.
    differences = np.round(ours.to_numpy() - theirs.to_numpy(), _DIGITS)
    none = np.zeros(len(differences))
    return paired_permutation(differences, none, np.random.default_rng(0)), len(shared)


def _values(measure: Measure, arm: CklArm, seeds: Sequence[int]) -> pd.Series:
    """The mean of every cluster over its items and over seeds."""
    runs = [run for run, seed in zip(arm.runs, arm.seeds, strict=True) if seed in seeds]
    looks = [measure.look(arm, run) for run in runs]
    if not looks or any(look.empty for look in looks):
        return pd.Series(dtype=float)
    means = [look.groupby(level=0, sort=True).mean() for look in looks]
    return sum(means[1:], means[0]) / len(means)


def _knowledge(moment: str, *, held_out: bool = False, gain: bool = False) -> Look:
    def look(arm: CklArm, run: TrainingRun) -> pd.Series:
        after, before = arm.probes(moment, run), arm.probes(Moment.START, run)
        values = after["log_prob"] - before["log_prob"] if gain else after["log_prob"]
        wanted = (after["exposure"] == HELD_OUT) == held_out
        return pd.Series(values[wanted].to_numpy(), index=after["passage"][wanted])

    return look


def _questions(arm: CklArm, run: TrainingRun) -> pd.Series:
    # P is a mean over tasks, so every question counts by the size of its task.
    table = arm.questions(Moment.END, run)
    if table.empty:
        return pd.Series(dtype=float)
    sizes = table.groupby("task")["item"].transform("size")
    weights = len(table) / (table["task"].nunique() * sizes)
    names = pd.MultiIndex.from_frame(table[["task", "item"]]).to_flat_index()
    return pd.Series((table["score"] * weights).to_numpy(dtype=float), index=names)


def _facts(arm: CklArm, run: TrainingRun) -> pd.Series:
    table = arm.facts(Moment.END, run)
    if table.empty:
        return pd.Series(dtype=float)
    return pd.Series(table["log_prob"].to_numpy(), index=table["subject"])


K_INJECTED = "K of passages met, last injection"
P_END = "P, end"
FACTS_END = "log-probability of earlier facts, end"
MEASURES = (
    Measure(K_INJECTED, "nats", "passages", _knowledge(Moment.INJECTED)),
    Measure("K of passages met, end", "nats", "passages", _knowledge(Moment.END)),
    Measure(
        "gain of passages met since the start, last injection",
        "nats",
        "passages",
        _knowledge(Moment.INJECTED, gain=True),
    ),
    Measure(
        "K of held-out passages, last injection",
        "nats",
        "passages",
        _knowledge(Moment.INJECTED, held_out=True),
    ),
    Measure(P_END, "share", "questions", _questions),
    Measure(FACTS_END, "nats", "subjects", _facts),
)
"""What arms are compared in."""
