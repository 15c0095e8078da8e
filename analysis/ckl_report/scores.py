"""What runs acquired: knowledge scores K and acquisition A, by arm, seed, exposure and kind.

K is the mean over passages of the mean score of a passage's probes, in nats. Acquisition is its
change as a share of its size before (`analysis.metrics`, the convention of the paper's tables).
"met" are all passages that were injected; held-out ones, which never were, are a control for what
the corpus alone does to such probes. Intervals draw passages, within their exposures.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.arms import CklArm
from analysis.metrics import HELD_OUT, PROBE_TABLE, acquisition
from analysis.numbers import shown_path
from analysis.observations import Observations
from analysis.runs import Moment, TrainingRun
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from probes.intervals import Interval
from training.data.downstream import TASKS

MET = "met"
"""All exposures but held out."""
ALL_KINDS = "all"
_KNOWLEDGE = (
    *("arm", "seed", "moment", "step", "exposure", "kind"),
    *("score", "low", "high", "passages", "probes"),
)
_ACQUISITION = (
    *("arm", "seed", "against", "moment", "exposure", "kind"),
    *("value", "low", "high", "before", "after", "passages", "probes"),
)
Group = tuple[str, str, pd.DataFrame]
"""Exposure, kind, and its probes."""


@dataclass(frozen=True)
class _Scores:
    """K of one group of probes at every moment, and under every draw of passages."""

    exposure: str
    kind: str
    moments: Mapping[str, int]
    values: Float[np.ndarray, "moment"]
    drawn: Float[np.ndarray, "replicate moment"]
    strata: Int[np.ndarray, "passage"]
    n_probes: int

    def column(self, moment: str) -> int:
        return list(self.moments).index(moment)

    @property
    def counts(self) -> tuple[int, int]:
        """Passages and probes."""
        return len(self.strata), self.n_probes


def score_tables(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """K at every moment, and A at every moment after the start."""
    knowledge: list[tuple[Any, ...]] = []
    acquired: list[tuple[Any, ...]] = []
    for arm, run, seed in units(arms):
        for scores in _scored(arm, run, bootstrap):
            what = (scores.exposure, scores.kind)
            knowledge += [
                (arm.name, seed, moment, step, *what, *_score(scores, moment, bootstrap))
                for moment, step in scores.moments.items()
            ]
            acquired += [
                (
                    arm.name,
                    seed,
                    against,
                    moment,
                    *what,
                    *_change(scores, against, moment, bootstrap),
                )
                for against in arm.compared_with
                for moment in arm.moments
                if moment != Moment.START
            ]
    return (
        typed(pd.DataFrame(knowledge, columns=list(_KNOWLEDGE))),
        typed(pd.DataFrame(acquired, columns=list(_ACQUISITION))),
    )


def probe_groups(probes: pd.DataFrame, *, by_kind: bool = True) -> Iterator[Group]:
    """The probes of every exposure, of all that were met, and of every kind within them."""
    met = probes[probes["exposure"] != HELD_OUT]
    exposures = [(MET, met), *probes.groupby("exposure", sort=False)]
    for exposure, rows in exposures:
        yield str(exposure), ALL_KINDS, rows
        if by_kind:
            for kind, some in rows.groupby("kind", sort=False):
                yield str(exposure), str(kind), some


def spread_over_seeds(table: pd.DataFrame, value: str = "value") -> pd.DataFrame:
    """Means over seeds with the `least` and the `most` of single seeds,
    and their number `seeds`.
    """
    keys = [name for name in _KEYS if name in table.columns]
    single = table[table["seed"].notna()].groupby(keys, sort=False)[value]
    spread = single.agg(least="min", most="max", seeds="count").reset_index()
    return table[table["seed"].isna()].drop(columns="seed").merge(spread, on=keys, how="left")


_KEYS = ("arm", "against", "moment", "exposure", "kind", "task", "measure")


def units(arms: Sequence[CklArm]) -> Iterator[tuple[CklArm, TrainingRun | None, int | None]]:
    """Every arm, then each of its runs."""
    for arm in arms:
        yield arm, None, None
        for run, seed in zip(arm.runs, arm.seeds, strict=True):
            yield arm, run, seed


def _scored(arm: CklArm, run: TrainingRun | None, bootstrap: ClusterBootstrap) -> Iterator[_Scores]:
    moments = arm.all_moments
    first = arm.probes(Moment.START, run)
    scores = np.stack([arm.probes(moment, run)["log_prob"] for moment in moments], axis=1)
    if not np.isfinite(scores).all():
        of = arm.name if run is None else run.path
        raise ValueError(f"{of} has scores of probes that are not finite; they give no K")
    for exposure, kind, probes in probe_groups(first, by_kind=run is None):
        items = PROBE_TABLE.items(probes)
        passages = pd.factorize(probes["passage"])[0]
        means = (
            np.stack([np.bincount(passages, column) for column in scores[probes.index].T], axis=1)
            / np.bincount(passages)[:, None]
        )
        weighted = items.weights[:, None] * means
        yield _Scores(
            exposure,
            kind,
            moments,
            weighted.sum(axis=0),
            bootstrap.resampled_sums(weighted, items.strata),
            items.strata,
            items.n_items,
        )


def _score(scores: _Scores, moment: str, bootstrap: ClusterBootstrap) -> tuple[Any, ...]:
    place = scores.column(moment)
    interval = bootstrap.interval(scores.drawn[:, place], len(scores.strata), scores.strata)
    return scores.values[place], *bounds(interval), *scores.counts


def _change(
    scores: _Scores, against: str, moment: str, bootstrap: ClusterBootstrap
) -> tuple[Any, ...]:
    places = [scores.column(against), scores.column(moment)]
    before, after = scores.values[places]
    drawn_before, drawn_after = scores.drawn[:, places].T
    value = acquisition(float(before), float(after))
    # A share of a score that may as well have been 0 has no bounds.
    interval = None
    if drawn_before.all():
        shares = (drawn_after - drawn_before) / np.abs(drawn_before)
        interval = bootstrap.interval(shares, len(scores.strata), scores.strata)
    return value, *bounds(interval), before, after, *scores.counts


def bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    """Both ends of an interval; missing where there is none."""
    return (None, None) if interval is None else (interval.low, interval.high)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Missing seeds and bounds in the columns of numbers."""
    kinds: dict[str, Any] = {"seed": "Int64", "low": float, "high": float}
    kinds |= dict.fromkeys(_KEYS, str)
    return table.astype({name: kind for name, kind in kinds.items() if name in table.columns})


