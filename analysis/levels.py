"""Levels: text, tasks, facts, entropies and neurons at every moment of runs, and how they moved.

Bits per byte, losses and entropies are in bits or nats, the others are shares. Intervals of changes
draw the subjects of facts.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.arms import CklArm
from analysis.ckl_measures import bounds, typed
from analysis.numbers import shown_path
from analysis.observations import Observations
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from training.data.downstream import TASKS as DOWNSTREAM

TEXT, TASKS, FACTS, ENTROPY, NEURONS = "text", "tasks", "facts", "entropy", "neurons"
"""Groups of measures."""
RECALLED, DORMANT = "facts recalled", "dormant neurons"
ENTROPIES = {
    "knowledge": "knowledge entropy",
    "contribution": "contribution entropy",
    "attention": "attention entropy",
    "next_token": "next-token entropy",
}
"""Kinds of entropy, and what their measures are called."""
_WORDING = "facts, log-probability, {} wording"
_LEVELS = ("arm", "seed", "moment", "group", "measure", "value")
_CHANGES = (
    *("arm", "against", "moment", "group", "measure", "before", "after"),
    *("change", "low", "high", "least", "most", "seeds"),
)


def level_table(arms: Sequence[CklArm]) -> pd.DataFrame:
    """Every measure at every moment."""
    rows = [
        (arm.name, seed, moment, *found)
        for arm in arms
        for run, seed in zip(arm.runs, arm.seeds, strict=True)
        for moment in arm.all_moments
        for found in levels_at(*arm.seen(run, moment))
        if found[0] != TASKS
    ]
    single = pd.DataFrame(rows, columns=list(_LEVELS))
    keys = ["arm", "moment", "group", "measure"]
    means = single.groupby(keys, sort=False, as_index=False)["value"].mean()
    return typed(pd.concat([means, single], ignore_index=True)[list(_LEVELS)])


def change_table(
    arms: Sequence[CklArm], levels: pd.DataFrame, bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """By how much every measure moved since the start."""
    single = levels[levels["seed"].notna()]
    keys = ["arm", "group", "measure", "seed"]
    values = single.set_index([*keys, "moment"])["value"].unstack("moment", sort=False)
    rows = []
    for arm in arms:
        for against, moment in arm.pairs():
            intervals = _fact_intervals(arm, against, moment, bootstrap)
            pairs = values.loc[arm.name, [against, moment]].dropna()
            for (group, measure), seeds in pairs.groupby(level=[0, 1], sort=False):
                moved = seeds[moment] - seeds[against]
                rows.append(
                    (
                        *(arm.name, against, moment, group, measure),
                        *(seeds[against].mean(), seeds[moment].mean(), moved.mean()),
                        *intervals.get(measure, (None, None)),
                        *(moved.min(), moved.max(), len(moved)),
                    )
                )
    return typed(pd.DataFrame(rows, columns=list(_CHANGES)))


def levels_at(
    seen: Observations, step: int, text: str = "{unit}, {corpus}"
) -> Iterator[tuple[str, str, float]]:
    """Group, measure and value of everything that was seen at a step; `text` names texts."""
    for row in seen.perplexities[seen.perplexities["step"] == step].itertuples():
        known = not pd.isna(row.bits_per_byte)
        unit = "bits per byte" if known else "loss"
        measure = text.format(unit=unit, corpus=shown_path(str(row.corpus)))
        yield TEXT, measure, row.bits_per_byte if known else row.mean_loss
    for row in seen.task_scores[seen.task_scores["step"] == step].itertuples():
        is_task = row.task in list(DOWNSTREAM)
        yield (TASKS, str(row.task), row.score) if is_task else (FACTS, RECALLED, row.score)
    if (facts := seen.fact_scores) is not None and step in facts.steps:
        for wording, rows in facts.at(step).groupby("wording", sort=False):
            yield FACTS, _WORDING.format(wording), rows["log_prob"].mean()
    totals = seen.entropies[(seen.entropies["step"] == step) & seen.entropies["layer"].isna()]
    for row in totals.itertuples():
        yield ENTROPY, ENTROPIES.get(row.kind, row.kind), row.entropy
    dormant = seen.neurons[seen.neurons["step"] == step]["dormant_share"]
    if len(dormant):
        yield NEURONS, DORMANT, float(dormant.mean())


def guessing(tables: Iterable[pd.DataFrame]) -> float | None:
    """The share of facts that one recalls who guesses among the values that an item offers."""
    found = [table.loc[~table["task"].isin(list(DOWNSTREAM)), "chance"] for table in tables]
    known = [float(one.mean()) for chances in found if len(one := chances.dropna().astype(float))]
    return float(np.mean(known)) if known else None


def _fact_intervals(
    arm: CklArm, against: str, moment: str, bootstrap: ClusterBootstrap
) -> dict[str, tuple[float | None, float | None]]:
    before, after = arm.facts(against), arm.facts(moment)
    if before.empty:
        return {}
    moved = before.assign(moved=after["log_prob"] - before["log_prob"])
    return {
        _WORDING.format(wording): bounds(
            bootstrap.mean_interval(
                rows.groupby("subject", sort=False)["moved"].mean().to_numpy(dtype=np.float64)
            )
        )
        for wording, rows in moved.groupby("wording", sort=False)
    }
