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
from analysis.metrics import HELD_OUT, PROBE_TABLE, TASK_TABLE, acquisition, forgetting
from analysis.numbers import share
from analysis.observations import TASKS, WORDING, levels_at, rows_where
from analysis.runs import Moment, TrainingRun
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from probes.corpus_means import Interval

MET = "met"
"""All exposures but held out."""
ALL_KINDS = "all"
ALL_TASKS = "P"
"""The mean over tasks."""
_KNOWLEDGE = "arm seed moment step exposure kind score low high passages probes"
_ACQUISITION = "arm seed against moment exposure kind value low high before after passages probes"
_BEYOND = "arm moment value low high met held_out passages held_out_passages"
_CHANCE = "arm moment task score low high chance above questions"
_FORGETTING = "arm seed against moment task value low high before after questions reason"
_LEVELS = "arm seed moment group measure value"
_CHANGES = "arm against moment group measure before after change low high least most seeds"
_SCORES = ("score", "low", "high", "passages", "probes")
_TEXTS = ("arm", "against", "moment", "exposure", "kind", "task", "measure")


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

    def strata(self, exposure: str, kind: str) -> Int[np.ndarray, "passage"]:
        """The exposure of each passage as a number."""
        own = {g.cluster: g.exposure for g in self.groups if g.exposure != MET}
        passages = (self.groups[place].cluster for place in self.places[exposure, kind])
        return pd.factorize(np.array([own[passage] for passage in passages]))[0]

    def over_passages(
        self, means: Float[np.ndarray, "group column"]
    ) -> Mapping[tuple[str, str], Float[np.ndarray, "column"]]:
        """K: the mean over passages, by exposure and kind."""
        return {what: means[some].mean(axis=0) for what, some in self.places.items()}


def passage_means(probes: pd.DataFrame) -> PassageMeans:
    """The means of a list of probes."""
    groups, weights = [], []
    for passage, rows in probes.reset_index(drop=True).groupby("passage", sort=False):
        own = str(rows["exposure"].iloc[0])
        for kind in (ALL_KINDS, *probes["kind"].unique()):
            members = rows.index if kind == ALL_KINDS else rows.index[rows["kind"] == kind]
            weight = np.zeros(len(probes))
            weight[members] = 1 / max(len(members), 1)
            for exposure in (own,) if own == HELD_OUT else (own, MET):
                if len(members):
                    groups.append(Group(exposure, str(kind), f"passage {passage}"))
                    weights.append(weight)
    return PassageMeans(tuple(groups), np.stack(weights))


def knowledge_over_steps(
    arm: CklArm, exposure: str
) -> tuple[Int[np.ndarray, "step"], Float[np.ndarray, "step"]]:
    """K at every step at which all seeds of an arm were evaluated, mean over seeds.

    Args:
        arm: of runs with the same items.
        exposure: of the passages; `MET` for all that were met.
    """
    scores = [run.probe_scores for run in arm.runs]
    steps = sorted(set.intersection(*(set(one.steps.tolist()) for one in scores)))
    means = []
    for one in scores:
        there = one.log_probs[np.searchsorted(one.steps, steps)]
        of = passage_means(one.items)
        means.append(of.over_passages(of.of(there.T))[exposure, ALL_KINDS])
    return np.array(steps, dtype=np.int64), np.mean(means, axis=0)


def scores_over_steps(arms: Sequence[CklArm], exposure: str) -> pd.DataFrame:
    """The same of several arms, as far as they have such passages."""
    found = [pd.DataFrame(columns=["arm", "step", "score"])]
    for arm in arms:
        if exposure == MET or (arm.runs[0].probe_scores.items["exposure"] == exposure).any():
            steps, scores = knowledge_over_steps(arm, exposure)
            found.append(pd.DataFrame({"arm": arm.name, "step": steps, "score": scores}))
    return pd.concat(found[1:] or found)


@dataclass(frozen=True)
class _Scores:
    """Scores of the passages of one exposure and one kind of probes."""

    exposure: str
    kind: str
    means: Float[np.ndarray, "passage moment"]
    strata: Int[np.ndarray, "passage"]
    n_probes: int


