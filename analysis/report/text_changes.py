"""Text changes: how much worse held-out text and earlier facts are predicted after training.

They measure forgetting where no model answers the downstream tasks better than by guessing. Bits
per byte rise, and log-probabilities (nats) of facts fall, where something was forgotten.
"""

from collections.abc import Sequence

import pandas as pd

from analysis.arms import UNEDITED_NAME, CklArm, ckl_arms, edit_label
from analysis.ckl_report.scores import FACTS, RECALLED, TEXT, level_table
from analysis.claim_tables.settings import settings_of_runs
from analysis.claims.measurements import NONE
from analysis.report.names import run_name, without_seed
from analysis.runs import Moment, TrainingRun

_COLUMNS = ("measure", "series", "x", "seed", "value")


def unedited_runs(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Runs whose start was not edited."""
    return [run for run in runs if edit_label(run.configuration) == UNEDITED_NAME]


def text_changes(
    runs: Sequence[TrainingRun], told: Sequence[str] = ("trajectory",)
) -> pd.DataFrame:
    """What moved from the start to the end of every unedited run."""
    chosen = unedited_runs(runs)
    if not chosen:
        return pd.DataFrame(columns=list(_COLUMNS))
    arms = {arm.name: arm for arm in ckl_arms(chosen)}
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


def _name(arm: CklArm, seed: int, told: Sequence[str]) -> str:
    (row,) = settings_of_runs(arm.runs[:1])
    known = {name: NONE if value is None else value for name, value in row.items()}
    return run_name({**known, "trajectory": without_seed(arm.start.model, seed)}, told)
