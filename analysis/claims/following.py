"""Following: whether two measures follow each other over checkpoints.

Series that drift correlate whatever they have to do with each other, so the claim has to hold both
of first differences and of what a line over the logarithm of steps leaves
(`analysis.statistics.series`). Seeds that share a pretraining run add no checkpoints:
they are averaged. Seeds with pretraining runs of their own are tested against each other.

Example:
    >>> design = Follows(Arm("acquisition", {"measure": "A"}), Arm("step", {"measure": "K"}))
    >>> design.least.checkpoints
    8
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.claims.designs import OVER_CHECKPOINTS
from analysis.claims.evidence import LEVEL, Evidence, Scale
from analysis.claims.measurements import NONE, Table
from analysis.claims.selection import Arm, along, matched
from analysis.statistics.results import CheckpointCluster, Correlation, CorrelationKind, Direction
from analysis.statistics.series import ScaleError, checkpoint_correlation


@dataclass(frozen=True)
class Follows:
    """Two measures over checkpoints.

    Attributes:
        outcome: rows of one.
        cause: rows of the other.
        kind: of correlation.
        least: what it needs.
    """

    outcome: Arm
    cause: Arm
    kind: CorrelationKind = CorrelationKind.SPEARMAN
    least: Scale = OVER_CHECKPOINTS

    def evidence(self, frame: pd.DataFrame, table: Table, towards: Direction) -> Evidence:
        """See `Design.evidence`; the effect is the correlation of first differences."""
        assert table is Table.ACQUISITION, "only there are starts of a trajectory told apart"
        x, y, cluster = _series(frame, self.cause, self.outcome, self.least)
        steps = np.array(x.columns, dtype=np.float64)
        try:
            found = checkpoint_correlation(
                x.to_numpy(), y.to_numpy(), np.log1p(steps), cluster, self.kind, level=LEVEL
            )
        except ScaleError as error:
            raise ScaleError(f"{error} (x: {self.cause.name}, y: {self.outcome.name})") from error
        both = (found.differences, found.detrended)
        return Evidence(
            effect=found.differences.effect,
            interval=found.differences.interval,
            p_for=max(_one_sided(each, towards.sign) for each in both),
            p_against=max(_one_sided(each, -towards.sign) for each in both),
            n=len(steps),
            seeds=len(y),
            test=f"first differences: {found.differences.test}; beside a line over log steps: "
            f"{found.detrended.effect:.2f}, {found.detrended.test}; the larger p-value",
        )


def _series(
    frame: pd.DataFrame, cause: Arm, outcome: Arm, least: Scale
) -> tuple[pd.DataFrame, pd.DataFrame, CheckpointCluster]:
    """Both measures of the same runs by step, a row for each seed (one of a shared cause)."""
    both = matched(frame, Table.ACQUISITION, [cause, outcome])
    x, y = (along(both[place], "step", least.checkpoints) for place in (0, 1))
    seeds = list(y.index)
    runs = _trajectories(both.index, least)
    if runs == 1:
        return x.iloc[:1] if _alike(x) else x, y, CheckpointCluster.CHECKPOINT
    if runs == len(seeds):
        return x, y, CheckpointCluster.SEED
    raise ScaleError(
        f"found {runs} pretraining runs for {len(seeds)} seeds; one for all, or one for each, is "
        "needed"
    )


def _trajectories(settings: pd.MultiIndex, least: Scale) -> int:
    """How many pretraining runs have enough checkpoints; one of another size has its last alone."""
    if "trajectory" not in settings.names:
        return 1
    rows = settings.to_frame(index=False)
    steps = rows[rows["trajectory"] != NONE].groupby("trajectory", sort=False)["step"].nunique()
    return int((steps >= least.checkpoints).sum())


def _alike(x: pd.DataFrame) -> bool:
    return len(x) > 0 and bool((x == x.iloc[0]).all(axis=None))


def _one_sided(found: Correlation, sign: int) -> float:
    return found.p_value / 2 if found.effect * sign > 0 else 1 - found.p_value / 2
