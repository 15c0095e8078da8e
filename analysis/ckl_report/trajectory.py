"""Arms whose starts are checkpoints of one pretraining: what became of them, by age and entropy."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.arms import CklArm
from analysis.ckl_measures import ALL_KINDS, ALL_TASKS, MET
from analysis.levels import ENTROPIES, ENTROPY, FACTS, TEXT
from analysis.runs import Moment
from analysis.statistics.correlations import LEAST_POINTS, correlation
from analysis.statistics.tests import is_constant

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
