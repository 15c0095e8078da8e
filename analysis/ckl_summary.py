"""Everything that is known of arms of continual knowledge learning, and what reports say of it.

Arms are compared with their bases paired by item and seed: paired permutations over passages,
questions or subjects, p-values adjusted by Holm's method over the arms that are compared in the
same thing. Arms whose starts are checkpoints of one pretraining are a series: what became of them
is correlated with the entropies of the start, in levels and in first differences.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.arm_report import Summary, summarised, texts
from analysis.arms import CklArm, base_of
from analysis.ckl_measures import (
    ALL_KINDS,
    ALL_TASKS,
    MET,
    beyond_table,
    chance_table,
    change_table,
    forgetting_table,
    level_table,
    score_tables,
)
from analysis.encounter_measures import curve_tables
from analysis.metrics import HELD_OUT
from analysis.numbers import NOT_TESTED
from analysis.observations import ENTROPIES, ENTROPY, FACTS, RECALLED, TEXT, rows_where
from analysis.runs import Moment
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.statistics.correlations import LEAST_POINTS, correlation
from analysis.statistics.tests import holm, is_constant, paired_permutation

LEAST_CLUSTERS = 3
LEAST_STARTS = 4
"""Below it Fisher's interval does not exist."""
_DIGITS = 9
START, INJECTED, END = Moment.START, Moment.INJECTED, Moment.END
ACQUIRED_INJECTED = "A, last injection"
ACQUIRED_END = "A, end"
FORGOTTEN = "F, end"
_COMPARISONS = (
    *("arm", "base", "measure", "unit", "effect", "low", "high", "p_value", "p_holm"),
    *("clusters", "of", "seeds"),
)
_CORRELATIONS = (
    *("series", "entropy", "outcome", "starts", "rho", "low", "high", "p_value"),
    *("rho_differences", "low_differences", "high_differences", "p_value_differences"),
)


def summarise(
    arms: Sequence[CklArm],
    base: CklArm | None = None,
    *,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> Summary:
    """All tables of some arms."""
    return summarised(arms, _tables(arms, base, bootstrap), 8)


def _tables(
    arms: Sequence[CklArm], base: CklArm | None, bootstrap: ClusterBootstrap
) -> Iterator[dict[str, Any]]:
    knowledge, acquired = score_tables(arms, bootstrap)
    yield {"knowledge": knowledge, "acquired": acquired}
    yield {"beyond": beyond_table(arms, bootstrap)}
    chances = chance_table(arms, bootstrap)
    yield {"chances": chances}
    forgotten = forgetting_table(arms, chances, bootstrap)
    yield {"forgotten": forgotten}
    levels = level_table(arms)
    changes = change_table(arms, levels, bootstrap)
    yield {"levels": levels, "changes": changes}
    gains, curves, retained, without = curve_tables(arms, bootstrap)
    yield {"gains": gains, "curves": curves, "retained": retained, "without_curve": without}
    trajectory = trajectory_points(arms, acquired, forgotten, levels, changes)
    yield {"trajectory": trajectory, "correlations": correlation_table(trajectory)}
    yield {"comparisons": comparison_table(arms, base)}


def comparison_table(arms: Sequence[CklArm], base: CklArm | None = None) -> pd.DataFrame:
    """Every arm against its base."""
    rows = [
        {"arm": arm.name, "base": other.name, "measure": name, "unit": unit, "of": of, **found}
        for name, (unit, of, values) in MEASURES.items()
        for arm in arms
        if (other := base_of(arm, arms, base)) is not None
        if (found := _compared(values, arm, other)) is not None
    ]
    table = pd.DataFrame(rows, columns=list(_COMPARISONS))
    by_measure = table.groupby("measure", sort=False)["p_value"]
    table["p_holm"] = by_measure.transform(lambda values: list(holm(values.tolist())))
    return table


def _compared(
    values: Callable[[CklArm], pd.Series], arm: CklArm, base: CklArm
) -> dict[str, float] | None:
    """An arm against another over the seeds of both; None where there is nothing to compare."""
    seeds = {*arm.seeds} & {*base.seeds}
    if not seeds:
        return None
    both = (replace(a, runs=tuple(r for r in a.runs if r.seed in seeds)) for a in (arm, base))
    ours, theirs = map(values, both)
    # Arms that scored other items, of another set of passages say, cannot be paired.
    if len(ours) < LEAST_CLUSTERS or not ours.index.equals(theirs.index):
        return None
    # Differences that are alike but for rounding must be alike: their interval is that one value.
    differences = np.round(ours.to_numpy() - theirs.to_numpy(), _DIGITS)
    none = np.zeros(len(differences))
    found = paired_permutation(differences, none, np.random.default_rng(0))
    numbers = {"effect": found.effect, "low": found.interval.low, "high": found.interval.high}
    return {**numbers, "p_value": found.p_value, "clusters": found.n, "seeds": len(seeds)}


def _knowledge(
    arm: CklArm, moment: str, *, held_out: bool = False, gain: bool = False
) -> pd.Series:
    """K of every passage, or its gain since the start."""
    table = arm.probes(moment)
    values = table["log_prob"] - (arm.probes(START)["log_prob"] if gain else 0)
    wanted = (table["exposure"] == HELD_OUT) == held_out
    return values[wanted].groupby(table["passage"]).mean()


def _questions(arm: CklArm) -> pd.Series:
    # P is a mean over tasks, so every question counts by the size of its task.
    table = arm.questions(END)
    if table.empty:
        return pd.Series(dtype=float)
    sizes = table.groupby("task")["item"].transform("size")
    weights = len(table) / (table["task"].nunique() * sizes)
    return (table["score"] * weights).groupby([table["task"], table["item"]]).mean()


def _facts(arm: CklArm) -> pd.Series:
    table = arm.facts(END)
    return table if table.empty else table.groupby("subject")["log_prob"].mean()


K_INJECTED = "K of passages met, last injection"
P_END = "P, end"
FACTS_END = "log-probability of earlier facts, end"
MEASURES: dict[str, tuple[str, str, Callable[[CklArm], pd.Series]]] = {
    K_INJECTED: ("nats", "passages", partial(_knowledge, moment=INJECTED)),
    "K of passages met, end": ("nats", "passages", partial(_knowledge, moment=END)),
    "gain of passages met since the start, last injection": (
        *("nats", "passages"),
        partial(_knowledge, moment=INJECTED, gain=True),
    ),
    "K of held-out passages, last injection": (
        *("nats", "passages"),
        partial(_knowledge, moment=INJECTED, held_out=True),
    ),
    P_END: ("share", "questions", _questions),
    FACTS_END: ("nats", "subjects", _facts),
}
"""What arms are compared in: its unit, what is drawn, and the values of an arm by what is drawn."""


def trajectory_points(
    arms: Sequence[CklArm],
    acquired: pd.DataFrame,
    forgotten: pd.DataFrame,
    levels: pd.DataFrame,
    changes: pd.DataFrame,
) -> pd.DataFrame:
    """Arms that differ in the age of their start alone, a row each, by age."""
    rows = []
    for series, alike in _series(arms):
        for arm in alike:
            of = {"arm": arm.name, "seed": None}
            before = rows_where(levels, **of, moment=arm.compared_with[-1], group=ENTROPY)
            a = rows_where(acquired, **of, against=START, exposure=MET, kind=ALL_KINDS)
            a = a.set_index("moment")["value"]
            row = {"series": series, "arm": arm.name, "step": arm.start.step}
            row |= dict(zip(before["measure"], before["value"], strict=True))
            row |= {ACQUIRED_INJECTED: a[INJECTED], ACQUIRED_END: a[END]}
            if not forgotten.empty:
                f = rows_where(forgotten, **of, against=START, task=ALL_TASKS, moment=END)
                # None where no task was answered better than by guessing.
                row[FORGOTTEN] = next(iter(f["value"].dropna()), None)
            moved = rows_where(
                changes, arm=arm.name, against=START, moment=END, group=[TEXT, FACTS]
            )
            names = [f"{measure}, change" for measure in moved["measure"]]
            rows.append(row | dict(zip(names, moved["change"], strict=True)))
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["series", "arm", "step"])


