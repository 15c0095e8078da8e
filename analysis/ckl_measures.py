"""Measures of continual knowledge learning: K, A, P and F, of arms and of single runs.

K is the mean over passages of the mean score of a passage's probes, in nats; P the mean over tasks
of the share of questions answered right. Acquisition A is the change of K, forgetting F the fall of
P, as a share of its size before. "met" are all passages that were injected; held-out ones are a
control for what the corpus alone does to such probes. Intervals draw passages, within their
exposures, or questions.

Where no task stands above guessing at the start, F is **not tested**: such a model has nothing to
forget. A task stands above guessing where the interval of its accuracy lies above it; the level is
shared out over the tasks (Bonferroni), so that one of many does not do so by luck.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.arms import CklArm
from analysis.correlations import LEAST_POINTS, correlation
from analysis.metrics import HELD_OUT, PROBE_TABLE, TASK_TABLE, acquisition, forgetting
from analysis.numbers import share
from analysis.observations import (
    ENTROPIES,
    ENTROPY,
    FACTS,
    TASKS,
    TEXT,
    WORDING,
    levels_at,
    rows_where,
)
from analysis.runs import Moment, TrainingRun
from analysis.significance import DEFAULT_BOOTSTRAP, ClusterBootstrap, bounds, is_constant
from probes.corpus_means import Interval

START, INJECTED, END = Moment.START, Moment.INJECTED, Moment.END
MET = "met"  # all exposures but held out
ALL_KINDS = "all"
ALL_TASKS = "P"  # the mean over tasks
_KNOWLEDGE = "arm seed moment step exposure kind score low high passages probes"
_ACQUISITION = "arm seed against moment exposure kind value low high before after passages probes"
_BEYOND = "arm moment value low high met held_out passages held_out_passages"
_CHANCE = "arm moment task score low high chance above questions"
_FORGETTING = "arm seed against moment task value low high before after questions reason"
_LEVELS = "arm seed moment group measure value"
_CHANGES = "arm against moment group measure before after change low high least most seeds"
ACQUIRED_INJECTED, ACQUIRED_END, FORGOTTEN = "A, last injection", "A, end", "F, end"
LEAST_STARTS = 4  # below it Fisher's interval does not exist
_CORRELATIONS = (
    *("series", "entropy", "outcome", "starts", "rho", "low", "high", "p_value"),
    *("rho_differences", "low_differences", "high_differences", "p_value_differences"),
)
_GROUPS = ["exposure", "kind", "passage"]
_SCORES = ("score", "low", "high", "passages", "probes")
_TEXTS = ("arm", "against", "moment", "exposure", "kind", "task", "measure")


def _every_group(probes: pd.DataFrame) -> pd.DataFrame:
    """Each probe once for every exposure and kind that it counts in, all that was met first."""
    own = probes[["exposure", "kind", "passage"]].reset_index(drop=True)
    own = own.rename_axis("place").reset_index()
    both = pd.concat([own.assign(kind=ALL_KINDS), own])
    return pd.concat([both[both["exposure"] != HELD_OUT].assign(exposure=MET), both])


def passage_means(probes: pd.DataFrame, values: Float[np.ndarray, "probe column"]) -> pd.DataFrame:
    """Means over the probes of passages, by `exposure`, `kind` and `passage`."""
    every = _every_group(probes)
    keys = [every[name].to_numpy() for name in _GROUPS]
    means = pd.DataFrame(values[every["place"]]).groupby(keys, sort=False).mean()
    return means.rename_axis(_GROUPS)


def knowledge_over_steps(
    arm: CklArm, exposure: str
) -> tuple[Int[np.ndarray, "step"], Float[np.ndarray, "step"]]:
    """K at every step at which all seeds of an arm were evaluated, mean over seeds."""
    scores = [run.probe_scores for run in arm.runs]
    steps = sorted(set.intersection(*(set(one.steps.tolist()) for one in scores)))
    means = [
        passage_means(one.items, one.log_probs[np.searchsorted(one.steps, steps)].T)
        .groupby(level=[0, 1])
        .mean()
        .loc[(exposure, ALL_KINDS)]
        for one in scores
    ]
    return np.array(steps, dtype=np.int64), np.mean(means, axis=0)


def scores_over_steps(arms: Sequence[CklArm], exposure: str) -> pd.DataFrame:
    """The same of several arms, as far as they have such passages."""
    found = [pd.DataFrame(columns=["arm", "step", "score"])]
    for arm in arms:
        if exposure == MET or (arm.runs[0].probe_scores.items["exposure"] == exposure).any():
            steps, scores = knowledge_over_steps(arm, exposure)
            found.append(pd.DataFrame({"arm": arm.name, "step": steps, "score": scores}))
    return pd.concat(found[1:] or found)


class _Scores(NamedTuple):
    """Scores of the passages of one exposure and one kind of probes."""

    exposure: str
    kind: str
    means: Float[np.ndarray, "passage moment"]
    strata: Int[np.ndarray, "passage"]
    n_probes: int


def _scored(arm: CklArm, run: TrainingRun | None) -> Iterator[_Scores]:
    probes = [arm.probes(moment, run) for moment in arm.all_moments]
    scores = np.stack([table["log_prob"] for table in probes], axis=1)
    if not np.isfinite(scores).all():
        of = arm.name if run is None else run.path
        raise ValueError(f"{of} has scores of probes that are not finite; they give no K")
    exposures = probes[0].groupby("passage", sort=False)["exposure"].first()
    counts = _every_group(probes[0]).groupby(["exposure", "kind"]).size()
    means = passage_means(probes[0], scores)
    for (exposure, kind), some in means.groupby(level=[0, 1], sort=False):
        if run is None or kind == ALL_KINDS:
            strata = pd.factorize(exposures.loc[some.index.get_level_values("passage")])[0]
            number = int(counts[exposure, kind])
            yield _Scores(exposure, kind, some.to_numpy(), strata, number)


def score_tables(arms: Sequence[CklArm]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """K at every moment, and A at every moment after the start."""
    knowledge: list[tuple[Any, ...]] = []
    acquired: list[tuple[Any, ...]] = []
    for arm, run, seed in _units(arms):
        for one in _scored(arm, run):
            values, n_passages = one.means.mean(axis=0), len(one.means)
            drawn = DEFAULT_BOOTSTRAP.resampled_sums(one.means / n_passages, one.strata)
            what, counts = (one.exposure, one.kind), (n_passages, one.n_probes)
            k = {}
            for place, (moment, step) in enumerate(arm.all_moments.items()):
                k[moment] = values[place], drawn[:, place]
                interval = DEFAULT_BOOTSTRAP.interval(drawn[:, place], n_passages, one.strata)
                score = (values[place], *bounds(interval), *counts)
                knowledge.append((arm.name, seed, moment, step, *what, *score))
            for against, moment in arm.pairs():
                (before, drawn_before), (after, drawn_after) = k[against], k[moment]
                # A share of a score that may as well have been 0 has no bounds.
                interval = None
                if drawn_before.all():
                    change = (drawn_after - drawn_before) / np.abs(drawn_before)
                    interval = DEFAULT_BOOTSTRAP.interval(change, n_passages, one.strata)
                value = acquisition(float(before), float(after))
                known = (value, *bounds(interval), before, after, *counts)
                acquired.append((arm.name, seed, against, moment, *what, *known))
    return _typed(knowledge, _KNOWLEDGE), _typed(acquired, _ACQUISITION)


def beyond_table(arms: Sequence[CklArm]) -> pd.DataFrame:
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
            drawn = DEFAULT_BOOTSTRAP.resampled_sums(shares[:, None], strata)[:, 0]
            met, held_out = (gain.mean() for gain in gains)
            interval = DEFAULT_BOOTSTRAP.interval(drawn, len(strata), strata)
            known = (met - held_out, *bounds(interval), met, held_out, *map(len, gains))
            rows.append((arm.name, moment, *known))
    return _typed(rows, _BEYOND)


def chance_table(arms: Sequence[CklArm]) -> pd.DataFrame:
    """How well every task is answered at the start, against guessing."""
    rows = []
    level = DEFAULT_BOOTSTRAP.level
    for arm, moment in [(one, moment) for one in arms for moment in one.compared_with]:
        seen, _ = arm.seen(arm.runs[0], moment)
        chances = dict(zip(seen.task_scores["task"], seen.task_scores["chance"], strict=True))
        questions = arm.questions(moment)
        tasks = [] if questions.empty else list(questions.groupby("task", sort=False)["score"])
        for task, scores in tasks:
            shared = replace(DEFAULT_BOOTSTRAP, level=1 - (1 - level) / len(tasks))
            interval = shared.mean_interval(scores.to_numpy(dtype=float))
            above = interval is not None and interval.low > chances[task]
            known = (scores.mean(), *bounds(interval), chances[task], above, len(scores))
            rows.append((arm.name, str(moment), task, *known))
    table = pd.DataFrame(rows, columns=_CHANCE.split())
    return table.astype({"low": float, "high": float, "above": bool})


def forgetting_table(arms: Sequence[CklArm], chances: pd.DataFrame) -> pd.DataFrame:
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
                    change = forgetting(*both)
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
    for arm in arms:
        yield arm, None, None
        for run in arm.runs:
            yield arm, run, run.seed


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


def change_table(arms: Sequence[CklArm], levels: pd.DataFrame) -> pd.DataFrame:
    """The change of every measure since the start; intervals draw the subjects of facts."""
    keys = ["arm", "group", "measure", "seed"]
    single = levels.dropna(subset="seed").set_index([*keys, "moment"])["value"]
    values = single.unstack("moment", sort=False)
    rows = []
    for arm in arms:
        for against, moment in arm.pairs():
            intervals = _fact_intervals(arm, against, moment)
            pairs = values.loc[arm.name, [against, moment]].dropna()
            for (group, measure), seeds in pairs.groupby(level=[0, 1], sort=False):
                moved = seeds[moment] - seeds[against]
                means = (seeds[against].mean(), seeds[moment].mean(), moved.mean())
                spread = (moved.min(), moved.max(), len(moved))
                known = (*means, *bounds(intervals.get(measure)), *spread)
                rows.append((arm.name, against, moment, group, measure, *known))
    return _typed(rows, _CHANGES)


def _fact_intervals(arm: CklArm, against: str, moment: str) -> dict[str, Interval | None]:
    before, after = arm.facts(against), arm.facts(moment)
    if before.empty:
        return {}
    moved = before.assign(moved=after["log_prob"] - before["log_prob"])
    means = moved.groupby(["wording", "subject"], sort=False)["moved"].mean()
    return {
        WORDING.format(wording): DEFAULT_BOOTSTRAP.mean_interval(values.to_numpy(dtype=np.float64))
        for wording, values in means.groupby(level=0, sort=False)
    }


def trajectory_points(
    arms: Sequence[CklArm],
    acquired: pd.DataFrame,
    forgotten: pd.DataFrame,
    levels: pd.DataFrame,
    changes: pd.DataFrame,
) -> pd.DataFrame:
    """Arms that differ in the age of their start alone, a row each, by age."""
    rows = []
    for series, alike in _series(arms):
        for arm in alike:
            of = {"arm": arm.name, "seed": None}
            before = rows_where(levels, **of, moment=arm.compared_with[-1], group=ENTROPY)
            a = rows_where(acquired, **of, against=START, exposure=MET, kind=ALL_KINDS)
            a = a.set_index("moment")["value"]
            row = {"series": series, "arm": arm.name, "step": arm.start.step}
            row |= dict(zip(before["measure"], before["value"], strict=True))
            row |= {ACQUIRED_INJECTED: a[INJECTED], ACQUIRED_END: a[END]}
            if not forgotten.empty:
                f = rows_where(forgotten, **of, against=START, task=ALL_TASKS, moment=END)
                # None where no task was answered better than by guessing.
                row[FORGOTTEN] = next(iter(f["value"].dropna()), None)
            moved = rows_where(
                changes, arm=arm.name, against=START, moment=END, group=[TEXT, FACTS]
            )
            names = [f"{measure}, change" for measure in moved["measure"]]
            rows.append(row | dict(zip(names, moved["change"], strict=True)))
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["series", "arm", "step"])


def _series(arms: Sequence[CklArm]) -> Iterator[tuple[str, list[CklArm]]]:
    """Sets of arms from four starts or more of one model, alike otherwise; by age."""
    sets: dict[str, list[CklArm]] = {}
    for arm in arms:
        if arm.start.step is not None:
            key = f"{arm.start.model} {sorted(arm.settings.items())}"
            sets.setdefault(key, []).append(arm)
    for found in sets.values():
        by_age = sorted(found, key=lambda arm: arm.start.step or 0)
        if len({arm.start.step for arm in found}) == len(found) >= LEAST_STARTS:
            yield f"{found[0].start.model}, {found[0].edit}", by_age


def outcomes_of(points: pd.DataFrame) -> list[str]:
    """The columns of a table of points that are outcomes."""
    known = {"series", "arm", "step", *ENTROPIES.values()}
    return [name for name in points.columns if name not in known]


def correlation_table(points: pd.DataFrame) -> pd.DataFrame:
    """How outcomes follow the entropies of the start, in levels and in first differences."""
    rows = [
        (series, entropy, outcome, len(rows), *_both(rows[entropy], rows[outcome]))
        for series, rows in points.groupby("series", sort=False)
        for entropy in ENTROPIES.values()
        for outcome in outcomes_of(points)
        if entropy in points.columns and rows[[entropy, outcome]].notna().all(axis=None)
    ]
    numbers = dict.fromkeys(_CORRELATIONS[4:], float)
    return pd.DataFrame(rows, columns=list(_CORRELATIONS)).astype(numbers)


def _both(x: pd.Series, y: pd.Series) -> Iterator[float | None]:
    """The correlation of levels and that of differences: itself, its interval, its p-value."""
    for pair in ((x, y), (x.diff().dropna(), y.diff().dropna())):
        ours, theirs = (one.to_numpy(np.float64) for one in pair)
        if len(ours) < LEAST_POINTS or is_constant(ours) or is_constant(theirs):
            yield from (None,) * 4
            continue
        found = correlation(ours, theirs)
        yield from (found.effect, found.interval.low, found.interval.high, found.p_value)
