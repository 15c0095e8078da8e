"""The table `ACQUISITION`: what runs of continual knowledge learning acquired and forgot.

Moments are those of `analysis.ckl_report`. Values are of single runs, without intervals: claims
compare and test them. What each measure is stands in the modules that it is from:

| rows                                                       | from          |
|------------------------------------------------------------|---------------|
| K, A, gains of log-probability and generated, entropy      | `knowledge`   |
| P, F                                                       | `questions`   |
| effectivity, rise, fall, net gain, slope, AIC over others  | `encounters`  |

Settings are those of `run_settings`. `spacing` (`analysis.claim_tables.spacing`) is given for net
gains only, which are what is compared within and beyond the threshold: in other rows it would keep
runs from different starts, or with different edits, from being matched.

Example:
    >>> table = acquisition_table([read_run("runs/ckl")])                    # doctest: +SKIP
    >>> table.query("measure == 'A' and exposure == 'met'")["value"]         # doctest: +SKIP
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.ckl_report.arms import Arm, arms_of
from analysis.ckl_report.forgetting import chance_table
from analysis.ckl_report.scores import MET
from analysis.claim_tables.encounters import curve_rows, encounter_rows, forgetting_curves
from analysis.claim_tables.knowledge import entropy_rows, generated_rows, knowledge_rows
from analysis.claim_tables.passage_means import passage_means
from analysis.claim_tables.questions import question_rows
from analysis.claim_tables.rows import Row
from analysis.claim_tables.run_settings import settings_of_runs
from analysis.claim_tables.sources import SOURCE, of_one_source_each
from analysis.claim_tables.spacing import spacings
from analysis.claims.measurements import COLUMNS, Table
from analysis.forgetting_curve import ForgettingCurve
from analysis.run_reading import TrainingRun


def acquisition_table(
    runs: Sequence[TrainingRun], *, novelty: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """All numbers of runs that claims are about.

    Args:
        runs: finished runs of `training.ckl`.
        novelty: of corpora ("new" or "familiar"), by the name that a run was given; instead of what
            is found (`analysis.claim_tables.run_settings`).

    Returns:
        The columns of `Table.ACQUISITION`; settings that do not apply are None.

    Raises:
        ValueError: a run is another command's, is not over or is there twice; two runs are alike in
            all settings that the table has; a score is not finite, or a novelty is none.
    """
    arms = arms_of(runs)
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
    arm: Arm,
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
