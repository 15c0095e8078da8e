"""What encounters gained and how it faded, where the probes were scored often enough.

A probe counts by what it gained, so that a share of next to nothing cannot decide a curve. A
maximum is looked for in a window of 50 steps, which ends at the next encounter or before the end of
the run where that comes sooner. Where probes are scored at every k-th step, gains hold up to k - 1
steps of drift. Numbers of passages (`PER_PASSAGE`) are in nats, means over their probes:

- effectivity: the local maximum after an encounter less the score before it, mean over encounters;
- rise: the first score after an encounter less the last before it, mean over encounters;
- fall: the last score before the next encounter less the local maximum, mean over all but the last;
- net gain: the score an interval after the last encounter less that before the first.

Source: Chang et al., NeurIPS 2024: sections 3.3 and 4.1 to 4.4.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.arms import CklArm
from analysis.ckl_measures import ALL_KINDS, MET
from analysis.encounters import effectivity, find_local_maxima, net_gain, retainability
from analysis.forgetting_curve import (
    ForgettingCurve,
    cluster_sums,
    fit_forgetting_curve,
    log_spaced_offsets,
)
from analysis.metrics import HELD_OUT
from analysis.observations import rows_where
from analysis.runs import TrainingRun
from analysis.significance import DEFAULT_BOOTSTRAP, ClusterBootstrap, bounds

WINDOW = 50  # steps after an encounter: the paper's
LEAST_LOOKS = 2  # the fewest evaluations in a window
LEAST_OFFSETS = 3  # the fewest points of a forgetting curve
NET_GAIN = "net gain"
PER_PASSAGE = ("effectivity", "rise", "fall", NET_GAIN)
_GAINS = "arm exposure kind encounter gain low high passages probes"
_CURVES = (
    "arm exposure kind slope low high intercept threshold threshold_low threshold_high r_squared "
    "best_by_aic first last window every probes all_probes passages"
)
_POINTS = "arm exposure offset retained fitted"


@dataclass(frozen=True)
class LookGrid:
    """When the probes of some runs were scored."""

    every: int  # steps from an evaluation to the next
    looks: int  # how many evaluations there are, from step 0 on
    window: int  # evaluations after an encounter among which a maximum is looked for

    @property
    def steps(self) -> Int[np.ndarray, "look"]:
        """Updates done at each evaluation."""
        return np.arange(self.looks) * self.every

    def offsets(self, last: int) -> Int[np.ndarray, "offset"] | str:
        """Evaluations after a maximum at which a forgetting curve is taken; or why there are none.

        `last` is the evaluation before the last encounter.
        """
        longest = self.looks - 1 - last - self.window
        if longest < LEAST_OFFSETS:
            return (
                f"a forgetting curve needs {LEAST_OFFSETS} evaluations after the window of the "
                f"last encounter, found {max(longest, 0)}"
            )
        return np.arange(1, longest + 1) if longest < WINDOW else log_spaced_offsets(longest)


def look_grid(runs: Sequence[TrainingRun]) -> LookGrid | str:
    """The grid that runs with the same settings share; or why there is none."""
    run = runs[0]
    every = run.configuration["probe_every"]
    looks = run.last_step // every + 1
    if any(set(range(0, looks * every, every)) - set(one.probe_scores.steps) for one in runs):
        return f"probes were not scored at every multiple of {every} steps"
    places = run.injections["step"] // every
    gaps = places.groupby(run.injections["passage"]).diff().dropna()
    window = max(WINDOW // every, 1) if gaps.empty else int(min(gaps.min(), WINDOW // every))
    window = min(window, looks - 1 - int(places.max()))
    if window < LEAST_LOOKS:
        return (
            f"probes were scored every {every} steps; between an encounter and the next, or the "
            f"end, {LEAST_LOOKS} evaluations are needed, found {max(window, 0)}"
        )
    return LookGrid(every, looks, window)


def encounter_steps(run: TrainingRun) -> Mapping[Any, np.ndarray]:
    """Updates done before each encounter, `[encounter]`, rising, by passage."""
    met = run.injections.groupby("passage")["step"]
    return {passage: np.sort(steps.to_numpy()) for passage, steps in met}


@dataclass(frozen=True)
class MetProbes:
    """Probes that are met equally often, of one run or of several."""

    items: pd.DataFrame  # a row for each; the index are its places in the list of its run
    log_probs: Float[np.ndarray, "probe look"]  # at every evaluation, in nats
    places: Int[np.ndarray, "probe encounter"]  # the last evaluation before each encounter

    def where(self, **columns: str) -> "MetProbes":
        numbered = self.items.assign(place=range(len(self.items)))
        of = rows_where(numbered, **columns)["place"].to_numpy()
        return MetProbes(self.items.iloc[of], self.log_probs[of], self.places[of])


def met_probes(runs: Sequence[TrainingRun], grid: LookGrid) -> list[MetProbes]:
    """The probes that runs met, apart by how often."""
    items, log_probs, places = [], [], []
    for run in runs:
        scores, met = run.probe_scores, encounter_steps(run)
        of_run = scores.items[scores.items["passage"].isin(list(met))]
        items.append(of_run)
        on_grid = np.searchsorted(scores.steps, grid.steps)
        log_probs.append(scores.log_probs[on_grid].T[of_run.index])
        places += [met[passage] // grid.every for passage in of_run["passage"]]
    probes, every = pd.concat(items), np.concatenate(log_probs)
    counts = np.array([len(one) for one in places])
    return [
        MetProbes(probes[of], every[of], np.stack([places[p] for p in np.flatnonzero(of)]))
        for of in (counts == count for count in np.unique(counts))
    ]


def of_exposure(met: Sequence[MetProbes], exposure: str) -> list[MetProbes]:
    """The rows of one exposure."""
    found = [some.where(exposure=exposure) for some in met]
    return [some for some in found if len(some.items)]


def curve_of(
    met: Sequence[MetProbes], grid: LookGrid, bootstrap: ClusterBootstrap | None = None
) -> tuple[ForgettingCurve, Int[np.ndarray, "offset"]] | str:
    """The forgetting curve of probes and its offsets in steps; or why there is none.

    Without a bootstrap the curve of the pooled gain is fitted, which has no intervals.
    """
    last = max(int(some.places.max()) for some in met)
    offsets = grid.offsets(last)
    if isinstance(offsets, str):
        return offsets
    each = [(some.log_probs, some.places) for some in met]
    gained = np.concatenate([np.asarray(net_gain(*one, grid.window)) for one in each])
    if not (gained > 0).any():
        return "no probe gained anything"
    left = np.concatenate([np.asarray(retainability(*one, offsets, grid.window)) for one in each])
    steps, weights = offsets * grid.every, np.maximum(gained, 0.0)
    if bootstrap is None:
        return fit_forgetting_curve(steps, cluster_sums(left, weights=weights).mean), steps
    passages = np.concatenate([some.items["passage"].to_numpy() for some in met])
    curve = fit_forgetting_curve(
        steps, left, passages=passages, weights=weights, bootstrap=bootstrap
    )
    return curve, steps


def forgetting_curves(run: TrainingRun) -> dict[str, ForgettingCurve]:
    """The forgetting curve of what a run met, and of each exposure, where one can be fitted."""
    grid = look_grid([run])
    if isinstance(grid, str):
        return {}
    met = met_probes([run], grid)
    sets = {MET: met} | {one: of_exposure(met, one) for one in _exposures(run)}
    found = {name: curve_of(some, grid) for name, some in sets.items() if some}
    return {name: curve[0] for name, curve in found.items() if not isinstance(curve, str)}


def passage_gains(run: TrainingRun, grid: LookGrid) -> Float[np.ndarray, "probe measure"]:
    """The numbers of passages for every probe of a run; NaN where there is none."""
    steps, interval = encounter_steps(run), run.configuration["injection_interval"]
    found = np.full((len(run.probe_scores.items), len(PER_PASSAGE)), np.nan)
    for some in met_probes([run], grid):
        log, places, rows = some.log_probs, some.places, some.items.index
        maxima = find_local_maxima(log, places, grid.window)
        before = maxima.before
        found[rows, 0] = (maxima.log_probs - before).mean(axis=1)
        found[rows, 1] = (_at(log, places + 1) - before).mean(axis=1)
        if places.shape[1] > 1:
            found[rows, 2] = (before[:, 1:] - maxima.log_probs[:, :-1]).mean(axis=1)
        ends = np.array([steps[passage][-1] for passage in some.items["passage"]]) + interval
        left = _at(log, np.minimum(ends // grid.every, grid.looks - 1)[:, None])[:, 0]
        found[rows, 3] = np.where(ends <= run.last_step, left - before[:, 0], np.nan)
    return found


def _at(
    log_probs: Float[np.ndarray, "probe look"], places: Int[np.ndarray, "probe place"]
) -> Float[np.ndarray, "probe place"]:
    return np.take_along_axis(log_probs, places, axis=1)


def curve_tables(
    arms: Sequence[CklArm],
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Gains of encounters, forgetting curves and their points, and why an arm lacks some."""
    gains: list[tuple[Any, ...]] = []
    curves: list[tuple[Any, ...]] = []
    points: list[pd.DataFrame] = []
    reasons: dict[str, str] = {}
    for arm in arms:
        grid = look_grid(arm.runs)
        if isinstance(grid, str):
            reasons[arm.name] = grid
            continue
        lacking: list[str] = []
        met = met_probes(arm.runs, grid)
        for exposure in _exposures(arm.runs[0]):
            alike = of_exposure(met, exposure)
            wanted = sum((run.probe_scores.items["exposure"] == exposure).sum() for run in arm.runs)
            if len(alike) != 1 or len(alike[0].items) != wanted:
                lacking.append(f"passages of {exposure} are met at different rates")
                continue
            for kind in (ALL_KINDS, *alike[0].items["kind"].unique()):
                some = alike[0] if kind == ALL_KINDS else alike[0].where(kind=kind)
                what = (arm.name, exposure, str(kind))
                gains += [(*what, *row) for row in _gains(some, grid)]
                curve = curve_of([some], grid, DEFAULT_BOOTSTRAP)
                if not isinstance(curve, str):
                    curves.append((*what, *_curve_row(*curve, some, grid)))
                if kind == ALL_KINDS and isinstance(curve, str):
                    lacking.append(f"{exposure}: {curve}")
                elif kind == ALL_KINDS:
                    points.append(_points(*curve).assign(arm=arm.name, exposure=exposure))
        if lacking:
            reasons[arm.name] = "; ".join(lacking)
    numbers = dict.fromkeys(("low", "high", "threshold_low", "threshold_high"), float)
    of_points = pd.DataFrame(columns=_POINTS.split())
    return (
        pd.DataFrame(gains, columns=_GAINS.split()).astype({"low": float, "high": float}),
        pd.DataFrame(curves, columns=_CURVES.split()).astype(numbers),
        pd.concat(points, ignore_index=True)[list(of_points)] if points else of_points,
        reasons,
    )


