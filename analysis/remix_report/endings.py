"""How stages ended, how far weights have drifted, and what came back when items were taught again.

Example:
    >>> stage_table(arms)[["arm", "stage", "status", "steps"]]               # doctest: +SKIP
"""

from collections.abc import Sequence

import pandas as pd

from analysis.remix_report.arms import RemixArm
from training.runs.records import WeightDriftRecord, records_of
from training.weight_drift import drift_table as drift_rows

_STAGES = ("arm", "seed", "stage", "status", "reason", "steps", "trained_tokens", "shared")
_DRIFT = ("arm", "stage", "level", "layer", "module", "distance", "relative", "angle", "seeds")


def stage_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """How every stage of every run ended.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `seed`, `stage`, `status`, `reason`, `steps`, `trained_tokens` of all
        updates, and `shared`: whether the stage was run once for several arms.
    """
    rows = [
        (
            *(arm.name, chain.seed, name, stage.outcome["status"], stage.outcome["reason"]),
            *(stage.outcome["steps"], int(stage.run.steps["trained_tokens"].sum()), stage.shared),
        )
        for arm in arms
        for chain in arm.chains
        for name, stage in chain.stages.items()
    ]
    return pd.DataFrame(rows, columns=list(_STAGES))


def drift_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """How far weights are at the end of every stage from where it began, mean over seeds.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `stage`, `level` (`model`, `layer`, `module` or `part`), `layer`, `module`,
        `distance`, `relative`, `angle` (radians), `seeds`; empty where drift was not measured.
    """
    tables = [
        drift_rows(records[-1]).assign(arm=arm.name, stage=name)
        for arm in arms
        for chain in arm.chains
        for name, stage in chain.stages.items()
        if (records := records_of(stage.run.path, WeightDriftRecord))
    ]
    if not tables:
        return pd.DataFrame(columns=list(_DRIFT))
    keys = ["arm", "stage", "level", "layer", "module"]
    grouped = pd.concat(tables, ignore_index=True).groupby(keys, sort=False, dropna=False)
    means = grouped[["distance", "relative", "angle"]].mean()
    return means.assign(seeds=grouped.size()).reset_index()[list(_DRIFT)]
