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
from analysis.ckl_measures import ALL_KINDS, ALL_TASKS, MET
from analysis.metrics import HELD_OUT
from analysis.observations import ENTROPIES, ENTROPY, FACTS, TEXT
from analysis.runs import Moment, TrainingRun
from analysis.statistics.correlations import LEAST_POINTS, correlation
from analysis.statistics.tests import holm, is_constant, paired_permutation

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


LEAST_STARTS = 4
"""Below it Fisher's interval does not exist."""
ACQUIRED_INJECTED = "A, last injection"
ACQUIRED_END = "A, end"
FORGOTTEN = "F, end"
_CORRELATIONS = (
    *("series", "entropy", "outcome", "starts", "rho", "low", "high", "p_value"),
    *("rho_differences", "low_differences", "high_differences", "p_value_differences"),
)


def trajectory_points(
    arms: Sequence[CklArm],
    acquired: pd.DataFrame,
    forgotten: pd.DataFrame,
    levels: pd.DataFrame,
    changes: pd.DataFrame,
) -> pd.DataFrame:
    """Arms that differ in the age of their start alone, a row each, by age."""
    rows = [
        {
            "series": label,
            "arm": arm.name,
            "step": arm.start.step,
            **_entropies(arm, levels),
            **_outcomes(arm, acquired, forgotten, changes),
        }
        for label, series in _series(arms)
        for arm in series
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["series", "arm", "step"])


def outcomes_of(points: pd.DataFrame) -> list[str]:
    """The columns of a table of points that are outcomes."""
    known = {"series", "arm", "step", *ENTROPIES.values()}
    return [name for name in points.columns if name not in known]


def correlation_table(points: pd.DataFrame) -> pd.DataFrame:
    """How outcomes follow the entropies of the start, in levels and in first differences."""
    entropies = [name for name in ENTROPIES.values() if name in points.columns]
    rows = [
        (label, entropy, outcome, len(rows), *_both(rows[entropy], rows[outcome]))
        for label, rows in points.groupby("series", sort=False)
        for entropy in entropies
        for outcome in outcomes_of(points)
        if rows[[entropy, outcome]].notna().all(axis=None)
    ]
    numbers = dict.fromkeys(_CORRELATIONS[4:], float)
    return pd.DataFrame(rows, columns=list(_CORRELATIONS)).astype(numbers)


def _both(x: pd.Series, y: pd.Series) -> Iterator[float | None]:
    """The correlation of levels and that of differences: itself, its interval, its p-value."""
    for pair in ((x, y), (x.diff().dropna(), y.diff().dropna())):
        ours, theirs = (one.to_numpy(np.float64) for one in pair)
        if len(ours) < LEAST_POINTS or is_constant(ours) or is_constant(theirs):
            yield from (None,) * 4
            continue
        found = correlation(ours, theirs)
        yield from (found.effect, found.interval.low, found.interval.high, found.p_value)


def _series(arms: Sequence[CklArm]) -> Iterator[tuple[str, list[CklArm]]]:
    """Sets of arms from four starts or more of one model, alike otherwise; by age."""
    sets: dict[str, list[CklArm]] = {}
    for arm in arms:
        if arm.start.step is not None:
            key = f"{arm.start.model} {sorted(arm.settings.items())}"
            sets.setdefault(key, []).append(arm)
    for found in sets.values():
        if len({arm.start.step for arm in found}) == len(found) >= LEAST_STARTS:
            yield f"{found[0].start.model}, {found[0].edit}", sorted(found, key=_age)


def _age(arm: CklArm) -> int:
    assert arm.start.step is not None
    return arm.start.step


def _entropies(arm: CklArm, levels: pd.DataFrame) -> dict[str, float]:
    moment = arm.compared_with[-1]
    of = (levels["arm"] == arm.name) & (levels["moment"] == moment) & levels["seed"].isna()
    rows = levels[of & (levels["group"] == ENTROPY)]
    return dict(zip(rows["measure"], rows["value"], strict=True))


def _outcomes(
    arm: CklArm, acquired: pd.DataFrame, forgotten: pd.DataFrame, changes: pd.DataFrame
) -> dict[str, Any]:
    ours = _of_arm(acquired, arm)
    ours = ours[(ours["exposure"] == MET) & (ours["kind"] == ALL_KINDS)]
    a = dict(zip(ours["moment"], ours["value"], strict=True))
    found: dict[str, Any] = {
        ACQUIRED_INJECTED: a[Moment.INJECTED],
        ACQUIRED_END: a[Moment.END],
    }
    if not forgotten.empty:
        f = _of_arm(forgotten, arm)
        f = f[(f["task"] == ALL_TASKS) & (f["moment"] == Moment.END)]
        # None where no task was answered better than by guessing.
        tested = f["value"].dropna()
        found[FORGOTTEN] = float(tested.iloc[0]) if len(tested) else None
    moved = _of_arm(changes, arm)
    moved = moved[(moved["moment"] == Moment.END) & moved["group"].isin([TEXT, FACTS])]
    names = [f"{measure}, change" for measure in moved["measure"]]
    return found | dict(zip(names, moved["change"], strict=True))


def _of_arm(table: pd.DataFrame, arm: CklArm) -> pd.DataFrame:
    """Means over seeds, against the start that training began from."""
    rows = table[(table["arm"] == arm.name) & (table["against"] == Moment.START)]
    return rows[rows["seed"].isna()] if "seed" in rows.columns else rows
