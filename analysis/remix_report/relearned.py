"""What came back when a few items of stage A were taught again at the end of a run.

Items are taught `again`, are `other` items of stage A, which were only asked, or were `never
taught`. What comes back of the others beyond what comes of those never taught was out of reach, not
erased (`training.relearning`); that is the spill-over.

Example:
    >>> table = spill_table(arms)                                            # doctest: +SKIP
    >>> table[["arm", "again", "other", "never_taught", "spill_over"]]       # doctest: +SKIP
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.remix_report.arms import RemixArm
from analysis.remix_report.recalls import LOG_PROB, SHARE
from training.relearning import Relearned

_CURVES = ("arm", "of", "measure", "step", "value", "low", "high", "seeds")
_SPILLS = (
    *("arm", "again_before", "again", "other_before", "other", "never_taught_before"),
    *("never_taught", "spill_over", "low", "high", "seeds"),
)


def relearning_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """What was right before the first step of relearning and after each, mean over seeds.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `of` (which items), `measure` (share right, or log-probability in nats),
        `step`, `value`, `low` and `high` (least and most of seeds), `seeds`; empty where nothing
        was taught again.
    """
    rows = [
        (arm.name, group, measure, step, values.mean(), values.min(), values.max(), len(values))
        for arm in arms
        for measure, key in ((SHARE, "exact_match"), (LOG_PROB, "log_prob"))
        for group, looks in _by_group(arm, key).items()
        for step, values in enumerate(np.array(looks).T)
    ]
    return pd.DataFrame(rows, columns=list(_CURVES))


def spill_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """What relearning brought back in the end.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`; of each kind of items the share right before and after relearning, mean over
        seeds; `spill_over`, with the least and the most of seeds, `low` and `high`; `seeds`.
    """
    rows = []
    for arm in arms:
        by_group = _by_group(arm, "exact_match")
        if not by_group:
            continue
        spills = [float(chain.relearning["spill_over"]) for chain in arm.chains if chain.relearning]
        row: dict[str, Any] = {"arm": arm.name, "seeds": len(spills)}
        for group, looks in by_group.items():
            name = group.replace(" ", "_")
            row[f"{name}_before"], row[name] = np.mean([(run[0], run[-1]) for run in looks], axis=0)
        rows.append(row | {"spill_over": np.mean(spills), "low": min(spills), "high": max(spills)})
    return pd.DataFrame(rows, columns=list(_SPILLS))


def _by_group(arm: RemixArm, key: str) -> dict[str, list[list[float]]]:
    """The looks of every run that has them, by the kind of items."""
    runs = [chain.relearning[key] for chain in arm.chains if chain.relearning is not None]
    return {
        str(group): [run[group] for run in runs]
        for group in Relearned
        if runs and all(group in run for run in runs)
    }