_COLUMNS = (
    *("arm", "moment", "value", "low", "high", "met", "held_out"),
    *("passages", "held_out_passages"),
)


def beyond_table(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """Gains since the start of passages met less those of held-out ones, means over seeds."""
    rows = [row for arm in arms for row in _of_arm(arm, bootstrap)]
    return typed(pd.DataFrame(rows, columns=list(_COLUMNS)))


def _of_arm(arm: CklArm, bootstrap: ClusterBootstrap) -> Iterator[tuple[Any, ...]]:
    start = arm.probes(Moment.START)
    if not (start["exposure"] == HELD_OUT).any():
        return
    for moment in arm.moments:
        if moment == Moment.START:
            continue
        gained = arm.probes(moment)
        gained = gained.assign(log_prob=gained["log_prob"] - start["log_prob"])
        of = gained["exposure"] == HELD_OUT
        met, held_out = PROBE_TABLE.items(gained[~of]), PROBE_TABLE.items(gained[of])
        values = np.concatenate([met.weights * met.means, -held_out.weights * held_out.means])
        strata = np.concatenate([met.strata, held_out.strata + met.strata.max() + 1])
        drawn = bootstrap.resampled_sums(values[:, None], strata)[:, 0]
        interval = bootstrap.interval(drawn, len(values), strata)
        yield (
            *(arm.name, moment, met.score - held_out.score, *bounds(interval)),
            *(met.score, held_out.score, len(met.means), len(held_out.means)),
        )


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


def level_table(arms: Sequence[CklArm]) -> pd.DataFrame:
    """Every measure at every moment."""
    rows = [
        (arm.name, seed, moment, *found)
        for arm in arms
        for run, seed in zip(arm.runs, arm.seeds, strict=True)
        for moment, _ in arm.all_moments.items()
        for found in _levels(*arm.seen(run, moment))
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
    """The share of facts that one recalls who guesses among the values that an item offers."""
    found = [
        table[~table["task"].isin(list(TASKS))]["chance"].dropna().astype(float) for table in tables
    ]
    known = [chances.mean() for chances in found if len(chances)]
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
