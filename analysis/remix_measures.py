"""Retention: how much of what one stage taught a model still knows after later ones.

**Retention** is the share of the items of a stage that are right after a later one. An item's value
in an arm is its mean over the seeds that asked for it. A list is called by the letter of the stage
that taught it; other lists are controls, such as facts that the base knew. Intervals of shares are
Wilson's, with as many independent answers as the spread of the item means shows there to be.

Source: Wilson (1927); Korn and Graubard (1998), "Confidence intervals for proportions with small
expected number of positive counts estimated from survey data", for the effective number; the
retention of Chen et al., "Continual Memorization of Factoids in Large Language Models" (2024).

Example:
    >>> import pandas as pd
    >>> right = {0: pd.Series([1.0, 0, 0]), 1: pd.Series([1.0, 1, 0])}
    >>> found = retention_of(right)
    >>> found.mean, round(found.deviation, 3)
    (0.5, 0.236)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.arms import RemixArm, base_of
from analysis.observations import FACTS, RECALLED, TASKS, levels_at, rows_where
from analysis.runs import TOKENS, after
from analysis.significance import (
    LEVEL,
    ClusterBootstrap,
    Comparison,
    bounds,
    holm,
    mcnemar,
    mean_over_seeds,
    paired_permutation,
)
from probes.corpus_means import Interval
from training.runs.records import WeightDriftRecord, records_of
from training.weight_drift import drift_table as drift_rows

LEAST_ITEMS = 2  # fewer cannot be tested
_DIGITS = 9
Answers = Mapping[int, pd.Series]
"""A value for every item by its name, by seed: 1 or 0 where it is right or wrong."""


@dataclass(frozen=True)
class Retention:
    """What an arm knows of a list of items.

    Attributes:
        mean: over seeds of the mean over items.
        interval: over items; None where one item says nothing about spread.
        deviation: standard deviation over seeds; None of one seed.
        by_seed: the mean over items of each.
        items: how many different ones there are.
    """

    mean: float
    interval: Interval | None
    deviation: float | None
    by_seed: Mapping[int, float]
    items: int


@dataclass(frozen=True)
class RetentionDifference:
    """An arm less another one, over the seeds that both have.

    Attributes:
        items: effect, interval and test over items.
        by_seed: the effect in each seed.
        seed_interval: t interval of the mean effect over seeds; None of one seed.
        seed_p_value: of a paired t-test over seeds; None of one seed, or where all do the same.
    """

    items: Comparison
    by_seed: Mapping[int, float]
    seed_interval: Interval | None
    seed_p_value: float | None

    @property
    def effect(self) -> float:
        return self.items.effect


def retention_of(answers: Answers, *, shares: bool = True, level: float = LEVEL) -> Retention:
    """What an arm knows.

    Args:
        answers: of its seeds.
        shares: whether values are shares of right answers; otherwise any number.
        level: of the interval.

    Raises:
        ValueError: there is no seed, or a list is empty or has an item twice.
    """
    _check(answers)
    by_seed = {seed: float(values.mean()) for seed, values in answers.items()}
    means = item_means(answers).to_numpy()
    interval = (
        share_interval(means, sum(map(len, answers.values())), level=level)
        if shares
        else ClusterBootstrap(level=level).mean_interval(means)
    )
    spread = float(np.std([*by_seed.values()], ddof=1)) if len(by_seed) > 1 else None
    return Retention(float(np.mean([*by_seed.values()])), interval, spread, by_seed, len(means))


def retention_difference(
    answers: Answers, base: Answers, *, shares: bool = True, level: float = LEVEL
) -> RetentionDifference:
    """An arm against another one.

    Args:
        answers: of the one.
        base: of the other; every seed that both have must have asked for the same items.
        shares: whether values are shares of right answers; otherwise any number.
        level: of the intervals.

    Raises:
        ValueError: there is no common seed, a seed asked for different items, or for too few.
    """
    shared = [seed for seed in answers if seed in base]
    if not shared:
        raise ValueError(
            f"arms are compared over common seeds, found {[*answers]} and {[*base]}; give runs of "
            "both with the same seeds"
        )
    ours = {seed: answers[seed] for seed in shared}
    theirs = {seed: base[seed].reindex(answers[seed].index) for seed in shared}
    _check(ours)
    for seed in shared:
        if len(base[seed]) != len(answers[seed]) or theirs[seed].isna().any():
            raise ValueError(
                f"seed {seed} asked for other items in one arm than in the other; compare runs on "
                "the same data"
            )
    effects = {seed: float((ours[seed] - theirs[seed]).mean()) for seed in shared}
    seed_interval, seed_p_value = _over_seeds([*effects.values()], level)
    compared = _over_items(ours, theirs, shares, level)
    return RetentionDifference(compared, effects, seed_interval, seed_p_value)


def kept_share(before: Answers, after: Answers) -> float | None:
    """The share of the items once right that is right later, over all seeds.

    Args:
        before: 1 or 0 for every item, by seed.
        after: the same items later, of the same seeds.

    Returns:
        None where none was right.
    """
    right = sum(int((before[seed] == 1).sum()) for seed in before)
    left = sum(int(after[seed][before[seed].index[before[seed] == 1]].sum()) for seed in before)
    return left / right if right else None


def share_interval(
    means: Float[np.ndarray, "item"], answers: int, *, level: float = LEVEL
) -> Interval:
    """Wilson's interval of a share, from the share of right answers to each item."""
    from scipy.stats import norm

    mean, spread = float(means.mean()), float(means.var())
    number = float(len(means))
    if spread > 0:
        number = min(mean * (1 - mean) * len(means) / spread, float(answers))
    z = float(norm.ppf((1 + level) / 2))
    centre = (mean + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * sqrt(mean * (1 - mean) / number + (z / (2 * number)) ** 2)
    return Interval(max(centre - half, 0.0), min(centre + half, 1.0), level)


def item_means(answers: Answers) -> pd.Series:
    """The mean of every item over the seeds that asked for it, in the order in which they come."""
    return pd.concat([*answers.values()]).groupby(level=0, sort=False).mean().astype(float)


def _check(answers: Answers) -> None:
    if not answers:
        raise ValueError("retention needs the answers of at least one seed, found none")
    for seed, values in answers.items():
        if values.empty or not values.index.is_unique:
            raise ValueError(
                f"every seed must ask for at least one item, each once, found {len(values)} with "
                f"{values.index.nunique()} names in seed {seed}"
            )


def _over_items(ours: Answers, theirs: Answers, shares: bool, level: float) -> Comparison:
    means = [item_means(answers).to_numpy() for answers in (ours, theirs)]
    if len(means[0]) < LEAST_ITEMS:
        raise ValueError(f"found {len(means[0])} items to compare: give {LEAST_ITEMS} or more")
    if shares and len(ours) == 1:
        return mcnemar(means[0] == 1, means[1] == 1, level=level)
    # Differences that are alike but for rounding must be alike: their interval is that one value.
    differences = np.round(means[0] - means[1], _DIGITS)
    none = np.zeros(len(differences))
    return paired_permutation(differences, none, np.random.default_rng(0), level=level)


def _over_seeds(effects: Sequence[float], level: float) -> tuple[Interval | None, float | None]:
    if len(effects) < 2:
        return None, None
    values = np.round(effects, _DIGITS)
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]), level), None
    found = mean_over_seeds(values, level=level)
    return found.interval, found.p_value


