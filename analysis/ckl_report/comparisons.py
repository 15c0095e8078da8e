"""Arms of continual knowledge learning against their bases, paired by item and seed.

Differences are tested by paired permutations over passages, questions or subjects, and p-values
adjusted by Holm's method over the arms that are compared in the same thing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.arms import CklArm, base_of
from analysis.metrics import HELD_OUT
from analysis.runs import Moment, TrainingRun
from analysis.statistics.tests import holm, paired_permutation

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