def _scored(arm: CklArm, run: TrainingRun | None) -> Iterator[_Scores]:
    """Every exposure and kind of probes; of single runs all kinds together."""
    probes = [arm.probes(moment, run) for moment in arm.all_moments]
    scores = np.stack([table["log_prob"] for table in probes], axis=1)
    if not np.isfinite(scores).all():
        of = arm.name if run is None else run.path
        raise ValueError(f"{of} has scores of probes that are not finite; they give no K")
    means = passage_means(probes[0])
    by_passage = means.of(scores)
    for what, places in means.places.items():
        if run is None or what[1] == ALL_KINDS:
            count = int(np.count_nonzero(means.weights[places]))
            yield _Scores(*what, by_passage[places], means.strata(*what), count)


def score_tables(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """K at every moment, and A at every moment after the start."""
    knowledge: list[tuple[Any, ...]] = []
    acquired: list[tuple[Any, ...]] = []
    for arm, run, seed in _units(arms):
        for one in _scored(arm, run):
            values, n_passages = one.means.mean(axis=0), len(one.means)
            drawn = bootstrap.resampled_sums(one.means / n_passages, one.strata)
            what, counts = (one.exposure, one.kind), (n_passages, one.n_probes)
            k = {}
            for place, (moment, step) in enumerate(arm.all_moments.items()):
                k[moment] = values[place], drawn[:, place]
                interval = bootstrap.interval(drawn[:, place], n_passages, one.strata)
                score = (values[place], *bounds(interval), *counts)
                knowledge.append((arm.name, seed, moment, step, *what, *score))
            for against, moment in arm.pairs():
                (before, drawn_before), (after, drawn_after) = k[against], k[moment]
                # A share of a score that may as well have been 0 has no bounds.
                interval = None
                if drawn_before.all():
                    change = (drawn_after - drawn_before) / np.abs(drawn_before)
                    interval = bootstrap.interval(change, n_passages, one.strata)
                value = acquisition(float(before), float(after))
                known = (value, *bounds(interval), before, after, *counts)
                acquired.append((arm.name, seed, against, moment, *what, *known))
    return _typed(knowledge, _KNOWLEDGE), _typed(acquired, _ACQUISITION)


def beyond_table(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """Gains since the start of passages met less those of held-out ones, means over seeds."""
    rows = []
    for arm in arms:
        scores = {one.exposure: one for one in _scored(arm, None) if one.kind == ALL_KINDS}
        if HELD_OUT not in scores:
            continue
        both = [scores[MET], scores[HELD_OUT]]
        strata = np.concatenate([both[0].strata, both[1].strata + both[0].strata.max() + 1])
        moments = list(arm.all_moments)
        start = moments.index(Moment.START)
        for moment in moments[start + 1 :]:
            place = moments.index(moment)
            gains = [one.means[:, place] - one.means[:, start] for one in both]
            shares = np.concatenate([gains[0] / len(gains[0]), -gains[1] / len(gains[1])])
            drawn = bootstrap.resampled_sums(shares[:, None], strata)[:, 0]
            met, held_out = (gain.mean() for gain in gains)
            interval = bootstrap.interval(drawn, len(strata), strata)
            known = (met - held_out, *bounds(interval), met, held_out, *map(len, gains))
            rows.append((arm.name, moment, *known))
    return _typed(rows, _BEYOND)


def chance_table(
    arms: Sequence[CklArm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """How well every task is answered at the start, against guessing."""
    rows = []
    for arm, moment in [(one, moment) for one in arms for moment in one.compared_with]:
        seen, _ = arm.seen(arm.runs[0], moment)
        chances = dict(zip(seen.task_scores["task"], seen.task_scores["chance"], strict=True))
        questions = arm.questions(moment)
        tasks = [] if questions.empty else list(questions.groupby("task", sort=False)["score"])
        for task, scores in tasks:
            shared = replace(bootstrap, level=1 - (1 - bootstrap.level) / len(tasks))
            interval = shared.mean_interval(scores.to_numpy(dtype=float))
            above = interval is not None and interval.low > chances[task]
            known = (scores.mean(), *bounds(interval), chances[task], above, len(scores))
            rows.append((arm.name, str(moment), task, *known))
    table = pd.DataFrame(rows, columns=_CHANCE.split())
    return table.astype({"low": float, "high": float, "above": bool})


def forgetting_table(
    arms: Sequence[CklArm],
    chances: pd.DataFrame,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """F at every moment after the start, of all tasks together, and of each over the seeds."""
    rows = []
    for arm, run, seed in _units(arms):
        for against, moment in arm.pairs():
            before, after = arm.questions(against, run), arm.questions(moment, run)
            if before.empty:
                continue
            reasons = untested(chances, arm.name, against)
            for task in (ALL_TASKS, *(before["task"].unique() if run is None else ())):
                both = [
                    table if task == ALL_TASKS else rows_where(table, task=task)
                    for table in (before, after)
                ]
                found: tuple[Any, ...] = (None, None, None)
                if task not in reasons:
                    change = forgetting(*both, bootstrap=bootstrap)
                    found = (change.value, *bounds(change.interval))
                scores = (TASK_TABLE.items(table).score for table in both)
                known = (*found, *scores, len(both[0]), reasons.get(task))
                rows.append((arm.name, seed, against, moment, task, *known))
    return _typed(rows, _FORGETTING)


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
    interval = "" if pd.isna(row.low) else f" [{share(row.low)}, {share(row.high)}]"
    return f"{row.task} {share(row.score)}{interval}, guessing {share(row.chance)}"


def _units(arms: Sequence[CklArm]) -> Iterator[tuple[CklArm, TrainingRun | None, int | None]]:
    """Every arm, then each of its runs."""
    for arm in arms:
        yield arm, None, None
        for run in arm.runs:
            yield arm, run, run.seed


def bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    """Both ends of an interval; missing where there is none."""
    return (None, None) if interval is None else interval[:2]


def _typed(rows: Sequence[Any] | pd.DataFrame, columns: str) -> pd.DataFrame:
    """A table in which missing seeds and bounds are in columns of numbers."""
    kinds: dict[str, Any] = {"seed": "Int64", "low": float, "high": float, "value": float}
    kinds |= dict.fromkeys(_TEXTS, str)
    table = pd.DataFrame(rows, columns=columns.split())
    return table.astype({name: kind for name, kind in kinds.items() if name in table.columns})


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
    rows = []
    groups = table.groupby([*by], sort=False, dropna=False, observed=True) if by else [((), table)]
    for values, group in groups:
        items = PROBE_TABLE.items(group)
        weighted = (items.weights * items.means)[:, None]
        drawn = bootstrap.resampled_sums(weighted, items.strata)[:, 0]
        interval = bootstrap.interval(drawn, len(items.means), items.strata)
        counts = (len(items.means), items.n_items)
        rows.append((*values, items.score, *bounds(interval), *counts))
    return pd.DataFrame(rows, columns=[*by, *_SCORES]).astype({"low": float, "high": float})


def level_table(arms: Sequence[CklArm]) -> pd.DataFrame:
    """Text, facts, entropies and neurons at every moment; means over seeds, then single seeds."""
    rows = [
        (arm.name, run.seed, moment, *found)
        for arm in arms
        for run in arm.runs
        for moment in arm.all_moments
        for found in levels_at(*arm.seen(run, moment))
        if found[0] != TASKS
    ]
    single = pd.DataFrame(rows, columns=_LEVELS.split())
    keys = ["arm", "moment", "group", "measure"]
    means = single.groupby(keys, sort=False, as_index=False)["value"].mean()
    return _typed(pd.concat([means, single], ignore_index=True), _LEVELS)


def change_table(
    arms: Sequence[CklArm], levels: pd.DataFrame, bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """The change of every measure since the start; intervals draw the subjects of facts."""
    keys = ["arm", "group", "measure", "seed"]
    single = levels.dropna(subset="seed").set_index([*keys, "moment"])["value"]
    values = single.unstack("moment", sort=False)
    rows = []
    for arm in arms:
        for against, moment in arm.pairs():
            intervals = _fact_intervals(arm, against, moment, bootstrap)
            pairs = values.loc[arm.name, [against, moment]].dropna()
            for (group, measure), seeds in pairs.groupby(level=[0, 1], sort=False):
                moved = seeds[moment] - seeds[against]
                means = (seeds[against].mean(), seeds[moment].mean(), moved.mean())
                spread = (moved.min(), moved.max(), len(moved))
                known = (*means, *bounds(intervals.get(measure)), *spread)
                rows.append((arm.name, against, moment, group, measure, *known))
    return _typed(rows, _CHANGES)


def _fact_intervals(
    arm: CklArm, against: str, moment: str, bootstrap: ClusterBootstrap
) -> dict[str, Interval | None]:
    before, after = arm.facts(against), arm.facts(moment)
    if before.empty:
        return {}
    moved = before.assign(moved=after["log_prob"] - before["log_prob"])
    means = moved.groupby(["wording", "subject"], sort=False)["moved"].mean()
    return {
        WORDING.format(wording): bootstrap.mean_interval(values.to_numpy(dtype=np.float64))
        for wording, values in means.groupby(level=0, sort=False)
    }
