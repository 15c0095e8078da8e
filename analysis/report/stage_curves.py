"""Stage curves: how much of stage A was right while it and later stages were trained.

Runs are drawn together where they have the same data and stages. Curves are those of
`analysis.remix_report.mechanisms`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.claim_tables.memorization import memorization_table
from analysis.claims.measurements import Table, checked
from analysis.numbers import shown_path
from analysis.remix_report.arms import RemixArm, arms_of
from analysis.remix_report.chains import Chain, read_chain
from analysis.remix_report.mechanisms import recall_curves
from analysis.remix_report.recalls import SHARE
from analysis.report.figures import thinned
from analysis.report.names import memory_name

_ARMS_OF_CURVES = 2
"""Times as many arms as others have curves drawn: there is a single panel of them."""


@dataclass(frozen=True)
class StageCurves:
    """Curves of arms with the same data.

    Attributes:
        data: what they learnt, in words.
        stages: their letters.
        arms: their names.
        curve: columns as `analysis.remix_report.mechanisms.recall_curves`, of the share right.
    """

    data: str
    stages: tuple[str, ...]
    arms: tuple[str, ...]
    curve: pd.DataFrame


def stage_curves(folders: Sequence[Path], most: int, told: Sequence[str] = ()) -> list[StageCurves]:
    """Curves of runs, by their data."""
    sets: dict[tuple[str, ...], list[Chain]] = {}
    for chain in map(read_chain, folders):
        names = tuple(shown_path(str(name)) for name in chain.configuration["data"])
        sets.setdefault(names, []).append(chain)
    return [
        found
        for names, chains in sets.items()
        if (found := _curves(names, _named(arms_of(chains), told), _ARMS_OF_CURVES * most))
        is not None
    ]


def _named(arms: Sequence[RemixArm], told: Sequence[str]) -> list[RemixArm]:
    """Arms by the names of the page."""
    grouped: dict[str, list[RemixArm]] = {}
    for arm in arms:
        rows = checked(Table.MEMORIZATION, memorization_table(arm.chains[:1])[:1])
        name = arm.name if rows.empty else memory_name(rows.iloc[0].to_dict(), told)
        grouped.setdefault(name, []).append(arm)
    found: list[RemixArm] = []
    for name, alike in grouped.items():
        chains = sorted((one for arm in alike for one in arm.chains), key=lambda one: one.seed)
        several = len({one.seed for one in chains}) < len(chains)
        found += alike if several else [replace(alike[0], name=name, chains=tuple(chains))]
    return found


def _curves(names: tuple[str, ...], arms: Sequence[RemixArm], most: int) -> StageCurves | None:
    alike = [arm for arm in arms if arm.stages == arms[0].stages]
    if most < 1:
        return None
    chosen = [alike[place] for place in thinned(np.arange(len(alike)), most)]
    curve = recall_curves(chosen)
    curve = curve[(curve["items"] == "A") & (curve["measure"] == SHARE)]
    if curve.empty:
        return None
    first, *later = names
    data = f"{first}, then {'+'.join(dict.fromkeys(later))}" if later else first
    return StageCurves(data, arms[0].stages, tuple(arm.name for arm in chosen), curve)
