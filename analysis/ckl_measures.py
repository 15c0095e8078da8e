"""Measures of continual knowledge learning: K, A, P and F, of arms and of single runs.

K is the mean over passages of the mean score of a passage's probes, in nats; P the mean over tasks
of the share of questions answered right. Acquisition A is the change of K, forgetting F the fall of
P, as a share of its size before (`analysis.metrics`, the convention of the paper's tables). "met"
are all passages that were injected; held-out ones, which never were, are a control for what the
corpus alone does to such probes. Intervals draw passages, within their exposures, or questions.

A model that guesses has nothing to forget: where no task stands above guessing at the start, F is
**not tested**, and the reason names the tasks. A task stands above guessing where the interval of
its accuracy lies above it; the level is shared out over the tasks (Bonferroni), so that one of many
does not do so by luck.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.arms import CklArm
from analysis.metrics import HELD_OUT, PROBE_TABLE, TASK_TABLE, Items, acquisition, forgetting
from analysis.observations import TASKS, WORDING, levels_at
from analysis.runs import Moment, TrainingRun
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.theme import percent
from probes.intervals import Interval

MET = "met"
"""All exposures but held out."""
ALL_KINDS = "all"
ALL_TASKS = "P"
"""The mean over tasks."""
_KNOWLEDGE = (
    *("arm", "seed", "moment", "step", "exposure", "kind"),
    *("score", "low", "high", "passages", "probes"),
)
_ACQUISITION = (
    *("arm", "seed", "against", "moment", "exposure", "kind"),
    *("value", "low", "high", "before", "after", "passages", "probes"),
)
_BEYOND = (
    *("arm", "moment", "value", "low", "high", "met", "held_out"),
    *("passages", "held_out_passages"),
)
_CHANCE = ("arm", "moment", "task", "score", "low", "high", "chance", "above", "questions")
_FORGETTING = (
    *("arm", "seed", "against", "moment", "task", "value", "low", "high"),
    *("before", "after", "questions", "reason"),
)


class Group(NamedTuple):
    """Probes of one passage, as one exposure and one kind."""

    exposure: str
    kind: str
    cluster: str


@dataclass(frozen=True)
class PassageMeans:
    """How numbers of probes become those of passages.

    Attributes:
        groups: what there is a mean of.
        weights: of each probe in each mean.
    """

    groups: tuple[Group, ...]
    weights: Float[np.ndarray, "group probe"]

    def of(self, values: Float[np.ndarray, "probe column"]) -> Float[np.ndarray, "group column"]:
        """The mean of each group; NaN where one of its probes has no number."""
        missing = np.isnan(values)
        known = self.weights @ np.where(missing, 0.0, values)
        return np.where(self.weights @ missing > 0, np.nan, known)

    @cached_property
    def places(self) -> Mapping[tuple[str, str], list[int]]:
        """The places of groups, by exposure and kind: all that was met first, all kinds first."""
        found: dict[tuple[str, str], list[int]] = {}
        for place, group in enumerate(self.groups):
            found.setdefault((group.exposure, group.kind), []).append(place)
        exposures = dict.fromkeys([MET, *(group.exposure for group in self.groups)])
        kinds = dict.fromkeys(group.kind for group in self.groups)
        every = ((exposure, kind) for exposure in exposures for kind in kinds)
        return {what: found[what] for what in every if what in found}

    @cached_property
    def strata(self) -> Mapping[tuple[str, str], Int[np.ndarray, "passage"]]:
        """The exposure of each passage as a number, by exposure and kind."""
        own = {g.cluster: g.exposure for g in self.groups if g.exposure != MET}
        return {
            what: pd.factorize(np.array([own[self.groups[p].cluster] for p in some]))[0]
            for what, some in self.places.items()
        }

    def probes(self, exposure: str, kind: str) -> int:
        """How many probes there are."""
        return int(np.count_nonzero(self.weights[self.places[exposure, kind]]))

    def over_passages(
        self, means: Float[np.ndarray, "group column"]
    ) -> Mapping[tuple[str, str], Float[np.ndarray, "column"]]:
        """K: the mean over passages, by exposure and kind."""
        return {what: means[some].mean(axis=0) for what, some in self.places.items()}


def passage_means(probes: pd.DataFrame) -> PassageMeans:
    """The means of a list of probes."""
    groups, weights = zip(*_weighted(probes), strict=True)
    return PassageMeans(groups, np.stack(weights))


def _weighted(probes: pd.DataFrame) -> Iterator[tuple[Group, Float[np.ndarray, "probe"]]]:
    kinds, exposures = probes["kind"].to_numpy(), probes["exposure"].to_numpy()
    codes, passages = pd.factorize(probes["passage"])
    masks = {ALL_KINDS: np.ones(len(probes), dtype=bool)}
    masks |= {str(kind): kinds == kind for kind in pd.unique(kinds)}
    for code, passage in enumerate(passages):
        here = codes == code
        exposure = str(exposures[here.argmax()])
        for kind, mask in masks.items():
            members = here & mask
            if not members.any():
                continue
            weights = members / members.sum()
            yield Group(exposure, kind, f"passage {passage}"), weights
            if exposure != HELD_OUT:
                yield Group(MET, kind, f"passage {passage}"), weights


def knowledge_over_steps(
    arm: CklArm, exposure: str
) -> tuple[Int[np.ndarray, "look"], Float[np.ndarray, "look"]]:
    """K at every step at which all seeds of an arm were looked at, mean over seeds.

    Args:
        arm: of runs with the same items.
        exposure: of the passages; `MET` for all that were met.
    """
    scores = [run.probe_scores for run in arm.runs]
    steps = sorted(set.intersection(*(set(one.steps.tolist()) for one in scores)))
    means = []
    for one in scores:
        looks = one.log_probs[np.searchsorted(one.steps, steps)]
        of = passage_means(one.items)
        means.append(of.over_passages(of.of(looks.T))[exposure, ALL_KINDS])
    return np.array(steps, dtype=np.int64), np.mean(means, axis=0)


@dataclass(frozen=True)
class _Scores:
    """K of one group of probes at every moment, and under every draw of passages."""

    exposure: str
    kind: str
    moments: Sequence[str]
    means: Float[np.ndarray, "passage moment"]
    strata: Int[np.ndarray, "passage"]
    n_probes: int
    bootstrap: ClusterBootstrap

    @cached_property
    def values(self) -> Float[np.ndarray, "moment"]:
        """K at every moment."""
        return self.means.mean(axis=0)

    @cached_property
    def drawn(self) -> Float[np.ndarray, "replicate moment"]:
        """The same under every draw of passages."""
        return self.bootstrap.resampled_sums(self.means / len(self.means), self.strata)

    @property
    def counts(self) -> tuple[int, int]:
        """Passages and probes."""
        return len(self.strata), self.n_probes

    def score(self, moment: str) -> tuple[Any, ...]:
        """K at a moment, its interval and how many passages and probes it is of."""
        place = self.moments.index(moment)
        return self.values[place], *self._bounds(self.drawn[:, place]), *self.counts

    def change(self, against: str, moment: str) -> tuple[Any, ...]:
        """A from one moment to another."""
        places = [self.moments.index(against), self.moments.index(moment)]
        before, after = self.values[places]
        drawn_before, drawn_after = self.drawn[:, places].T
        value = acquisition(float(before), float(after))
        # A share of a score that may as well have been 0 has no bounds.
        found: tuple[float | None, float | None] = (None, None)
        if drawn_before.all():
            found = self._bounds((drawn_after - drawn_before) / np.abs(drawn_before))
        return value, *found, before, after, *self.counts

    def _bounds(self, drawn: Float[np.ndarray, "replicate"]) -> tuple[float | None, float | None]:
        return bounds(self.bootstrap.interval(drawn, len(self.strata), self.strata))


def score_tables(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """K at every moment, and A at every moment after the start."""
    knowledge: list[tuple[Any, ...]] = []
    acquired: list[tuple[Any, ...]] = []
    for arm, run, seed in units(arms):
        for one in _scored(arm, run, bootstrap):
            what = (one.exposure, one.kind)
            knowledge += [
                (arm.name, seed, moment, step, *what, *one.score(moment))
                for moment, step in arm.all_moments.items()
            ]
            acquired += [
                (arm.name, seed, against, moment, *what, *one.change(against, moment))
                for against, moment in arm.pairs()
            ]
    return (
        typed(pd.DataFrame(knowledge, columns=list(_KNOWLEDGE))),
        typed(pd.DataFrame(acquired, columns=list(_ACQUISITION))),
    )


def beyond_table(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """Gains since the start of passages met less those of held-out ones, means over seeds."""
    rows = [row for arm in arms for row in _beyond(arm, bootstrap)]
    return typed(pd.DataFrame(rows, columns=list(_BEYOND)))


def _beyond(arm: CklArm, bootstrap: ClusterBootstrap) -> Iterator[tuple[Any, ...]]:
    scores = {one.exposure: one for one in _scored(arm, None, bootstrap) if one.kind == ALL_KINDS}
    if HELD_OUT not in scores:
        return
    both = [scores[MET], scores[HELD_OUT]]
    strata = np.concatenate([both[0].strata, both[1].strata + both[0].strata.max() + 1])
    start = both[0].moments.index(Moment.START)
    for moment in arm.moments:
        if moment == Moment.START:
            continue
        place = both[0].moments.index(moment)
        gains = [one.means[:, place] - one.means[:, start] for one in both]
        signed = [sign * gain / len(gain) for sign, gain in zip((1, -1), gains, strict=True)]
        drawn = bootstrap.resampled_sums(np.concatenate(signed)[:, None], strata)[:, 0]
        interval = bootstrap.interval(drawn, len(strata), strata)
        met, held_out = (gain.mean() for gain in gains)
        yield (
            *(arm.name, moment, met - held_out, *bounds(interval)),
            *(met, held_out, *map(len, gains)),
        )


def chance_table(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """How well every task is answered at the start, against guessing."""
    rows = [
        row for arm in arms for moment in arm.compared_with for row in _at(arm, moment, bootstrap)
    ]
    return pd.DataFrame(rows, columns=list(_CHANCE)).astype({"low": float, "high": float})


def forgetting_table(
    arms: Sequence[CklArm],
    chances: pd.DataFrame,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """F at every moment after the start, of all tasks together and of each."""
    rows = [
        (arm.name, seed, against, moment, *found)
        for arm, run, seed in units(arms)
        for against, moment in arm.pairs()
        if not (before := arm.questions(against, run)).empty
        for found in _forgotten(
            before,
            arm.questions(moment, run),
            untested(chances, arm.name, against),
            bootstrap,
            by_task=run is None,
        )
    ]
    return typed(pd.DataFrame(rows, columns=list(_FORGETTING)))


def untested(chances: pd.DataFrame, arm: str, moment: str) -> dict[str, str]:
    """Why F of tasks, and of all of them, is not tested at a start; nothing for those that are."""
    rows = chances[(chances["arm"] == arm) & (chances["moment"] == moment)]
    found = {
        row.task: f"at the {moment} no better than guessing: {_against_chance(row)}"
        for row in rows[~rows["above"]].itertuples()
    }
    if len(rows) and not rows["above"].any():
        each = "; ".join(_against_chance(row) for row in rows.itertuples())
        found[ALL_TASKS] = f"at the {moment} no task is answered better than by guessing: {each}"
    return found


def _against_chance(row: Any) -> str:
    interval = "" if pd.isna(row.low) else f" [{percent(row.low)}, {percent(row.high)}]"
    return f"{row.task} {percent(row.score)}{interval}, guessing {percent(row.chance)}"


def _at(arm: CklArm, moment: str, bootstrap: ClusterBootstrap) -> Iterator[tuple[Any, ...]]:
    questions = arm.questions(moment)
    if questions.empty:
        return
    seen, _ = arm.seen(arm.runs[0], moment)
    chances = dict(zip(seen.task_scores["task"], seen.task_scores["chance"], strict=True))
    tasks = list(questions.groupby("task", sort=False))
    shared = replace(bootstrap, level=1 - (1 - bootstrap.level) / len(tasks))
    for task, rows in tasks:
        scores = rows["score"].to_numpy(dtype=float)
        interval = shared.mean_interval(scores)
        above = interval is not None and interval.low > chances[task]
        found = (scores.mean(), *bounds(interval), chances[task], above, len(rows))
        yield arm.name, str(moment), task, *found


def _forgotten(
    before: pd.DataFrame,
    after: pd.DataFrame,
    reasons: dict[str, str],
    bootstrap: ClusterBootstrap,
    *,
    by_task: bool,
) -> Iterator[tuple[Any, ...]]:
    of_tasks = list(before.groupby("task", sort=False)) if by_task else []
    for task, rows in [(ALL_TASKS, before), *of_tasks]:
        later = after if task == ALL_TASKS else after[after["task"] == task]
        reason = reasons.get(task)
        scores = [TASK_TABLE.items(table).score for table in (rows, later)]
        if reason is not None:
            yield task, None, None, None, *scores, len(rows), reason
            continue
        change = forgetting(rows, later, bootstrap=bootstrap)
        yield task, change.value, *bounds(change.interval), *scores, len(rows), None


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
    """Every exposure and kind of probes; of single runs all kinds together."""
    moments = list(arm.all_moments)
    probes = [arm.probes(moment, run) for moment in moments]
    scores = np.stack([table["log_prob"] for table in probes], axis=1)
    if not np.isfinite(scores).all():
        of = arm.name if run is None else run.path
        raise ValueError(f"{of} has scores of probes that are not finite; they give no K")
    means = passage_means(probes[0])
    by_passage = means.of(scores)
    for (exposure, kind), places in means.places.items():
        if run is None or kind == ALL_KINDS:
            strata, n_probes = means.strata[exposure, kind], means.probes(exposure, kind)
            yield _Scores(exposure, kind, moments, by_passage[places], strata, n_probes, bootstrap)


def bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    """Both ends of an interval; missing where there is none."""
    return (None, None) if interval is None else (interval.low, interval.high)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Missing seeds and bounds in the columns of numbers."""
    kinds: dict[str, Any] = {"seed": "Int64", "low": float, "high": float}
    kinds |= dict.fromkeys(_KEYS, str)
    return table.astype({name: kind for name, kind in kinds.items() if name in table.columns})


