"""Levels: what else was seen of a model at every moment, and by how much it moved.

Text (bits per byte of held-out corpora, the loss where bytes are not known), earlier facts (the
share recalled, and the log-probability of their values), the entropies and dormant neurons. Bits
per byte of the familiar corpus and earlier facts measure forgetting where the downstream tasks
cannot: a rise of the first, a fall of the second.

Example:
    >>> table = change_table(arms)                                           # doctest: +SKIP
    >>> table[["arm", "measure", "moment", "change", "low", "high"]]         # doctest: +SKIP
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.ckl_report.arms import Arm, Moment
from analysis.ckl_report.scores import bounds, moments_of, typed
from analysis.cluster_bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.report_texts import shown_path
from analysis.run_observations import Observations
from training.datasets.downstream_sources import TASKS

TEXT, FACTS, ENTROPY, NEURONS = "text", "facts", "entropy", "neurons"
"""Groups of measures."""
RECALLED = "facts recalled"
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


def level_table(arms: Sequence[Arm]) -> pd.DataFrame:
    """Every measure at every moment.

    Args:
        arms: the runs.

    Returns:
        Columns `arm`, `seed` (missing for the mean over seeds), `moment`, `group`, `measure`,
        `value`.
    """
    rows = [
        (arm.name, seed, moment, *found)
        for arm in arms
        for run, seed in zip(arm.runs, arm.seeds, strict=True)
        for moment, _ in moments_of(arm)
        for found in _levels(*arm.seen(run, moment))
    ]
    single = pd.DataFrame(rows, columns=list(_LEVELS))
    keys = ["arm", "moment", "group", "measure"]
    means = single.groupby(keys, sort=False, as_index=False)["value"].mean()
    return typed(pd.concat([means, single], ignore_index=True)[list(_LEVELS)])


def change_table(
    arms: Sequence[Arm], levels: pd.DataFrame, bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """By how much every measure moved since the start.

    Args:
        arms: the runs.
        levels: `level_table` of them.
        bootstrap: how intervals of facts are made, which draw the subjects that facts are about.

    Returns:
        Columns `arm`, `against` (which start), `moment`, `group`, `measure`, `before`, `after`,
        `change`, `low` and `high` (of log-probabilities of facts only), `least`, `most` of single
        seeds, `seeds`.
    """
    single = levels[levels["seed"].notna()]
    keys = ["arm", "group", "measure", "seed"]
    values = single.set_index([*keys, "moment"])["value"].unstack("moment", sort=False)
    rows = []
    for arm in arms:
        for against, moment in _pairs(arm):
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


def _pairs(arm: Arm) -> Iterator[tuple[str, str]]:
    """Each start with each later moment."""
    for against in arm.compared_with:
        for moment in arm.moments:
            if moment != Moment.START:
                yield against, moment


def _levels(seen: Observations, step: int) -> Iterator[tuple[str, str, float]]:
    """Group, measure and value of everything that was seen at a step."""
    for row in seen.perplexities[seen.perplexities["step"] == step].itertuples():
        corpus, known = shown_path(row.corpus), not pd.isna(row.bits_per_byte)
        measure = f"bits per byte, {corpus}" if known else f"loss, {corpus}"
        yield TEXT, measure, row.bits_per_byte if known else row.mean_loss
    tasks = seen.task_scores[seen.task_scores["step"] == step]
    for row in tasks[~tasks["task"].isin(list(TASKS))].itertuples():
        yield FACTS, RECALLED, row.score
    if (facts := seen.fact_scores) is not None and step in facts.steps:
        for wording, rows in facts.at(step).groupby("wording", sort=False):
            yield FACTS, _WORDING.format(wording), rows["log_prob"].mean()
    totals = seen.entropies[(seen.entropies["step"] == step) & seen.entropies["layer"].isna()]
    for row in totals.itertuples():
        yield ENTROPY, ENTROPIES.get(row.kind, row.kind), row.entropy
    dormant = seen.neurons[seen.neurons["step"] == step]["dormant_share"]
    if len(dormant):
        yield NEURONS, "dormant neurons", dormant.mean()


def guessing(tables: Iterable[pd.DataFrame]) -> float | None:
    """The share of facts that one recalls who guesses among the values that an item offers.

    Args:
        tables: of task scores (`Observations`), of some runs.

    Returns:
        The mean over runs; None where no facts were asked for, or their values are not known.
    """
    found = [
        table[~table["task"].isin(list(TASKS))]["chance"].dropna().astype(float) for table in tables
    ]
    known = [chances.mean() for chances in found if len(chances)]
    return float(np.mean(known)) if known else None


def _fact_intervals(
    arm: Arm, against: str, moment: str, bootstrap: ClusterBootstrap
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
