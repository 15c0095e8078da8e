"""What runs of continual knowledge learning acquired and forgot, as the table `ACQUISITION`.

Moments are those of `analysis.runs`. Values are of single runs, without intervals: claims compare
and test them. Where evaluations are too far apart for two of them in a window
(`analysis.encounter_measures`) there are no gains of encounters, and there are none of held-out
passages. `spacing` is given for net gains only, which are what is compared within and beyond the
threshold: in other rows it would keep runs from different starts, or with different edits, from
being matched.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.arms import CklArm, ckl_arms
from analysis.ckl_measures import (
    ALL_KINDS,
    ALL_TASKS,
    MET,
    PassageMeans,
    chance_table,
    passage_means,
    untested,
)
from analysis.encounter_measures import (
    NET_GAIN,
    PER_PASSAGE,
    forgetting_curves,
    look_grid,
    passage_gains,
)
from analysis.forgetting_curve import DecayModel, ForgettingCurve
from analysis.measurements import COLUMNS, SOURCE, Table, of_one_source_each
from analysis.metrics import HELD_OUT, TASK_TABLE, acquisition, forgetting
from analysis.run_settings import settings_of_runs
from analysis.runs import Moment, TrainingRun
from training.ckl_run import GENERATED_PROBES
from training.recall import Match
from training.runs.records import RecallRecord, records_of

GAINED_AT = (Moment.INJECTED, Moment.END)
"""The moments that gains in nats and in what is generated are given at."""
_ENTROPY = "knowledge"
"""The kind of entropy."""
_INTERVALS = ("interval", "interval_rows")


class Row(NamedTuple):
    """A value; what does not apply to it is None."""

    measure: str
    value: float
    exposure: str | None = None
    kind: str | None = None
    moment: str | None = None
    against: str | None = None
    cluster: str | None = None
    spacing: str | None = None


class Spacing(StrEnum):
    """Places of an interval between encounters."""

    WITHIN = "within"
    """At the learnability threshold, or below it."""
    BEYOND = "beyond"
    """Above it."""


def acquisition_table(runs: Sequence[TrainingRun]) -> pd.DataFrame:
    """All numbers of finished runs of `training.ckl` that claims are about.

    Refused are runs of another command, runs that are alike in all settings that the table has, and
    scores that are not finite.
    """
    arms = ckl_arms(runs)
    places = [(arm, run) for arm in arms for run in arm.runs]
    ordered = [run for _, run in places]
    for run in ordered:
        _refuse_not_finite(run)
    settings = settings_of_runs(ordered)
    _refuse_alike(ordered, settings)
    curves = [forgetting_curves(run) for run in ordered]
    thresholds = [found[MET].threshold if MET in found else None for found in curves]
    chances = chance_table(arms)
    tables = []
    for place, spacing in enumerate(spacings(settings, thresholds)):
        (arm, run), means = places[place], passage_means(ordered[place].probe_scores.items)
        rows = [
            *_knowledge_rows(arm, run, means),
            *_generated_rows(arm, run),
            *_entropy_rows(run),
            *_question_rows(arm, run, chances),
            *_encounter_rows(run, means, spacing),
            *_curve_rows(curves[place]),
        ]
        values = pd.DataFrame(rows, columns=list(Row._fields), dtype=object)
        described = pd.DataFrame([settings[place] | _amounts(run)] * len(values), dtype=object)
        tables.append(pd.concat([described, values], axis=1))
    found = pd.concat(tables, ignore_index=True)
    return found[list(COLUMNS[Table.ACQUISITION])].astype({"value": float})


def _amounts(run: TrainingRun) -> dict[str, int]:
    """How much a run was trained; encounters are those of the passages met most often."""
    met = run.injections["passage"].value_counts()
    tokens = int(run.steps["trained_tokens"].sum())
    return {"updates": run.last_step, "encounters": int(met.max()), "tokens": tokens}


def spacings(
    settings: Sequence[Mapping[str, Any]], thresholds: Sequence[float | None]
) -> list[Spacing | None]:
    """The place of the interval of each run; None where runs like it have one interval only.

    The threshold is that of the run with the shortest interval that has a forgetting curve.
    """
    alike: dict[str, list[int]] = {}
    for place, one in enumerate(settings):
        others = sorted((name, str(v)) for name, v in one.items() if name not in _INTERVALS)
        alike.setdefault(repr(others), []).append(place)
    found: list[Spacing | None] = [None] * len(settings)
    for places in alike.values():
        rising = sorted(places, key=lambda place: settings[place][_INTERVALS[0]])
        known = [t for place in rising if (t := thresholds[place]) is not None]
        if not known or len({settings[place][_INTERVALS[0]] for place in places}) == 1:
            continue
        for place in places:
            is_within = settings[place][_INTERVALS[0]] <= known[0]
            found[place] = Spacing.WITHIN if is_within else Spacing.BEYOND
    return found


def _knowledge_rows(arm: CklArm, run: TrainingRun, means: PassageMeans) -> Iterator[Row]:
    """K of passages, A against each start, and gains of log-probability of what was met."""
    moments = list(arm.all_moments)
    scores = np.stack([arm.probes(moment, run)["log_prob"] for moment in moments], axis=1)
    by_passage = means.of(scores)
    for moment, column in zip(moments, by_passage.T.tolist(), strict=True):
        for group, value in zip(means.groups, column, strict=True):
            yield Row("K", value, group.exposure, group.kind, moment, cluster=group.cluster)
    for what, values in means.over_passages(by_passage).items():
        known = dict(zip(moments, values.tolist(), strict=True))
        for against, moment in arm.pairs():
            if known[against] != 0:
                yield Row("A", acquisition(known[against], known[moment]), *what, moment, against)
        for moment in GAINED_AT if what == (MET, ALL_KINDS) else ():
            gain = known[moment] - known[Moment.START]
            yield Row("gain of log-probability", gain, *what, moment, Moment.START)


def _generated_rows(arm: CklArm, run: TrainingRun) -> Iterator[Row]:
    """The rise of the share of probes of met passages whose target is generated."""
    met = (run.probe_scores.items["exposure"] != HELD_OUT).to_numpy()
    shares: dict[int, float] = {}
    for record in records_of(run.path, RecallRecord):
        if record.items != GENERATED_PROBES or record.match != Match.TOKENS:
            continue
        if len(record.correct) != len(met):
            raise ValueError(
                f"{run.path} has {len(record.correct)} generated targets at step {record.step}, "
                f"but {len(met)} probes; its files are not of one run"
            )
        shares[record.step] = float(np.array(record.correct)[met].mean())
    start, what = arm.moments[Moment.START], "gain of generated"
    for moment in GAINED_AT:
        if start in shares and (step := arm.moments[moment]) in shares:
            gain = shares[step] - shares[start]
            yield Row(what, gain, MET, ALL_KINDS, moment, against=Moment.START)


def _entropy_rows(run: TrainingRun) -> Iterator[Row]:
    """Knowledge entropy of both starts of a run; nothing where it was not measured."""
    unedited = run if run.unedited is None else run.unedited
    for moment, seen in ((Moment.UNEDITED, unedited), (Moment.START, run)):
        found = seen.entropies
        totals = found[(found["step"] == 0) & (found["kind"] == _ENTROPY) & found["layer"].isna()]
        for value in totals["entropy"]:
            yield Row("knowledge entropy", float(value), moment=moment)


def _question_rows(arm: CklArm, run: TrainingRun, chances: pd.DataFrame) -> Iterator[Row]:
    """P of every question and F of a run; nothing where neither is tested."""
    tested = [
        against
        for against in arm.compared_with
        if ALL_TASKS not in untested(chances, arm.name, against)
    ]
    if not tested:
        return
    levels: dict[str, float] = {}
    for moment in arm.all_moments:
        questions = arm.questions(moment, run)
        if questions.empty:
            continue
        items = TASK_TABLE.items(questions)
        levels[moment] = items.score
        values = (items.means * items.weights * len(items.means)).tolist()
        for task, item, value in zip(questions["task"], questions["item"], values, strict=True):
            yield Row("P", value, moment=moment, cluster=f"{task}: {item}")
    for against, moment in arm.pairs():
        # Of an accuracy of 0 there is no share; against guessing it is not tested.
        if against in tested and moment in levels and levels.get(against, 0) > 0:
            share = forgetting(levels[against], levels[moment])
            yield Row("F", share, moment=moment, against=against)


def _encounter_rows(run: TrainingRun, means: PassageMeans, spacing: str | None) -> Iterator[Row]:
    """Effectivity, rise, fall and net gain of every passage that a run met."""
    grid = look_grid([run])
    if isinstance(grid, str):
        return
    by_passage = means.of(passage_gains(run, grid))
    for measure, column in zip(PER_PASSAGE, by_passage.T.tolist(), strict=True):
        of = spacing if measure == NET_GAIN else None
        for group, value in zip(means.groups, column, strict=True):
            if not np.isnan(value):
                yield Row(measure, value, *group[:2], cluster=group.cluster, spacing=of)


def _curve_rows(curves: Mapping[str, ForgettingCurve]) -> Iterator[Row]:
    """Slopes of forgetting curves, and what speaks for a line."""
    for exposure, curve in curves.items():
        line = curve.fits[DecayModel.LOG_LINEAR].aic
        values = {
            "slope": curve.slope,
            "AIC over power": curve.fits[DecayModel.POWER].aic - line,
            "AIC over exponential": curve.fits[DecayModel.EXPONENTIAL].aic - line,
        }
        for measure, value in values.items():
            # A shape that fits to the last bit has no criterion.
            if np.isfinite(value):
                yield Row(measure, value, exposure, ALL_KINDS)


def _refuse_not_finite(run: TrainingRun) -> None:
    for seen in (run, run.unedited):
        wrong = 0 if seen is None else int((~np.isfinite(seen.probe_scores.log_probs)).sum())
        if wrong:
            raise ValueError(
                f"{run.path} has {wrong} scores of probes that are not finite, which give no K; "
                "leave the run out"
            )


def _refuse_alike(runs: Sequence[TrainingRun], settings: Sequence[Mapping[str, Any]]) -> None:
    """Refuse runs that differ only in what the table does not have, by the K that each has."""
    none = dict.fromkeys(COLUMNS[Table.ACQUISITION])
    known = [
        {**none, **one, "measure": "K", SOURCE: str(run.path)}
        for run, one in zip(runs, settings, strict=True)
    ]
    of_one_source_each(Table.ACQUISITION, pd.DataFrame(known))