def _exposures(run: TrainingRun) -> list[str]:
    found = run.probe_scores.items["exposure"].unique()
    return [str(exposure) for exposure in found if exposure != HELD_OUT]


def _gains(found: MetProbes, grid: LookGrid) -> Iterator[tuple[Any, ...]]:
    gains = pd.DataFrame(effectivity(found.log_probs, found.places, grid.window))
    means = gains.groupby(found.items["passage"].to_numpy()).mean()
    for place, values in enumerate(means.to_numpy().T):
        interval = bounds(DEFAULT_BOOTSTRAP.mean_interval(values))
        yield place + 1, float(values.mean()), *interval, len(means), len(gains)


def _curve_row(
    curve: ForgettingCurve, steps: Int[np.ndarray, "offset"], found: MetProbes, grid: LookGrid
) -> tuple[Any, ...]:
    return (
        *(curve.slope, *bounds(curve.interval), curve.intercept, curve.threshold),
        *(*bounds(curve.threshold_interval), curve.r_squared, str(curve.best_by_aic)),
        *(int(steps[0]), int(steps[-1]), grid.window * grid.every, grid.every),
        *(curve.n_probes, len(found.items), curve.n_clusters),
    )


def _points(curve: ForgettingCurve, steps: Int[np.ndarray, "offset"]) -> pd.DataFrame:
    fitted = curve.intercept + curve.slope * np.log10(steps)
    return pd.DataFrame({"offset": steps, "retained": curve.retainability, "fitted": fitted})
