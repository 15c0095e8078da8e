"""What runs acquired, forgot and kept, as the tables `ACQUISITION` and `MEMORIZATION`.

Values are of single runs, without intervals: claims compare and test them. `spacing` is given for
net gains only: in other rows it would keep runs from being matched.

A fact of stage A is right where every token of its answer is the most probable one after those
before it. The facts of stage A are not familiar where that was tried, and for made-up key-value
pairs; of others it is not known. A run that was edited before a later stage than A is left out: no
column says that.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.arms import CklArm, ckl_arms, remix_arms
from analysis.ckl_measures import ALL_KINDS, ALL_TASKS, MET, chance_table, passage_means, untested
from analysis.encounter_measures import (
    NET_GAIN,
    PER_PASSAGE,
    forgetting_curves,
    look_grid,
    passage_gains,
)
from analysis.forgetting_curve import DecayModel, ForgettingCurve
from analysis.measurements import (
    COLUMNS,
    SOURCE,
    Table,
    edit_settings,
    of_one_source_each,
    settings_of_runs,
)
from analysis.metrics import HELD_OUT, TASK_TABLE, acquisition, forgetting
from analysis.remix_curves import TOP_K, is_hooked, model_keys, ranks_by_model
from analysis.runs import Chain, Moment, TrainingRun
from probes.localization import NEVER, Localization, localize
from training.choices import Replay
from training.ckl_run import GENERATED_PROBES
from training.data.factoids import KEY_VALUE_RECALL
from training.data.mixes import MixName
from training.data.primary_sets import PrimaryKind
from training.recall import Match
from training.recipes import from_json
from training.remix_config import FAMILIAR, RemixConfig, StageConfig
from training.runs.records import RecallRecord, records_of

GAINED_AT = (Moment.INJECTED, Moment.END)
"""The moments that gains in nats and in what is generated are given at."""
_ENTROPY = "knowledge"  # the kind of entropy
_INTERVALS = ("interval", "interval_rows")


class Row(NamedTuple):
    """A value; what does not apply to it is None."""

    measure: str
    value: float
    exposure: str | None = None
    kind: str | None = None
    moment: str | None = None
    against: str | None = None
    cluster: str | None = None
    spacing: str | None = None


class Spacing(StrEnum):
    """Places of an interval between encounters."""

    WITHIN = "within"  # at the learnability threshold, or below it
    BEYOND = "beyond"  # above it


def acquisition_table(runs: Sequence[TrainingRun]) -> pd.DataFrame:
    """All numbers of finished runs of `training.ckl` that claims are about.

    Refused are runs of another command, runs that are alike in all settings that the table has, and
    scores that are not finite.
    """
    arms = ckl_arms(runs)
    places = [(arm, run) for arm in arms for run in arm.runs]
    ordered = [run for _, run in places]
    for run in ordered:
        _refuse_not_finite(run)
    settings = settings_of_runs(ordered)
    _refuse_alike(ordered, settings)
    curves = [forgetting_curves(run) for run in ordered]
    thresholds = [found[MET].threshold if MET in found else None for found in curves]
    chances = chance_table(arms)
    tables = []
    for place, spacing in enumerate(spacings(settings, thresholds)):
        arm, run = places[place]
        rows = [
            *_knowledge_rows(arm, run),
            *_generated_rows(arm, run),
            *_entropy_rows(run),
            *_question_rows(arm, run, chances),
            *_encounter_rows(run, spacing),
            *_curve_rows(curves[place]),
        ]
        values = pd.DataFrame(rows, columns=list(Row._fields), dtype=object)
        described = pd.DataFrame(
            [settings[place] | _amounts_of_run(run)] * len(values), dtype=object
        )
        tables.append(pd.concat([described, values], axis=1))
    found = pd.concat(tables, ignore_index=True)
    return found[list(COLUMNS[Table.ACQUISITION])].astype({"value": float})


def _amounts_of_run(run: TrainingRun) -> dict[str, int]:
    """How much a run was trained; encounters are those of the passages met most often."""
    met = run.injections["passage"].value_counts()
    tokens = int(run.steps["trained_tokens"].sum())
    return {"updates": run.last_step, "encounters": int(met.max()), "tokens": tokens}


def spacings(
    settings: Sequence[Mapping[str, Any]], thresholds: Sequence[float | None]
) -> list[Spacing | None]:
    """The place of the interval of each run; None where runs like it have one interval only.

    The threshold is that of the run with the shortest interval that has a forgetting curve.
    """
    others = [
        repr(sorted((name, str(v)) for name, v in one.items() if name not in _INTERVALS))
        for one in settings
    ]
    runs = pd.DataFrame({"interval": [one[_INTERVALS[0]] for one in settings], "others": others})
    runs["threshold"] = pd.Series(thresholds, dtype=float)
    several = runs.groupby("others")["interval"].transform("nunique") > 1
    rising = runs[several].sort_values("interval", kind="stable")
    # The first one that is not missing.
    known = rising.groupby("others")["threshold"].transform("first").dropna()
    within = runs["interval"] <= known.reindex(runs.index)
    places = [Spacing.WITHIN if is_within else Spacing.BEYOND for is_within in within]
    return [place if run in known.index else None for run, place in enumerate(places)]


def _knowledge_rows(arm: CklArm, run: TrainingRun) -> Iterator[Row]:
    moments = list(arm.all_moments)
    scores = np.stack([arm.probes(moment, run)["log_prob"] for moment in moments], axis=1)
    by_passage = passage_means(run.probe_scores.items, scores).set_axis(moments, axis=1)
    for (exposure, kind, passage), values in by_passage.iterrows():
        for moment, value in values.items():
            yield Row("K", value, exposure, kind, moment, cluster=f"passage {passage}")
    for (exposure, kind), known in by_passage.groupby(level=[0, 1], sort=False).mean().iterrows():
        for against, moment in arm.pairs():
            if known[against] != 0:
                share = acquisition(known[against], known[moment])
                yield Row("A", share, exposure, kind, moment, against)
        for moment in GAINED_AT if (exposure, kind) == (MET, ALL_KINDS) else ():
            gain = known[moment] - known[Moment.START]
            yield Row("gain of log-probability", gain, exposure, kind, moment, Moment.START)


def _generated_rows(arm: CklArm, run: TrainingRun) -> Iterator[Row]:
    """The rise of the share of probes of met passages whose target is generated."""
    met = (run.probe_scores.items["exposure"] != HELD_OUT).to_numpy()
    shares: dict[int, float] = {}
    for record in records_of(run.path, RecallRecord):
        if record.items != GENERATED_PROBES or record.match != Match.TOKENS:
            continue
        if len(record.correct) != len(met):
            raise ValueError(
                f"{run.path} has {len(record.correct)} generated targets at step {record.step}, "
                f"but {len(met)} probes; its files are not of one run"
            )
        shares[record.step] = float(np.array(record.correct)[met].mean())
    start, what = arm.moments[Moment.START], "gain of generated"
    for moment in GAINED_AT:
        if start in shares and (step := arm.moments[moment]) in shares:
            gain = shares[step] - shares[start]
            yield Row(what, gain, MET, ALL_KINDS, moment, against=Moment.START)


def _entropy_rows(run: TrainingRun) -> Iterator[Row]:
    unedited = run if run.unedited is None else run.unedited
    for moment, seen in ((Moment.UNEDITED, unedited), (Moment.START, run)):
        found = seen.entropies
        totals = found[(found["step"] == 0) & (found["kind"] == _ENTROPY) & found["layer"].isna()]
        for value in totals["entropy"]:
            yield Row("knowledge entropy", float(value), moment=moment)


def _question_rows(arm: CklArm, run: TrainingRun, chances: pd.DataFrame) -> Iterator[Row]:
    """P of every question and F of a run; nothing where neither is tested."""
    tested = [
        against
        for against in arm.compared_with
        if ALL_TASKS not in untested(chances, arm.name, against)
    ]
    if not tested:
        return
    levels: dict[str, float] = {}
    for moment in arm.all_moments:
        questions = arm.questions(moment, run)
        if questions.empty:
            continue
        items = TASK_TABLE.items(questions)
        levels[moment] = items.score
        values = (items.means * items.weights * len(items.means)).tolist()
        for task, item, value in zip(questions["task"], questions["item"], values, strict=True):
            yield Row("P", value, moment=moment, cluster=f"{task}: {item}")
    for against, moment in arm.pairs():
        # Of an accuracy of 0 there is no share; against guessing it is not tested.
        if against in tested and moment in levels and levels.get(against, 0) > 0:
            share = forgetting(levels[against], levels[moment])
            yield Row("F", share, moment=moment, against=against)


def _encounter_rows(run: TrainingRun, spacing: str | None) -> Iterator[Row]:
    grid = look_grid([run])
    if isinstance(grid, str):
        return
    gains = passage_means(run.probe_scores.items, passage_gains(run, grid))
    for measure, values in gains.set_axis(PER_PASSAGE, axis=1).items():
        of = spacing if measure == NET_GAIN else None
        for (exposure, kind, passage), value in values.dropna().items():
            cluster = f"passage {passage}"
            yield Row(str(measure), value, exposure, kind, cluster=cluster, spacing=of)


def _curve_rows(curves: Mapping[str, ForgettingCurve]) -> Iterator[Row]:
    for exposure, curve in curves.items():
        line = curve.fits[DecayModel.LOG_LINEAR].aic
        values = {
            "slope": curve.slope,
            "AIC over power": curve.fits[DecayModel.POWER].aic - line,
            "AIC over exponential": curve.fits[DecayModel.EXPONENTIAL].aic - line,
        }
        for measure, value in values.items():
            # A shape that fits to the last bit has no criterion.
            if np.isfinite(value):
                yield Row(measure, value, exposure, ALL_KINDS)


def _refuse_not_finite(run: TrainingRun) -> None:
    for seen in (run, run.unedited):
        wrong = 0 if seen is None else int((~np.isfinite(seen.probe_scores.log_probs)).sum())
        if wrong:
            raise ValueError(
                f"{run.path} has {wrong} scores of probes that are not finite, which give no K; "
                "leave the run out"
            )


def _refuse_alike(runs: Sequence[TrainingRun], settings: Sequence[Mapping[str, Any]]) -> None:
    """Refuse runs that differ only in what the table does not have, by the K that each has."""
    none = dict.fromkeys(COLUMNS[Table.ACQUISITION])
    known = [
        {**none, **one, "measure": "K", SOURCE: str(run.path)}
        for run, one in zip(runs, settings, strict=True)
    ]
    of_one_source_each(Table.ACQUISITION, pd.DataFrame(known))


FIRST = "A"
RIGHT = "share right"
FIRST_LAYER, EFFECTIVE_LAYERS = "first layer", "effective layers"
_KINDS = {PrimaryKind.FACTOIDS: "factoid", PrimaryKind.INSTRUCTIONS: "non-factoid"}


def memorization_table(
    chains: Sequence[Chain], *, depths: pd.DataFrame | None = None
) -> pd.DataFrame:
    """What runs kept of the facts of stage A, at every moment from the end of stage A on.

    With `depths` (`fact_depths`) also where they are readable. `cluster` is all that is known of a
    fact, as JSON, so that runs with the same facts pair up.
    """
    columns = list(COLUMNS[Table.MEMORIZATION])
    found = [rows for chain in chains for rows in _rows(chain, depths)]
    if not found:
        return pd.DataFrame(columns=columns)
    table = of_one_source_each(Table.MEMORIZATION, pd.concat(found, ignore_index=True))
    return table[columns]


def fact_depths(chains: Sequence[Chain], items: int, *, k: int = TOP_K) -> pd.DataFrame:
    """The layers in which so many facts of stage A are readable after each stage."""
    arms = [arm for arm in remix_arms(chains) if not is_hooked(arm)] if chains else []
    read = ranks_by_model(arms, items, None)
    rows = [
        (str(chain.path), moment, *found)
        for arm in arms
        for chain in arm.runs
        for moment, key in model_keys(chain).items()
        if moment in chain.moments[1:]
        for found in _depth_rows(chain, localize(read[key][0], k, read[key][1]))
    ]
    return pd.DataFrame(rows, columns=["run", "moment", "measure", "cluster", "value"])


def _depth_rows(chain: Chain, found: Localization) -> Iterator[tuple[str, str | None, float]]:
    answers = chain.answers(FIRST, chain.moments[-1])
    assert answers is not None, "items of all stages are asked for at the end of each"
    for fact, layer in zip(answers.index, found.first_layer.tolist(), strict=False):
        if layer != NEVER:
            yield FIRST_LAYER, fact, float(layer)
    if (found.first_layer != NEVER).any():
        yield EFFECTIVE_LAYERS, None, found.effective_layers


def _rows(chain: Chain, depths: pd.DataFrame | None) -> Iterator[pd.DataFrame]:
    edit = edit_settings(chain.configuration)
    is_edited = any(value is not None for value in edit.values())
    if is_edited and chain.configuration["edit_before"] != FIRST:
        return
    settings = {
        **edit,
        **chain_settings(chain),
        **_amounts_of_chain(chain),
        SOURCE: str(chain.path),
    }
    data = chain.manifest["inputs"]["stages"][FIRST]["data"]
    was_tried = data["name"] == KEY_VALUE_RECALL or "familiarity" in data
    known = False if was_tried else None
    for items, familiar in ((FIRST, known), (FAMILIAR, True)):
        for moment in chain.moments[1:]:
            answers = chain.answers(items, moment)
            if answers is not None:
                found = pd.DataFrame({"cluster": answers.index, "value": answers.to_numpy()})
                yield found.assign(**settings, measure=RIGHT, moment=moment, familiar=familiar)
    if depths is not None:
        ours = depths[depths["run"] == str(chain.path)].drop(columns="run")
        yield ours.assign(**settings, familiar=known)


def chain_settings(chain: Chain) -> dict[str, Any]:
    """What the columns say of a run, but for its edit, moment, fact and whether it was familiar."""
    config = from_json(RemixConfig, {**chain.configuration, **chain.manifest["execution"]})
    first, *later = config.stages
    replays = config.replay is not Replay.NONE
    mix_first, *mix_later = map(_mixed_in, config.stages)
    ratios = [stage.mix_ratio for stage in config.stages if _mixed_in(stage) is not None]
    texts = [
        PurePath(config.mix_corpus).name if stage.mix == MixName.GENERIC else stage.mix
        for stage in config.stages
        if _mixed_in(stage) == MixName.GENERIC
    ]
    return {
        "seed": chain.seed,
        "first": PurePath(first.data).name,
        "later": "+".join(PurePath(stage.data).name for stage in later) or None,
        "later_kind": _only(_kind(chain, stage) for stage in later),
        "stages": len(config.stages),
        "mix_first": mix_first,
        "mix_later": "+".join(dict.fromkeys(map(str, mix_later))) if any(mix_later) else None,
        "mix_ratio": _only(ratios),
        "mix_words": config.mix_words if ratios else None,
        "mix_corpus": _only(texts),
        "equal": None if config.no_mix_control is None else str(config.no_mix_control),
        "replay": str(config.replay) if replays else None,
        "replay_ratio": config.replay_ratio if replays else None,
    }


def _amounts_of_chain(chain: Chain) -> dict[str, int]:
    first, *later = chain.stages.values()
    return {
        f"{what}_{place}": sum(int(number(stage)) for stage in stages)
        for place, stages in (("first", [first]), ("later", later))
        for what, number in (
            ("updates", lambda stage: stage.outcome["steps"]),
            ("tokens", lambda stage: stage.run.steps["trained_tokens"].sum()),
        )
    }


def _mixed_in(stage: StageConfig) -> str | None:
    """Random words, or passages of any text; None for nothing."""
    if stage.mix is None or stage.control is not None:
        return None
    return stage.mix if stage.mix == MixName.RANDOM else str(MixName.GENERIC)


def _kind(chain: Chain, stage: StageConfig) -> str:
    return _KINDS[PrimaryKind(chain.manifest["inputs"]["stages"][stage.name]["data"]["kind"])]


def _only(values: Iterable[Any]) -> Any:
    """The one value that there is; None where there are several, or none."""
    found = {*values}
    return found.pop() if len(found) == 1 else None
