"""The summary of runs of continual memorization: every table that a report is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.arm_report import Summary, counting, provenance_of
from analysis.arms import RemixArm
from analysis.numbers import shown_path
from analysis.remix_curves import (
    alignment_curves,
    recall_curves,
    relearning_table,
    sign_table,
    source_curves,
    spill_table,
    term_table,
)
from analysis.remix_measures import (
    difference_table,
    drift_table,
    kept_table,
    level_table,
    recall_table,
    stage_table,
)


@dataclass(frozen=True, kw_only=True)
class RemixSummary(Summary):
    """What runs learnt and kept; see the modules named for the columns."""

    arms: tuple[RemixArm, ...]
    recalls: pd.DataFrame
    """Lists of items at every moment (`analysis.remix_measures`)."""
    differences: pd.DataFrame
    """Arms against their bases (`analysis.remix_measures`)."""
    kept: pd.DataFrame
    """Of what was right, the share that is right later (`analysis.remix_measures`)."""
    curves: pd.DataFrame
    """What was known at every look (`analysis.remix_curves`)."""
    sources: pd.DataFrame
    """Training losses by source (`analysis.remix_curves`)."""
    alignments: pd.DataFrame
    """Cosines of gradients (`analysis.remix_curves`)."""
    signs: pd.DataFrame
    """Signs of their products (`analysis.remix_curves`)."""
    terms: pd.DataFrame
    """What mixing does to the first step of stage B (`analysis.remix_curves`)."""
    drift: pd.DataFrame
    """Of weights (`analysis.remix_measures`)."""
    stages: pd.DataFrame
    """How they ended (`analysis.remix_measures`)."""
    relearning: pd.DataFrame
    """What came back (`analysis.remix_curves`)."""
    spills: pd.DataFrame
    """What came back in the end (`analysis.remix_curves`)."""
    levels: pd.DataFrame
    """Text, tasks, entropies (`analysis.remix_measures`)."""
    depths: pd.DataFrame
    """Where in depth items are readable (`analysis.remix_curves`); empty where that was not
    asked for."""
    depth_changes: pd.DataFrame
    """How that moved (`analysis.remix_curves`)."""

    @property
    def last_moment(self) -> str:
        """After the last stage of the first arm."""
        return self.arms[0].moments[-1]


STEPS = 6
"""That are made one after the other."""


def summarise(
    arms: Sequence[RemixArm],
    base: RemixArm | None = None,
    *,
    depths: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> RemixSummary:
    """All tables of some arms."""
    made = counting(on_step)
    readable, moved = depths or (pd.DataFrame(), pd.DataFrame())
    return RemixSummary(
        arms=tuple(arms),
        recalls=made(recall_table(arms)),
        differences=made(difference_table(arms, base)),
        kept=kept_table(arms),
        curves=made(recall_curves(arms)),
        sources=made(source_curves(arms)),
        alignments=made(alignment_curves(arms)),
        signs=sign_table(arms),
        terms=term_table(arms, base),
        drift=drift_table(arms),
        stages=stage_table(arms),
        relearning=relearning_table(arms),
        spills=spill_table(arms),
        levels=made(level_table(arms)),
        depths=readable,
        depth_changes=moved,
    )


def provenance(arms: Sequence[RemixArm]) -> dict[str, str]:
    """Models, data and versions behind the numbers, in words."""
    chains = [chain for arm in arms for chain in arm.runs]
    stages = [pair for chain in chains for pair in chain.manifest["inputs"]["stages"].items()]
    told = {
        "learnt": [f"{name}: {_described(found['data'])}" for name, found in stages],
        "mixed in": [
            f"{name}: {_described(found['mix'])}" for name, found in stages if "mix" in found
        ],
    }
    runs = [stage.run for chain in chains for stage in chain.stages.values()]
    held_out = [run.manifest["inputs"].get("held_out", {}) for run in runs]
    return provenance_of(chains, told, held_out)


def _described(found: Mapping[str, Any]) -> str:
    """What a manifest says about a set of items or a mix, in words."""
    return (
        f"{found['items']:,} items of {shown_path(found['name'])} "
        f"({shown_path(found['source'])}; licence: {found['licence']}; rows "
        f"{found['content_hash'][:12]})"
    )
