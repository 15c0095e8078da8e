"""The table `ACQUISITION`: what runs of continual knowledge learning acquired and forgot.

Moments are those of `analysis.ckl_report`. Values are of single runs, without intervals: claims
compare and test them. What each measure is stands in the modules that it is from:

| rows                                                       | from          |
|------------------------------------------------------------|---------------|
| K, A, gains of log-probability and generated, entropy      | `knowledge`   |
| P, F                                                       | `questions`   |
| effectivity, rise, fall, net gain, slope, AIC over others  | `encounters`  |

Settings are those of `settings`. `spacing` (`claim_tables.encounters`) is given for net gains only,
 which are what is compared within and beyond the threshold: in other rows it would keep
runs from different starts, or with different edits, from being matched.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
from analysis.claim_tables.encounters import Row, curve_rows, encounter_rows, spacings
from analysis.claim_tables.settings import SOURCE, of_one_source_each, settings_of_runs
from analysis.claims.measurements import COLUMNS, Table
from analysis.encounter_measures import forgetting_curves
from analysis.forgetting_curve import ForgettingCurve
from analysis.metrics import HELD_OUT, TASK_TABLE, acquisition, forgetting
from analysis.runs import Moment, TrainingRun
from training.ckl_run import GENERATED_PROBES
from training.recall import Match
from training.runs.records import RecallRecord, records_of

GAINED_AT = (Moment.INJECTED, Moment.END)
"""The moments that gains in nats and in what is generated are given at."""
_ENTROPY = "knowledge"
"""The kind of entropy."""


def knowledge_rows(arm: CklArm, run: TrainingRun, means: PassageMeans) -> Iterator[Row]:
    """K, A and gains of log-probability of a run."""
    moments = list(arm.all_moments)
    scores = np.stack([arm.probes(moment, run)["log_prob"] for moment in moments], axis=1)
    by_passage = means.of(scores)
    for moment, column in zip(moments, by_passage.T.tolist(), strict=True):
        for group, value in zip(means.groups, column, strict=True):
            yield Row("K", value, group.exposure, group.kind, moment, cluster=group.cluster)
    for (exposure, kind), values in means.over_passages(by_passage).items():
        known = dict(zip(moments, values.tolist(), strict=True))
        yield from _acquired(arm, exposure, kind, known)


def generated_rows(arm: CklArm, run: TrainingRun) -> Iterator[Row]:
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


def entropy_rows(run: TrainingRun) -> Iterator[Row]:
    """Knowledge entropy of both starts of a run; nothing where it was not measured."""
    unedited = run if run.unedited is None else run.unedited
    for moment, seen in ((Moment.UNEDITED, unedited), (Moment.START, run)):
        found = seen.entropies
        totals = found[(found["step"] == 0) & (found["kind"] == _ENTROPY) & found["layer"].isna()]
        for value in totals["entropy"]:
            yield Row("knowledge entropy", float(value), moment=moment)


def _acquired(arm: CklArm, exposure: str, kind: str, known: dict[str, float]) -> Iterator[Row]:
    """A against each start, and gains of what was met."""
    for against in arm.compared_with:
        for moment in arm.moments:
            if moment != Moment.START and known[against] != 0:
                share = acquisition(known[against], known[moment])
                yield Row("A", share, exposure, kind, moment, against)
    if (exposure, kind) == (MET, ALL_KINDS):
        for moment in GAINED_AT:
            gain = known[moment] - known[Moment.START]
            yield Row("gain of log-probability", gain, exposure, kind, moment, Moment.START)


def question_rows(arm: CklArm, run: TrainingRun, chances: pd.DataFrame) -> Iterator[Row]:
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
    for against in tested:
        for moment in arm.moments:
            # Of an accuracy of 0 there is no share; against guessing it is not tested.
            if moment in levels and moment != Moment.START and levels.get(against, 0) > 0:
                share = forgetting(levels[against], levels[moment])
                yield Row("F", share, moment=moment, against=against)


def acquisition_table(
    runs: Sequence[TrainingRun], *, novelty: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """All numbers of runs that claims are about.

    Args:
        runs: finished runs of `training.ckl`.
        novelty: of corpora ("new" or "familiar"), by the name that a run was given; instead of what
            is found (`analysis.claim_tables.settings`).

    Returns:
        The columns of `Table.ACQUISITION`; settings that do not apply are None.

    Raises:
        ValueError: a run is another command's, is not over or is there twice; two runs are alike in
            all settings that the table has; a score is not finite, or a novelty is none.
    """
    arms = ckl_arms(runs)
    ordered = [run for arm in arms for run in arm.runs]
    for run in ordered:
        _refuse_not_finite(run)
    settings = settings_of_runs(ordered, novelty)
    _refuse_alike(ordered, settings)
    curves = [forgetting_curves(run) for run in ordered]
    thresholds = [found[MET].threshold if MET in found else None for found in curves]
    spacing = spacings(settings, thresholds)
    chances = chance_table(arms)
    rows: list[Row] = []
    counts: list[int] = []
    places = (arm for arm in arms for _ in arm.runs)
    for arm, run, curve, lies in zip(places, ordered, curves, spacing, strict=True):
        before = len(rows)
        rows += _rows(arm, run, curve, lies, chances)
        counts.append(len(rows) - before)
    described = pd.DataFrame(settings, dtype=object).loc[
        [place for place, count in enumerate(counts) for _ in range(count)]
    ]
    values = pd.DataFrame(rows, columns=list(Row._fields), dtype=object)
    table = pd.concat([described.reset_index(drop=True), values], axis=1)
    return table[list(COLUMNS[Table.ACQUISITION])].astype({"value": float})


def _rows(
    arm: CklArm,
    run: TrainingRun,
    curves: Mapping[str, ForgettingCurve],
    spacing: str | None,
    chances: pd.DataFrame,
) -> Iterator[Row]:
    means = passage_means(run.probe_scores.items)
    yield from knowledge_rows(arm, run, means)
    yield from generated_rows(arm, run)
    yield from entropy_rows(run)
    yield from question_rows(arm, run, chances)
    yield from encounter_rows(run, means, spacing)
    yield from curve_rows(curves)


def _refuse_not_finite(run: TrainingRun) -> None:
    for seen in (run, run.unedited):
        wrong = 0 if seen is None else int((~np.isfinite(seen.probe_scores.log_probs)).sum())
        if wrong:
            raise ValueError(
                f"{run.path} has {wrong} scores of probes that are not finite, which give no K; "
                "leave the run out"
            )


def _refuse_alike(runs: Sequence[TrainingRun], settings: Sequence[Mapping[str, Any]]) -> None:
    """Refuse runs that differ only in what the table does not tell, by the K that each has."""
    none = dict.fromkeys(COLUMNS[Table.ACQUISITION])
    known = [
        {**none, **one, "measure": "K", SOURCE: str(run.path)}
        for run, one in zip(runs, settings, strict=True)
    ]
    of_one_source_each(Table.ACQUISITION, pd.DataFrame(known))
