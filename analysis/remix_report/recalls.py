"""What was known when: every list of items at every moment, by arm and by seed; and arms compared.

A list is called by the letter of the stage that taught it; what is not a stage's is a control, such
as facts that the start knew before. Shares of right answers and mean log-probabilities (nats) are
those of `analysis.retention`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.arms import RemixArm, base_of
from analysis.levels import FACTS, RECALLED, TASKS, levels_at
from analysis.retention import (
    LEAST_ITEMS,
    RetentionDifference,
    kept_share,
    retention_difference,
    retention_of,
)
from analysis.runs import TOKENS, Chain, after
from analysis.statistics.tests import holm
from training.runs.records import WeightDriftRecord, records_of
from training.weight_drift import drift_table as drift_rows

SHARE, LOG_PROB = "share right", "log-probability"
"""Measures: of all items, and the mean over items in nats."""
_RECALLS = (
    *("arm", "seed", "items", "match", "moment", "measure"),
    *("value", "low", "high", "deviation", "seeds", "count"),
)
_DIFFERENCES = (
    *("arm", "base", "items", "match", "moment", "measure", "effect", "low", "high"),
    *("p_value", "p_holm", "test", "seed_low", "seed_high", "seed_p_value", "seeds", "count"),
)
_KEPT = ("arm", "items", "moment", "value", "learnt")


def recall_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """Every list at every moment."""
    rows = [
        row for arm in arms for key in _keys(arm) for row in _rows(arm, *key) if row is not None
    ]
    table = pd.DataFrame(rows, columns=list(_RECALLS))
    return table.astype({"seed": "Int64", "low": float, "high": float, "deviation": float})


def difference_table(arms: Sequence[RemixArm], base: RemixArm | None = None) -> pd.DataFrame:
    """Every arm against its base, after every stage."""
    rows = [
        (arm.name, other.name, *key, measure, *_numbers(found))
        for arm in arms
        if (other := base_of(arm, arms, base)) is not None
        for key in _keys(arm)
        if key[1] == TOKENS and key[2] in _taught(arm, key[0])
        for measure in (SHARE, LOG_PROB)
        if (found := _difference(arm, other, *key, measure)) is not None
    ]
    table = pd.DataFrame(rows, columns=[name for name in _DIFFERENCES if name != "p_holm"])
    numbers = ("seed_low", "seed_high", "seed_p_value")
    table = table.astype(dict.fromkeys(numbers, float))
    # Arms compared in the same thing are one family.
    table["p_holm"] = table.groupby(["items", "match", "moment", "measure"], sort=False)[
        "p_value"
    ].transform(lambda values: list(holm(values.tolist())))
    return table[list(_DIFFERENCES)]


def kept_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """Of the items that were right after their own stage, the share that is right later."""
    rows = []
    for arm in arms:
        for place, stage in enumerate(arm.stages):
            before = arm.answers(stage, after(stage))
            if not before:
                continue
            for later in arm.stages[place + 1 :]:
                value = kept_share(before, arm.answers(stage, after(later)))
                learnt = retention_of(before).mean
                rows.append((arm.name, stage, after(later), value, learnt))
    return pd.DataFrame(rows, columns=list(_KEPT)).astype({"value": float})


def _keys(arm: RemixArm) -> Iterator[tuple[str, str, str]]:
    """List, match and moment of all that was asked."""
    lists = dict.fromkeys(key for chain in arm.runs for key in chain.lists)
    yield from ((*key, moment) for key in lists for moment in arm.moments)


def _taught(arm: RemixArm, items: str) -> tuple[str, ...]:
    """The moments from which on a list has been taught; all after the start for other lists."""
    place = arm.stages.index(items) if items in arm.stages else 0
    return arm.moments[place + 1 :]


def _rows(arm: RemixArm, items: str, match: str, moment: str) -> Iterator[tuple[Any, ...] | None]:
    for measure in (SHARE, LOG_PROB):
        answers = arm.answers(items, moment, match, log_probs=measure == LOG_PROB)
        if not answers:
            continue
        for seed, ours in ((None, answers), *((s, {s: answers[s]}) for s in answers)):
            found = retention_of(ours, shares=measure == SHARE)
            low, high = (None, None) if found.interval is None else found.interval[:2]
            yield (
                *(arm.name, seed, items, match, moment, measure, found.mean, low, high),
                *(found.deviation, len(ours), found.items),
            )


def _difference(
    arm: RemixArm, base: RemixArm, items: str, match: str, moment: str, measure: str
) -> RetentionDifference | None:
    """None where there is nothing to compare: other items, or no common seed."""
    if moment not in base.moments:
        return None
    scores = measure == LOG_PROB
    ours, theirs = (one.answers(items, moment, match, log_probs=scores) for one in (arm, base))
    shared = [seed for seed in ours if seed in theirs]
    same = all({*ours[seed].index} == {*theirs[seed].index} for seed in shared)
    if not shared or not same or len(ours[shared[0]]) < LEAST_ITEMS:
        return None
    return retention_difference(ours, theirs, shares=measure == SHARE)


def _numbers(found: RetentionDifference) -> tuple[Any, ...]:
    items, seeds = found.items, found.seed_interval
    ends = (None, None) if seeds is None else seeds[:2]
    return (
        *(items.effect, items.interval.low, items.interval.high, items.p_value, items.test),
        *(*ends, found.seed_p_value, len(found.by_seed), items.n),
    )


def retained(table: pd.DataFrame, moment: str, items: str = "A", match: str = TOKENS) -> Any:
    """Rows of a table of shares about one list at one moment, by arm."""
    rows = table[(table["items"] == items) & (table["match"] == match)]
    rows = rows[(rows["moment"] == moment) & (rows["measure"] == SHARE)]
    if "seed" in rows.columns:
        rows = rows[rows["seed"].isna()]
    return rows.set_index("arm")


_LEVELS = ("arm", "seed", "moment", "group", "measure", "value")
_MEANS = ("arm", "moment", "group", "measure", "value", "deviation", "change", "seeds")


def level_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """Every measure at every moment."""
    rows = [
        (arm.name, chain.seed, moment, *found)
        for arm in arms
        for chain in arm.runs
        for moment in arm.moments
        for found in _levels(chain, moment)
    ]
    single = pd.DataFrame(rows, columns=list(_LEVELS))
    if single.empty:
        return pd.DataFrame(columns=list(_MEANS))
    keys = ["arm", "seed", "group", "measure"]
    single["change"] = single["value"] - single.groupby(keys)["value"].transform("first")
    grouped = single.groupby(["arm", "moment", "group", "measure"], sort=False)
    means = grouped.agg(
        value=("value", "mean"),
        deviation=("value", "std"),
        change=("change", "mean"),
        seeds=("seed", "size"),
    )
    return means.reset_index()[list(_MEANS)]


def _levels(chain: Chain, moment: str) -> Iterator[tuple[str, str, float]]:
    stage, step = chain.step_of(moment)
    for group, measure, value in levels_at(stage.run, step, "{corpus}, {unit}"):
        # Earlier facts are one of the tasks here, and their wordings are not told.
        if group != FACTS or measure == RECALLED:
            yield (TASKS if group == FACTS else group), measure, value


_STAGES = ("arm", "seed", "stage", "status", "reason", "steps", "trained_tokens", "shared")
_DRIFT = ("arm", "stage", "level", "layer", "module", "distance", "relative", "angle", "seeds")


def stage_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """How every stage of every run ended."""
    rows = [
        (
            *(arm.name, chain.seed, name, stage.outcome["status"], stage.outcome["reason"]),
            *(stage.outcome["steps"], int(stage.run.steps["trained_tokens"].sum()), stage.shared),
        )
        for arm in arms
        for chain in arm.runs
        for name, stage in chain.stages.items()
    ]
    return pd.DataFrame(rows, columns=list(_STAGES))


def drift_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """How far weights are at the end of every stage from where it began, mean over seeds."""
    tables = [
        drift_rows(records[-1]).assign(arm=arm.name, stage=name)
        for arm in arms
        for chain in arm.runs
        for name, stage in chain.stages.items()
        if (records := records_of(stage.run.path, WeightDriftRecord))
    ]
    if not tables:
        return pd.DataFrame(columns=list(_DRIFT))
    keys = ["arm", "stage", "level", "layer", "module"]
    grouped = pd.concat(tables, ignore_index=True).groupby(keys, sort=False, dropna=False)
    means = grouped[["distance", "relative", "angle"]].mean()
    return means.assign(seeds=grouped.size()).reset_index()[list(_DRIFT)]
