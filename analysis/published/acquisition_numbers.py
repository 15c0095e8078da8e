"""Acquisition numbers: published correlations and gaps over checkpoints against runs of ours.

Correlations are Pearson's of levels, as published; what drifts with age correlates anyway, which
`analysis.claims` tests and this does not. A gap is the acquisition of the last checkpoint less that
of the first one of the published tables.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.claims.knowledge_settings import ACQUIRED, FORGOTTEN, NO_PROBES
from analysis.claims.measurements import Table
from analysis.claims.selection import Arm, Settings, along, matched
from analysis.published.acquisition_cells import (
    BASELINE,
    FREE,
    PERCENT,
    checkpoint_arm,
    conditions_of,
    recipe_settings,
    runs_on,
)
from analysis.published.comparing import Measured
from analysis.published.knowledge_entropy import CHECKPOINTS
from analysis.published.records import Published
from analysis.published.result_names import NEW, novelty_of
from analysis.published.result_rows import ResultRows, measured
from analysis.statistics.results import CheckpointCluster, CorrelationKind
from analysis.statistics.series import LEAST_CHECKPOINTS, ScaleError, checkpoint_correlation

_ENTROPY: Settings = {
    "measure": "knowledge entropy",
    "moment": "unedited start",
    "against": None,
    **NO_PROBES,
}
_FIRST, _LAST = CHECKPOINTS[0], CHECKPOINTS[-1]


def measure_gap(published: Published, base: Published | None, rows: ResultRows) -> Measured:
    """What results say of a gap in acquisition between the last and the first checkpoint."""
    novelty = novelty_of(published.conditions["corpus"])
    frame = runs_on(rows, ACQUIRED, novelty, "A")
    gaps = _gaps(frame, (novelty,), rows)
    change, unchanged = gaps, ""
    if base is not None:
        change, unchanged = _apart(frame, novelty, novelty_of(base.conditions["corpus"]), rows)
    return measured(
        gaps,
        change,
        unchanged=unchanged,
        conditions=conditions_of(frame, rows, novelty),
        rows=f"{novelty} text, {_LAST} less {_FIRST} by their age",
    )


def measure_correlation(published: Published, rows: ResultRows) -> Measured:
    """What results say of a correlation with the knowledge entropy of the start."""
    wanted = FORGOTTEN if "forgetting" in published.measure else ACQUIRED
    frame = runs_on(rows, wanted, NEW, str(wanted["measure"]))
    settings = recipe_settings(BASELINE, frame, rows)
    both = matched(
        pd.concat([frame, runs_on(rows, _ENTROPY, NEW, "knowledge entropy")]),
        Table.ACQUISITION,
        [Arm(str(one["measure"]), {**one, **settings}) for one in (_ENTROPY, wanted)],
        FREE,
    )
    cause, outcome = (along(both[place], "step", LEAST_CHECKPOINTS) for place in (0, 1))
    x, y = (each.to_numpy(dtype=float) for each in (cause, outcome))
    clock = np.log1p(np.array(outcome.columns, dtype=np.float64))
    kinds = (CheckpointCluster.CHECKPOINT, CorrelationKind.PEARSON)
    found = checkpoint_correlation(x, y, clock, *kinds).levels
    return Measured(
        value=found.effect,
        interval=found.interval,
        change=found.effect,
        change_interval=found.interval,
        seeds=len(y),
        conditions=conditions_of(frame, rows, NEW),
        rows=f"{found.n} checkpoints",
    )


def _gaps(frame: pd.DataFrame, novelties: Sequence[str], rows: ResultRows) -> pd.Series:
    """The gap of each seed in percent, less that on other text where one is named."""
    settings = recipe_settings(BASELINE, frame, rows)
    ages = [checkpoint_arm(name, frame, settings) for name in (_LAST, _FIRST)]
    arms = [
        Arm(f"{age.name} on {novelty} text", {**age.settings, "novelty": novelty})
        for novelty in novelties
        for age in ages
    ]
    found = matched(frame, Table.ACQUISITION, arms, FREE).groupby(level="seed").mean()
    gap = found[0] - found[1]
    return PERCENT * (gap - (found[2] - found[3]) if len(novelties) > 1 else gap)


def _apart(
    frame: pd.DataFrame, novelty: str, other: str, rows: ResultRows
) -> tuple[pd.Series | None, str]:
    """Gaps less those on other text of runs alike in all else, or why there is none."""
    try:
        both = pd.concat([frame, runs_on(rows, ACQUIRED, other, "A")])
        return _gaps(both, (novelty, other), rows), ""
    except ScaleError as error:
        return None, str(error)
