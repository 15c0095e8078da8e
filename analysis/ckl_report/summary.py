"""The summary of runs of continual knowledge learning: every table that a report is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.arm_report import Summary, counting, provenance_of
from analysis.arms import CklArm
from analysis.ckl_comparisons import comparison_table, correlation_table, trajectory_points
from analysis.ckl_measures import (
    beyond_table,
    chance_table,
    change_table,
    forgetting_table,
    level_table,
    score_tables,
)
from analysis.encounter_measures import curve_tables
from analysis.numbers import shown_path
from analysis.observations import guessing
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap


@dataclass(frozen=True, kw_only=True)
class CklSummary(Summary):
    """What runs acquired, kept and forgot; see the modules named for their columns."""

    arms: tuple[CklArm, ...]
    knowledge: pd.DataFrame
    """K (`analysis.ckl_measures`)."""
    acquired: pd.DataFrame
    """A (`analysis.ckl_measures`)."""
    beyond: pd.DataFrame
    """Gains beyond held-out passages (`analysis.ckl_measures`)."""
    chances: pd.DataFrame
    """Tasks against guessing at the start (`analysis.ckl_measures`)."""
    forgotten: pd.DataFrame
    """F (`analysis.ckl_measures`)."""
    levels: pd.DataFrame
    """Text, facts, entropies (`analysis.observations`)."""
    changes: pd.DataFrame
    """How they moved (`analysis.observations`)."""
    gains: pd.DataFrame
    """Effectivity (`analysis.encounter_measures`)."""
    curves: pd.DataFrame
    """Forgetting curves (`analysis.encounter_measures`)."""
    retained: pd.DataFrame
    """Their points (`analysis.encounter_measures`)."""
    without_curve: Mapping[str, str]
    """Why an arm has no curve, or lacks some, by its name."""
    trajectory: pd.DataFrame
    """Starts by age (`analysis.ckl_comparisons`)."""
    correlations: pd.DataFrame
    """Of outcomes with entropies of the start (`analysis.ckl_comparisons`)."""
    comparisons: pd.DataFrame
    """Arms against their bases (`analysis.ckl_comparisons`)."""

    @property
    def guessing(self) -> float | None:
        """The share of earlier facts that guessing recalls; None where it is not known."""
        return guessing(run.task_scores for arm in self.arms for run in arm.runs)


TABLES = 8
"""That are made one after the other."""


def summarise(
    arms: Sequence[CklArm],
    base: CklArm | None = None,
    *,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
    on_table: Callable[[int], None] | None = None,
) -> CklSummary:
    """All tables of some arms."""
    made = counting(on_table)
    knowledge, acquired = made(score_tables(arms, bootstrap))
    beyond = made(beyond_table(arms, bootstrap))
    chances = made(chance_table(arms, bootstrap))
    forgotten = made(forgetting_table(arms, chances, bootstrap))
    levels = made(level_table(arms))
    changes = made(change_table(arms, levels, bootstrap))
    gains, curves, retained, without = made(curve_tables(arms, bootstrap))
    trajectory = trajectory_points(arms, acquired, forgotten, levels, changes)
    return CklSummary(
        arms=tuple(arms),
        knowledge=knowledge,
        acquired=acquired,
        beyond=beyond,
        chances=chances,
        forgotten=forgotten,
        levels=levels,
        changes=changes,
        gains=gains,
        curves=curves,
        retained=retained,
        without_curve=without,
        trajectory=trajectory,
        correlations=correlation_table(trajectory),
        comparisons=made(comparison_table(arms, base)),
    )


def provenance(arms: Sequence[CklArm]) -> dict[str, str]:
    """Models, texts and versions behind the numbers, in words."""
    runs = [run for arm in arms for run in arm.runs]
    inputs = [run.manifest["inputs"] for run in runs]
    told = {
        "trained on": [
            f"{shown_path(host['corpus'])}, {host['documents']:,} documents in {host['rows']:,} "
            f"rows of {host['row_length']} (rows {host['content_hash'][:12]})"
            for host in (found["data"]["host"] for found in inputs)
        ],
        "knowledge": [
            f"{known['name']}, {known['passages']} passages and {known['probes']} probes "
            f"(text {known['sha256'][:12]})"
            for known in (found["knowledge"] for found in inputs)
        ],
    }
    return provenance_of(runs, told, [found.get("held_out", {}) for found in inputs])
