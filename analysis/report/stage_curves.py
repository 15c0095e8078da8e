"""Stage curves: how much of stage A was right while it and later stages were trained.

Runs are drawn together where they have the same data and stages. Curves are those of
`analysis.remix_report.mechanisms`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.arms import RemixArm, pooled, remix_arms
from analysis.claim_tables.memorization import memorization_table
from analysis.claims.measurements import Table, checked
from analysis.numbers import shown_path
from analysis.remix_report.mechanisms import recall_curves
from analysis.remix_report.recalls import SHARE
from analysis.report.figures import thinned
from analysis.report.names import memory_name
from analysis.runs import Chain

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


def stage_curves(runs: Sequence[Chain], most: int, told: Sequence[str] = ()) -> list[StageCurves]:
    """Curves of runs, by their data."""
    sets: dict[tuple[str, ...], list[Chain]] = {}
    for chain in runs:
        names = tuple(shown_path(str(name)) for name in chain.configuration["data"])
        sets.setdefault(names, []).append(chain)
    return [
        found
        for names, chains in sets.items()
        if (found := _curves(names, _named(remix_arms(chains), told), _ARMS_OF_CURVES * most))
        is not None
    ]


def _named(arms: Sequence[RemixArm], told: Sequence[str]) -> list[RemixArm]:
    """Arms by the names of the page."""
    names = []
    for arm in arms:
        rows = checked(Table.MEMORIZATION, memorization_table(arm.runs[:1])[:1])
        names.append(arm.name if rows.empty else memory_name(rows.iloc[0].to_dict(), told))
    return pooled(arms, names)


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
