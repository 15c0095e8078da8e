"""The summary of runs of continual knowledge learning: every table that a report is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import pandas as pd

from analysis.arms import CklArm
from analysis.ckl_report.curves import correlation_table, curve_tables, trajectory_points
from analysis.ckl_report.forgetting import chance_table, comparison_table, forgetting_table
from analysis.ckl_report.scores import (
    beyond_table,
    change_table,
    guessing,
    level_table,
    score_tables,
)
from analysis.numbers import shown_path
from analysis.report_files import in_order, plain_records
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap

Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class CklSummary:
    """What runs acquired, kept and forgot; see the modules named for their columns."""

    arms: tuple[CklArm, ...]
    knowledge: pd.DataFrame
    """K (`analysis.ckl_report.scores`)."""
    acquired: pd.DataFrame
    """A (`analysis.ckl_report.scores`)."""
    beyond: pd.DataFrame
    """Gains beyond held-out passages (`analysis.ckl_report.scores`)."""
    chances: pd.DataFrame
    """Tasks against guessing at the start (`analysis.ckl_report.forgetting`)."""
    forgotten: pd.DataFrame
    """F (`analysis.ckl_report.forgetting`)."""
    levels: pd.DataFrame
    """Text, facts, entropies (`analysis.ckl_report.scores`)."""
    changes: pd.DataFrame
    """How they moved (`analysis.ckl_report.scores`)."""
    gains: pd.DataFrame
    """Effectivity (`analysis.ckl_report.curves`)."""
    curves: pd.DataFrame
    """Forgetting curves (`analysis.ckl_report.curves`)."""
    retained: pd.DataFrame
    """Their points (`analysis.ckl_report.curves`)."""
    without_curve: Mapping[str, str]
    """Why an arm has no curve, or lacks some, by its name."""
    trajectory: pd.DataFrame
    """Starts by age (`analysis.ckl_report.curves`)."""
    correlations: pd.DataFrame
    """Of outcomes with entropies of the start (`analysis.ckl_report.curves`)."""
    comparisons: pd.DataFrame
    """Arms against their bases (`analysis.ckl_report.forgetting`)."""

    @property
    def guessing(self) -> float | None:
        """The share of earlier facts that guessing recalls; None where it is not known."""
        return guessing(run.task_scores for arm in self.arms for run in arm.runs)

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by their names."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: table for name, table in found.items() if isinstance(table, pd.DataFrame)}

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """All tables as plain values, None for what is missing or has no number."""
        return {name: plain_records(table) for name, table in self.tables().items()}


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

    def made(found: Made) -> Made:
        if on_table is not None:
            on_table(1)
        return found

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
    hosts = [found["data"]["host"] for found in inputs]
    held_out = [pair for found in inputs for pair in found.get("held_out", {}).items()]
    starts = [run.start for run in runs]
    versions = [", ".join(f"{n} {v}" for n, v in run.manifest["versions"].items()) for run in runs]
    return {
        "starts": in_order(f"{start.label} (weights {start.sha256[:12]})" for start in starts),
        "trained on": in_order(
            f"{shown_path(host['corpus'])}, {host['documents']:,} documents in {host['rows']:,} "
            f"rows of {host['row_length']} (rows {host['content_hash'][:12]})"
            for host in hosts
        ),
        "knowledge": in_order(
            f"{found['knowledge']['name']}, {found['knowledge']['passages']} passages and "
            f"{found['knowledge']['probes']} probes (text {found['knowledge']['sha256'][:12]})"
            for found in inputs
        ),
        "held out": in_order(
            f"{shown_path(name)}, {text['tokens']:,} tokens (text {text['sha256'][:12]})"
            for name, text in held_out
        ),
        "versions": in_order(versions),
    }