COLUMNS = ("score", "low", "high", "passages", "probes")


def knowledge_scores(
    table: pd.DataFrame,
    by: Sequence[str] = ("exposure", "kind"),
    *,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """K of every group of probes.

    Args:
        table: one row per probe, in the layout of `analysis.metrics.PROBE_TABLE`; with `step`
            among `by`, one row per step and probe.
        by: columns whose values make the groups; empty for the whole table.
        bootstrap: how intervals are made.

    Returns:
        One row per group, in the order of the table: the columns of `by`, then `score`, `low` and
        `high` in nats (missing from fewer than two passages), `passages` and `probes`.

    Raises:
        ValueError: a column is missing, or a group is no table of probes: a probe is there twice, a
            log-probability is not finite, or held-out passages are mixed with others.
    """
    if missing := [name for name in by if name not in table.columns]:
        raise ValueError(
            f"groups need the columns {', '.join(by)}, found "
            f"{', '.join(map(str, table.columns)) or 'none'}; add {', '.join(missing)}"
        )
    rows = [
        (*values, *_described(PROBE_TABLE.items(group), bootstrap))
        for values, group in _groups(table, list(by))
    ]
    return pd.DataFrame(rows, columns=[*by, *COLUMNS]).astype({"low": float, "high": float})


def _groups(table: pd.DataFrame, by: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    if not by:
        yield (), table
        return
    yield from table.groupby(by, sort=False, dropna=False, observed=True)


def _described(
    items: Items, bootstrap: ClusterBootstrap
) -> tuple[float, float | None, float | None, int, int]:
    weighted = (items.weights * items.means)[:, None]
    drawn = bootstrap.resampled_sums(weighted, items.strata)[:, 0]
    found = bootstrap.interval(drawn, len(items.means), items.strata)
    low, high = (found.low, found.high) if found else (None, None)
    return items.score, low, high, len(items.means), items.n_items


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


def _fact_intervals(
    arm: CklArm, against: str, moment: str, bootstrap: ClusterBootstrap
) -> dict[str, tuple[float | None, float | None]]:
    before, after = arm.facts(against), arm.facts(moment)
    if before.empty:
        return {}
    moved = before.assign(moved=after["log_prob"] - before["log_prob"])
    return {
        WORDING.format(wording): bounds(
            bootstrap.mean_interval(
                rows.groupby("subject", sort=False)["moved"].mean().to_numpy(dtype=np.float64)
            )
        )
        for wording, rows in moved.groupby("wording", sort=False)
    }
