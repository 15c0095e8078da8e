"""Curves of single runs on the page: of knowledge, of held-out text, and of what stage A taught.

Knowledge is the mean log-probability of probes' targets, in nats, over a passage's probes, then
over passages, then over seeds, with the best after each encounter where probes were scored often
enough (`analysis.encounter_measures`). Text and earlier facts measure forgetting where no model
answers the downstream tasks better than by guessing: bits per byte rise, and log-probabilities
(nats) of facts fall, where something was forgotten. What was right of stage A is drawn together for
runs with the same data and stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.arms import UNEDITED_NAME, CklArm, RemixArm, ckl_arms, edit_label, pooled, remix_arms
from analysis.ckl_measures import knowledge_over_steps, level_table
from analysis.encounter_measures import encounter_steps, look_grid
from analysis.encounters import find_local_maxima
from analysis.measurements import NONE, Table, checked
from analysis.numbers import shown_path
from analysis.observations import FACTS, RECALLED, TEXT
from analysis.remix_curves import recall_curves
from analysis.remix_measures import SHARE
from analysis.remix_rows import memorization_table
from analysis.report.figures import thinned
from analysis.report.names import memory_name, run_name, without_seed
from analysis.run_settings import settings_of_runs
from analysis.runs import Chain, Moment, TrainingRun

_MOST_LOOKS = 400
"""Of a curve."""
_ARMS_OF_STAGES = 2
"""Times as many arms as others have curves drawn: there is a single panel of them."""
_CURVES = ("arm", "exposure", "step", "score")
_CHANGES = ("measure", "series", "x", "seed", "value")


def unedited_runs(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Runs whose start was not edited."""
    return [run for run in runs if edit_label(run.configuration) == UNEDITED_NAME]


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
    return pooled(arms, _names([arm.runs[0] for arm in arms], told))


def _names(runs: Sequence[TrainingRun], told: Sequence[str]) -> list[str]:
    """What the page calls runs."""
    names = []
    for run, row in zip(runs, settings_of_runs(runs), strict=True):
        known = {name: NONE if value is None else value for name, value in row.items()}
        known["trajectory"] = without_seed(known["trajectory"], run.seed)
        names.append(run_name(known, told))
    return names


def probe_curves(arms: Sequence[CklArm]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of arms over steps, by exposure, and their best after each encounter."""
    curves, maxima = [], []
    for arm in arms:
        items = arm.runs[0].probe_scores.items
        for exposure in items["exposure"].unique():
            steps, scores = knowledge_over_steps(arm, str(exposure))
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


def text_changes(
    runs: Sequence[TrainingRun], told: Sequence[str] = ("trajectory",)
) -> pd.DataFrame:
    """What moved from the start to the end of every unedited run from a checkpoint with a step."""
    chosen = [run for run in unedited_runs(runs) if run.start.step is not None]
    if not chosen:
        return pd.DataFrame(columns=list(_CHANGES))
    arms = ckl_arms(chosen)
    levels = level_table(arms)
    wanted = levels["group"].isin([TEXT, FACTS]) & (levels["measure"] != RECALLED)
    single = levels[wanted & levels["seed"].notna()]
    wide = single.pivot_table("value", ["arm", "seed", "measure"], "moment", sort=False)
    moved = (wide[Moment.END] - wide[Moment.START]).dropna().rename("value").reset_index()
    places = [(arm.name, run.seed, run) for arm in arms for run in arm.runs]
    names = _names([run for *_, run in places], told)
    told_of = pd.DataFrame(
        [(arm, seed, run.start.step) for arm, seed, run in places], columns=["arm", "seed", "x"]
    ).assign(series=names)
    found = moved.merge(told_of, on=["arm", "seed"])
    return found.assign(measure="change of " + found["measure"])[list(_CHANGES)]


@dataclass(frozen=True)
class StageCurves:
    """Curves of arms with the same data.

    Attributes:
        data: what they learnt, in words.
        stages: their letters.
        arms: their names.
        curve: columns as `analysis.remix_curves.recall_curves`, of the share right.
    """

    data: str
    stages: tuple[str, ...]
    arms: tuple[str, ...]
    curve: pd.DataFrame


def stage_curves(runs: Sequence[Chain], most: int, told: Sequence[str] = ()) -> list[StageCurves]:
    """Curves of runs, by their data."""
    sets: dict[tuple[str, ...], list[Chain]] = {}
    for chain in runs:
        names = tuple(shown_path(str(name)) for name in chain.configuration["data"])
        sets.setdefault(names, []).append(chain)
    drawn = []
    for names, chains in sets.items():
        arms = _named_stages(remix_arms(chains), told)
        drawn.append(_stage_curves(names, arms, _ARMS_OF_STAGES * most))
    return [found for found in drawn if found is not None]


def _named_stages(arms: Sequence[RemixArm], told: Sequence[str]) -> list[RemixArm]:
    """Arms by the names of the page."""
    names = []
    for arm in arms:
        rows = checked(Table.MEMORIZATION, memorization_table(arm.runs[:1])[:1])
        names.append(arm.name if rows.empty else memory_name(rows.iloc[0].to_dict(), told))
    return pooled(arms, names)


def _stage_curves(
    names: tuple[str, ...], arms: Sequence[RemixArm], most: int
) -> StageCurves | None:
    alike = [arm for arm in arms if arm.stages == arms[0].stages]
    if most < 1:
        return None
    chosen = [alike[place] for place in thinned(np.arange(len(alike)), most)]
    curve = recall_curves(chosen)
    curve = curve[(curve["items"] == "A") & (curve["measure"] == SHARE)]
    if curve.empty:
        return None
    first, *later = names
    data = f"{first}, then {'+'.join(dict.fromkeys(later))}" if later else first
    return StageCurves(data, arms[0].stages, tuple(arm.name for arm in chosen), curve)
