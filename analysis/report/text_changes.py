"""Text changes: how much worse held-out text and earlier facts are predicted after training.

They measure forgetting where no model answers the downstream tasks better than by guessing. Bits
per byte rise, and log-probabilities (nats) of facts fall, where something was forgotten.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.ckl_report.arms import Arm, Moment, arms_of
from analysis.ckl_report.scores import FACTS, RECALLED, TEXT, level_table
from analysis.claim_tables.settings import settings_of_runs
from analysis.claims.measurements import NONE
from analysis.edit_names import UNEDITED_NAME, edit_label
from analysis.report.names import run_name, without_seed
from analysis.runs import read_run
from training.runs.directory import read_manifest

_COLUMNS = ("measure", "series", "x", "seed", "value")


def unedited_runs(folders: Sequence[Path]) -> list[Path]:
    """Runs whose start was not edited."""
    return [
        path
        for path in folders
        if edit_label(read_manifest(path)["configuration"]) == UNEDITED_NAME
    ]


def text_changes(folders: Sequence[Path], told: Sequence[str] = ("trajectory",)) -> pd.DataFrame:
    """What moved from the start to the end of every unedited run."""
    chosen = unedited_runs(folders)
    if not chosen:
        return pd.DataFrame(columns=list(_COLUMNS))
    arms = {arm.name: arm for arm in arms_of([read_run(path) for path in chosen])}
    levels = level_table(list(arms.values()))
    wanted = levels["group"].isin([TEXT, FACTS]) & (levels["measure"] != RECALLED)
    single = levels[wanted & levels["seed"].notna()]
    keys = ["arm", "seed", "measure"]
    wide = single.pivot_table("value", keys, "moment", sort=False)
    moved = (wide[Moment.END] - wide[Moment.START]).dropna().rename("value").reset_index()
    starts = {name: arm.start for name, arm in arms.items() if arm.start.step is not None}
    moved = moved[moved["arm"].isin(starts)]
    return moved.assign(
        measure="change of " + moved["measure"],
        series=[
            _name(arms[name], int(seed), told)
            for name, seed in zip(moved["arm"], moved["seed"], strict=True)
        ],
        x=[starts[name].step for name in moved["arm"]],
    )[list(_COLUMNS)]


def _name(arm: Arm, seed: int, told: Sequence[str]) -> str:
    (row,) = settings_of_runs(arm.runs[:1])
    known = {name: NONE if value is None else value for name, value in row.items()}
    return run_name({**known, "trajectory": without_seed(arm.start.model, seed)}, told)
