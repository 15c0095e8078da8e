"""What encounters gained and how it faded, where the probes were scored often enough.

Effectivity is the gain of every encounter at its local maximum, retainability the share of all
gains that is left later, the forgetting curve a line through it in the logarithm of the steps
(`analysis.encounter_gains`, `analysis.forgetting_curve`). Here a probe counts by what it gained, so
that a share of next to nothing cannot decide a curve. When a maximum is looked for, and how often
probes must have been scored, is told by `analysis.look_grid`; gains hold up to k - 1 steps of drift
where scores are of every k-th step.

Example:
    >>> gains, curves, points, reasons = curve_tables(arms)                  # doctest: +SKIP
    >>> curves[["arm", "exposure", "slope", "threshold", "r_squared"]]       # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from analysis.ckl_report.arms import Arm
from analysis.ckl_report.scores import ALL_KINDS, bounds
from analysis.cluster_bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.encounter_gains import effectivity, net_gain, retainability
from analysis.forgetting_curve import fit_forgetting_curve
from analysis.item_tables import HELD_OUT
from analysis.look_grid import LEAST_OFFSETS, LookGrid, look_grid
from analysis.run_reading import TrainingRun

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
    arms: Sequence[Arm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Gains of encounters, forgetting curves, and why an arm has none.

    Args:
        arms: the runs; all seeds of an arm go into one curve.
        bootstrap: how intervals are made; they draw passages, with all their seeds.

    Returns:
        Gains: `arm`, `exposure`, `kind`, `encounter` (from 1), `gain` with `low` and `high` in
        nats, `passages`, `probes`. Curves: `arm`, `exposure`, `kind`, `slope` per decade of steps
        with `low` and `high`, `intercept`, `threshold` in steps with its bounds, `r_squared`,
        `best_by_aic` (of the shapes fitted), `first` and `last` offset, `window` and `every` in
        steps, `probes` that gained anything, `all_probes`, `passages`. Points of the curves of all
        kinds: `arm`, `exposure`, `offset`, `retained`, `fitted`. Reasons, by arm.
    """
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


def _exposures(arm: Arm) -> list[str]:
    found = arm.runs[0].probe_scores.items["exposure"].unique()
    return [str(exposure) for exposure in found if exposure != HELD_OUT]


def _encounters(arm: Arm, exposure: str, grid: LookGrid) -> _Encounters | None:
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