SHARE, LOG_PROB = "share right", "log-probability"
"""Measures: of all items, and the mean over items in nats."""
_RECALLS = "arm seed items match moment measure value low high deviation seeds count"
_DIFFERENCES = (
    "arm base items match moment measure effect low high p_value p_holm test seed_low seed_high "
    "seed_p_value seeds count"
)
_LEVELS = "arm seed moment group measure value"
_STAGES = "arm seed stage status reason steps trained_tokens shared"
_DRIFT = ["arm", "stage", "level", "layer", "module"]


def recall_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """Every list at every moment, means over seeds and single seeds."""
    rows = []
    for arm in arms:
        for items, match, moment, measure in _asked(arm):
            answers = arm.answers(items, moment, match, log_probs=measure == LOG_PROB)
            single = [(seed, {seed: answers[seed]}) for seed in answers]
            for seed, ours in [(None, answers), *single] if answers else ():
                found = retention_of(ours, shares=measure == SHARE)
                what = (arm.name, seed, items, match, moment, measure, found.mean)
                counts = (found.deviation, len(ours), found.items)
                rows.append((*what, *bounds(found.interval), *counts))
    table = pd.DataFrame(rows, columns=_RECALLS.split())
    return table.astype({"seed": "Int64", "low": float, "high": float, "deviation": float})


def _asked(arm: RemixArm) -> Iterator[tuple[str, str, str, str]]:
    lists = dict.fromkeys(key for chain in arm.runs for key in chain.lists)
    yield from ((*k, m, of) for k in lists for m in arm.moments for of in (SHARE, LOG_PROB))


