"""Probe curves: the knowledge scores of chosen arms over their steps, with the best after each
encounter.

A score is the mean log-probability of probes' targets, in nats: over a passage's probes, then over
passages, then over seeds. The best is looked for as in `analysis.encounters`, and only where
`analysis.look_grid` finds that probes were scored often enough.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.arms import CklArm, ckl_arms, pooled
from analysis.claim_tables.settings import settings_of_runs
from analysis.claims.measurements import NONE
from analysis.encounters import find_local_maxima
from analysis.look_grid import encounter_steps, look_grid
from analysis.report.figures import thinned
from analysis.report.names import run_name, without_seed
from analysis.report.text_changes import unedited_runs
from analysis.runs import TrainingRun

_MOST_LOOKS = 400
"""Of a curve."""
_CURVES = ("arm", "exposure", "step", "score")


def chosen_arms(runs: Sequence[TrainingRun], most: int) -> list[CklArm]:
    """Unedited arms, so many of them, evenly spread over all in the order of their names."""
    groups: dict[str, list[TrainingRun]] = {}
    for run in unedited_runs(runs):
        settings = dict(run.configuration)
        seed = settings.pop("seed")
        model = without_seed(settings.pop("model"), seed)
        groups.setdefault(f"{model} {settings}", []).append(run)
    every = list(groups.values())
    if not every or most < 1:
        return []
    chosen = [every[place] for place in thinned(np.arange(len(every)), most)]
    return ckl_arms([run for found in chosen for run in found])


def named_arms(arms: Sequence[CklArm], told: Sequence[str]) -> list[CklArm]:
    """Arms by the names of the page."""
    names = []
    for arm, row in zip(arms, settings_of_runs([arm.runs[0] for arm in arms]), strict=True):
        known = {name: NONE if value is None else value for name, value in row.items()}
        known["trajectory"] = without_seed(known["trajectory"], arm.seeds[0])
        names.append(run_name(known, told))
    return pooled(arms, names)


def probe_curves(arms: Sequence[CklArm]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of arms over steps, by exposure, and their best after each encounter."""
    curves, maxima = [], []
    for arm in arms:
        items = arm.runs[0].probe_scores.items
        for exposure in items["exposure"].unique():
            steps, scores = _mean_scores(arm, str(exposure))
            shown = thinned(steps, _MOST_LOOKS)
            curves.append(_table(arm.name, str(exposure), steps[shown], scores[shown]))
            maxima.append(_maxima(arm, str(exposure), steps, scores))
    empty = pd.DataFrame(columns=list(_CURVES))
    best = [found for found in maxima if len(found)]
    return (
        pd.concat(curves, ignore_index=True) if curves else empty,
        pd.concat(best, ignore_index=True) if best else empty,
    )


def injection_steps(run: TrainingRun, exposure: str) -> list[int]:
    """When passages of an exposure are met; empty where they are met at different times."""
    items = run.probe_scores.items
    passages = set(items.loc[items["exposure"] == exposure, "passage"])
    met = encounter_steps(run)
    times = {tuple(met[passage].tolist()) for passage in passages & set(met)}
    return list(times.pop()) if len(times) == 1 else []


def _mean_scores(
    arm: CklArm, exposure: str
) -> tuple[Int[np.ndarray, "look"], Float[np.ndarray, "look"]]:
    scores = [run.probe_scores for run in arm.runs]
    steps = sorted(set.intersection(*({int(s) for s in one.steps} for one in scores)))
    means = []
    for one in scores:
        wanted = (one.items["exposure"] == exposure).to_numpy()
        passages = pd.factorize(one.items["passage"][wanted])[0]
        weights = 1 / np.bincount(passages)[passages]
        looks = np.searchsorted(one.steps, steps)
        means.append(one.log_probs[looks][:, wanted] @ weights / weights.sum())
    return np.array(steps, dtype=np.int64), np.mean(means, axis=0)


def _maxima(
    arm: CklArm, exposure: str, steps: Int[np.ndarray, "look"], scores: Float[np.ndarray, "look"]
) -> pd.DataFrame:
    grid = look_grid(arm.runs)
    met = injection_steps(arm.runs[0], exposure)
    if isinstance(grid, str) or not met:
        return pd.DataFrame(columns=list(_CURVES))
    on_grid = scores[np.searchsorted(steps, grid.steps)]
    found = find_local_maxima(on_grid, [step // grid.every for step in met], grid.window)
    return _table(arm.name, exposure, grid.steps[found.steps], found.log_probs)


def _table(
    name: str,
    exposure: str,
    steps: Int[np.ndarray, "look"],
    scores: Float[np.ndarray, "look"],
) -> pd.DataFrame:
    rows = {"arm": name, "exposure": exposure, "step": steps, "score": scores}
    return pd.DataFrame(rows, columns=list(_CURVES))