def _series(arms: Sequence[CklArm]) -> Iterator[tuple[str, list[CklArm]]]:
    """Sets of arms from four starts or more of one model, alike otherwise; by age."""
    sets: dict[str, list[CklArm]] = {}
    for arm in arms:
        if arm.start.step is not None:
            key = f"{arm.start.model} {sorted(arm.settings.items())}"
            sets.setdefault(key, []).append(arm)
    for found in sets.values():
        by_age = sorted(found, key=lambda arm: arm.start.step or 0)
        if len({arm.start.step for arm in found}) == len(found) >= LEAST_STARTS:
            yield f"{found[0].start.model}, {found[0].edit}", by_age


def outcomes_of(points: pd.DataFrame) -> list[str]:
    """The columns of a table of points that are outcomes."""
    known = {"series", "arm", "step", *ENTROPIES.values()}
    return [name for name in points.columns if name not in known]


def correlation_table(points: pd.DataFrame) -> pd.DataFrame:
    """How outcomes follow the entropies of the start, in levels and in first differences."""
    rows = [
        (series, entropy, outcome, len(rows), *_both(rows[entropy], rows[outcome]))
        for series, rows in points.groupby("series", sort=False)
        for entropy in ENTROPIES.values()
        for outcome in outcomes_of(points)
        if entropy in points.columns and rows[[entropy, outcome]].notna().all(axis=None)
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


def acquired_rows(
    summary: Summary, moment: str, *, against: str = START, exposure: str = MET
) -> pd.DataFrame:
    """A of every arm, mean over seeds."""
    where = {"seed": None, "against": against, "moment": moment, "exposure": exposure}
    return rows_where(summary["acquired"], kind=ALL_KINDS, **where)


def forgotten_rows(summary: Summary) -> pd.DataFrame:
    """F of every arm at the end, mean over seeds; `f` are its texts."""
    where = {"seed": None, "task": ALL_TASKS, "moment": END, "against": START}
    rows = rows_where(summary["forgotten"], **where)
    shown = pd.Series(texts(rows, "{value:share~}"), rows.index, dtype=object)
    return rows.assign(f=shown.where(rows["reason"].isna(), NOT_TESTED))


def moved_rows(summary: Summary) -> pd.DataFrame:
    """How far text and facts moved from the start to the end."""
    rows = rows_where(summary["changes"], moment=END, against=START, group=[TEXT, FACTS])
    return with_shows(rows)


def with_shows(table: pd.DataFrame) -> pd.DataFrame:
    """A table with how its measures are shown, and `by` how differences in them are."""
    is_share = table["measure"].str.startswith((RECALLED, "dormant", "P,"))
    shows = {True: "share", False: "nats"}, {True: "+points", False: "+nats"}
    return table.assign(show=is_share.map(shows[0]), by=is_share.map(shows[1]))
