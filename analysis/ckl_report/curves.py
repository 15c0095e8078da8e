"""What encounters gained and how it faded, where the probes were scored often enough.

Effectivity is the gain of every encounter at its local maximum, retainability the share of all
gains that is left later, the forgetting curve a line through it in the logarithm of the steps
(`analysis.encounters`, `analysis.forgetting_curve`). Here a probe counts by what it gained, so
that a share of next to nothing cannot decide a curve. When a maximum is looked for, and how often
probes must have been scored, is told by `analysis.look_grid`; gains hold up to k - 1 steps of drift
where scores are of every k-th step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from analysis.arms import CklArm
from analysis.ckl_report.forgetting import ALL_TASKS
from analysis.ckl_report.scores import ALL_KINDS, ENTROPIES, ENTROPY, FACTS, MET, TEXT, bounds
from analysis.encounters import effectivity, net_gain, retainability
from analysis.forgetting_curve import fit_forgetting_curve
from analysis.look_grid import LEAST_OFFSETS, LookGrid, look_grid
from analysis.metrics import HELD_OUT
from analysis.runs import Moment, TrainingRun
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.statistics.correlations import LEAST_POINTS, correlation

_GAINS = ("arm", "exposure", "kind", "encounter", "gain", "low", "high", "passages", "probes")
_CURVES = (
    *("arm", "exposure", "kind", "slope", "low", "high", "intercept", "threshold"),
    *("threshold_low", "threshold_high", "r_squared", "best_by_aic", "first", "last"),
    *("window", "every", "probes", "all_probes", "passages"),
)
_POINTS = ("arm", "exposure", "offset", "retained", "fitted")


@dataclass(frozen=True)
class _Encounters:
    """Probes of one exposure, of all seeds."""

    log_probs: Float[np.ndarray, "probe look"]
    injections: Int[np.ndarray, "probe injection"]
    passages: Shaped[np.ndarray, "probe"]
    kinds: Shaped[np.ndarray, "probe"]


def curve_tables(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Gains of encounters, forgetting curves, and why an arm has none."""
    gains: list[tuple[Any, ...]] = []
    curves: list[tuple[Any, ...]] = []
    points: list[tuple[Any, ...]] = []
    reasons: dict[str, str] = {}
    for arm in arms:
        grid = look_grid(arm.runs)
        if isinstance(grid, str):
            reasons[arm.name] = grid
            continue
        lacking: list[str] = []
        for exposure in _exposures(arm):
            found = _encounters(arm, exposure, grid)
            if found is None:
                lacking.append(f"passages of {exposure} are met at different rates")
                continue
            for kind, some in _by_kind(found):
                what = (arm.name, exposure, kind)
                gains += [(*what, *row) for row in _gains(some, grid, bootstrap)]
                curve = _curve(some, grid, bootstrap)
                if isinstance(curve, str):
                    lacking += [f"{exposure}: {curve}"] if kind == ALL_KINDS else []
                    continue
                row, drawn = curve
                curves.append((*what, *row))
                points += [(arm.name, exposure, *p) for p in drawn] if kind == ALL_KINDS else []
        if lacking:
            reasons[arm.name] = "; ".join(lacking)
    return (
        pd.DataFrame(gains, columns=list(_GAINS)).astype({"low": float, "high": float}),
        pd.DataFrame(curves, columns=list(_CURVES)).astype(
            dict.fromkeys(("low", "high", "threshold_low", "threshold_high"), float)
        ),
        pd.DataFrame(points, columns=list(_POINTS)),
        reasons,
    )


def _exposures(arm: CklArm) -> list[str]:
    found = arm.runs[0].probe_scores.items["exposure"].unique()
    return [str(exposure) for exposure in found if exposure != HELD_OUT]


def _encounters(arm: CklArm, exposure: str, grid: LookGrid) -> _Encounters | None:
    """The probes of an exposure; None where its passages are not met equally often."""
    parts = [_of_run(run, exposure, grid) for run in arm.runs]
    if any(len({len(met) for met in part[1]}) != 1 for part in parts):
        return None
    return _Encounters(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([np.stack(part[1]) for part in parts]),
        np.concatenate([part[2]["passage"].to_numpy() for part in parts]),
        np.concatenate([part[2]["kind"].to_numpy() for part in parts]),
    )


def _of_run(
    run: TrainingRun, exposure: str, grid: LookGrid
) -> tuple[Float[np.ndarray, "probe look"], list[np.ndarray], pd.DataFrame]:
    items = run.probe_scores.items
    probes = items[items["exposure"] == exposure]
    places = grid.places(run)
    none = np.empty(0, dtype=np.int64)
    return (
        grid.log_probs(run)[probes.index],
        [places.get(passage, none) for passage in probes["passage"]],
        probes,
    )


def _by_kind(found: _Encounters) -> Iterator[tuple[str, _Encounters]]:
    yield ALL_KINDS, found
    for kind in dict.fromkeys(found.kinds):
        of = found.kinds == kind
        yield (
            str(kind),
            _Encounters(
                found.log_probs[of], found.injections[of], found.passages[of], found.kinds[of]
            ),
        )


def _gains(
    found: _Encounters, grid: LookGrid, bootstrap: ClusterBootstrap
) -> Iterator[tuple[Any, ...]]:
    gains = effectivity(found.log_probs, found.injections, grid.window)
    passages, codes = np.unique(found.passages, return_inverse=True)
    for place, column in enumerate(gains.T):
        means = np.bincount(codes, column) / np.bincount(codes)
        interval = bounds(bootstrap.mean_interval(means))
        yield place + 1, float(means.mean()), *interval, len(passages), len(column)


def _curve(
    found: _Encounters, grid: LookGrid, bootstrap: ClusterBootstrap
) -> tuple[tuple[Any, ...], list[tuple[int, float, float]]] | str:
    """A row of the table and the points; or why there is no curve."""
    last = int(found.injections.max())
    offsets = grid.offsets(last)
    if offsets is None:
        return (
            f"a forgetting curve needs {LEAST_OFFSETS} looks after the window of the last "
            f"encounter, found {max(grid.longest(last), 0)}"
        )
    gained = np.asarray(net_gain(found.log_probs, found.injections, grid.window))
    if not (gained > 0).any():
        return "no probe gained anything"
    left = retainability(found.log_probs, found.injections, offsets, grid.window)
    steps = offsets * grid.every
    curve = fit_forgetting_curve(
        steps,
        left,
        passages=found.passages,
        weights=np.maximum(gained, 0.0),
        bootstrap=bootstrap,
    )
    fitted = curve.intercept + curve.slope * np.log10(steps)
    row = (
        *(curve.slope, *bounds(curve.interval), curve.intercept, curve.threshold),
        *(*bounds(curve.threshold_interval), curve.r_squared, str(curve.best_by_aic)),
        *(int(steps[0]), int(steps[-1]), grid.window * grid.every, grid.every),
        *(curve.n_probes, len(gained), curve.n_clusters),
    )
    drawn = zip(steps.tolist(), curve.retainability.tolist(), fitted.tolist(), strict=True)
    return row, list(drawn)


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
    for ours, theirs in ((x, y), (x.diff().dropna(), y.diff().dropna())):
        if len(ours) < LEAST_POINTS or ours.nunique() == 1 or theirs.nunique() == 1:
            yield from (None,) * 4
            continue
        found = correlation(ours.to_numpy(np.float64), theirs.to_numpy(np.float64))
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