def difference_table(arms: Sequence[RemixArm], base: RemixArm | None = None) -> pd.DataFrame:
    """Every arm against its base, after every stage from which on a list was taught."""
    rows = []
    for arm in arms:
        if (other := base_of(arm, arms, base)) is None:
            continue
        for items, match, moment, measure in _asked(arm):
            taught = arm.stages.index(items) if items in arm.stages else 0
            if match == TOKENS and moment in arm.moments[taught + 1 :]:
                found = _difference(arm, other, items, moment, measure)
                names = (arm.name, other.name, items, match, moment, measure)
                if found:
                    rows.append(dict(zip(_DIFFERENCES.split(), names, strict=False)) | found)
    table = pd.DataFrame(rows, columns=_DIFFERENCES.split())
    # Arms compared in the same thing are one family.
    family = table.groupby(["items", "match", "moment", "measure"], sort=False)["p_value"]
    table["p_holm"] = family.transform(lambda values: list(holm(values.tolist())))
    return table.astype(dict.fromkeys(("seed_low", "seed_high", "seed_p_value"), float))


def _difference(
    arm: RemixArm, base: RemixArm, items: str, moment: str, measure: str
) -> dict[str, Any]:
    if moment not in base.moments:
        return {}
    scores = measure == LOG_PROB
    ours, theirs = (one.answers(items, moment, log_probs=scores) for one in (arm, base))
    shared = [seed for seed in ours if seed in theirs]
    same = all({*ours[seed].index} == {*theirs[seed].index} for seed in shared)
    if not shared or not same or len(ours[shared[0]]) < LEAST_ITEMS:
        return {}
    found = retention_difference(ours, theirs, shares=measure == SHARE)
    over, (low, high) = found.items, bounds(found.seed_interval)
    return {
        **{"effect": over.effect, "low": over.interval.low, "high": over.interval.high},
        **{"p_value": over.p_value, "test": over.test, "seed_low": low, "seed_high": high},
        **{"seed_p_value": found.seed_p_value, "seeds": len(found.by_seed), "count": over.n},
    }


def kept_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """The share of the items right after their own stage that is right later."""
    rows = []
    for arm in arms:
        for place, stage in enumerate(arm.stages):
            before = arm.answers(stage, after(stage))
            for later in arm.stages[place + 1 :] if before else ():
                value = kept_share(before, arm.answers(stage, after(later)))
                rows.append((arm.name, stage, after(later), value, retention_of(before).mean))
    table = pd.DataFrame(rows, columns=["arm", "items", "moment", "value", "learnt"])
    return table.astype({"value": float})


def retained(
    table: pd.DataFrame, moment: str, items: str = "A", *, seeds: bool = False
) -> pd.DataFrame:
    """Shares of right items of a list at a moment: means over seeds, or those of single seeds."""
    rows = rows_where(table, items=items, match=TOKENS, moment=moment, measure=SHARE)
    return rows[rows["seed"].notna() == seeds] if "seed" in rows else rows


def level_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """Text, tasks, entropies and neurons at every moment, and their change since the start."""
    rows = [
        # Earlier facts are one of the tasks here, and their wordings are left out.
        (arm.name, chain.seed, moment, TASKS if group == FACTS else group, measure, value)
        for arm in arms
        for chain in arm.runs
        for moment, (stage, step) in ((moment, chain.step_of(moment)) for moment in arm.moments)
        for group, measure, value in levels_at(stage.run, step, "{corpus}, {unit}")
        if group != FACTS or measure == RECALLED
    ]
    single = pd.DataFrame(rows, columns=_LEVELS.split())
    first = single.groupby(["arm", "seed", "group", "measure"])["value"].transform("first")
    single["change"] = single["value"] - first
    keys = ["arm", "moment", "group", "measure"]
    over = {"value": ("value", "mean"), "deviation": ("value", "std")}
    over |= {"change": ("change", "mean"), "seeds": ("seed", "size")}
    return single.groupby(keys, sort=False).agg(**over).reset_index()


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
    return pd.DataFrame(rows, columns=_STAGES.split())


def drift_table(arms: Sequence[RemixArm]) -> pd.DataFrame:
    """How far weights are at the end of every stage from where it began, mean over seeds."""
    numbers = ["distance", "relative", "angle"]
    tables = [
        drift_rows(records[-1]).assign(arm=arm.name, stage=name)
        for arm in arms
        for chain in arm.runs
        for name, stage in chain.stages.items()
        if (records := records_of(stage.run.path, WeightDriftRecord))
    ]
    if not tables:
        return pd.DataFrame(columns=[*_DRIFT, *numbers, "seeds"])
    grouped = pd.concat(tables, ignore_index=True).groupby(_DRIFT, sort=False, dropna=False)
    return grouped[numbers].mean().assign(seeds=grouped.size()).reset_index()
