"""Selectors: which runs and sweeps stand for a published number.

A checkpoint stands for a published one where it is as far on the way to the last one, a recipe
where batch and learning rate are the same; else the usual one stands for the baseline, the largest
batch for the larger one, and the largest and smallest learning rate for these. New text stands for
PubMed. A cell of Chen et al. stands for runs with the same data at both stages. Mixes are taken in
the amount that most runs have. Numbers of Chang et al. are those of the arms of our claims.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.claims.catalogue import CLAIMS
from analysis.claims.choices import Paper
from analysis.claims.designs import Contrast
from analysis.claims.selection import ARMS, ROWS, Arm, Settings, along, matched, rows_with
from analysis.correlations import (
    LEAST_CHECKPOINTS,
    CheckpointCluster,
    CorrelationKind,
    checkpoint_correlation,
)
from analysis.measurements import NONE, Table
from analysis.numbers import shown_path
from analysis.published.results import (
    FAMILIAR,
    MIX_CORPUS,
    NEW,
    PERCENT,
    PUBLISHED,
    Conditions,
    Measured,
    Published,
    Reading,
    ResultRows,
    measured,
    measured_arm,
    names_of_set,
    novelty_of,
    published_name,
    usual,
)
from analysis.significance import ScaleError

_FREE = ("spacing",)
"""Settings that follow from what a run did, and need not agree between checkpoints."""


def measured_of(published: Published, base: Published | None, rows: ResultRows) -> Measured:
    """What results say of a published number; `base` is what it is compared with there."""
    if published.paper is Paper.CONTINUAL_MEMORIZATION:
        return _kept(published, base, rows)
    if published.paper is Paper.FACTUAL_KNOWLEDGE:
        return _encounters(published, rows)
    if published.reading is Reading.TICKS:
        return _curve(published, rows)
    if "checkpoint" in published.conditions:
        return _score(published, base, rows)
    if published.unit == "correlation":
        return _correlation(published, rows)
    return _gap(published, base, rows)


# Kim et al., figures: the value of a curve is the one farthest from the middle of the published
# range, so that it is within only where the whole curve is. Its change is from the first checkpoint
# to the last one; of several curves (layers, two readings of one variant) the one that goes the
# published way least counts. Checkpoints younger than the first one shown are left out: an
# untrained model is no beginning of these curves.

_BY_LAYER = "knowledge entropy of a layer"
_ENTROPIES = {
    "knowledge entropy": ("|c|",),
    _BY_LAYER: ("|c|",),
    "knowledge entropy, ReLU": ("max(c, 0)", "|max(gate, 0) · up|"),
    "attention entropy": ("attention",),
    "next-token entropy": ("next-token",),
}
_YOUNGEST = 18_000 / 738_000  # updates at the first checkpoint of Figure 8, over those at the last


def _curve(published: Published, rows: ResultRows) -> Measured:
    assert published.goes is not None
    what, wanted = published.measure, published.conditions["corpus"]
    frame = rows.having(Table.PRETRAINING, {"measure": _ENTROPIES[what]}, what)
    frame = frame[(frame["layer"] != NONE) == (what == _BY_LAYER)]
    names = frame["corpus"].astype(str)
    same = names.str.casefold() == wanted.casefold()
    is_ours = same if same.any() else names.map(novelty_of) == novelty_of(wanted)
    if not is_ours.any():
        raise ScaleError(f"no {what} over {novelty_of(wanted)} text")
    frame = usual(frame[is_ours], "corpus")
    frame = frame[frame["step"] >= _YOUNGEST * frame["step"].max()]
    if frame["step"].nunique() == 1:
        raise ScaleError(f"one checkpoint of {what}, a change needs two")
    corpus = shown_path(str(frame["corpus"].iloc[0]))
    curves = [curve for _, curve in frame.groupby(["measure", "layer"], sort=False)]
    middle, sign = ((published.low or 0.0) + (published.high or 0.0)) / 2, published.goes.sign
    points = [
        point.groupby("seed")["value"].mean()
        for curve in curves
        for _, point in curve.groupby("step")
    ]
    ends = (ARMS["last checkpoint"], ARMS["first checkpoint"])
    both = [matched(curve, Table.PRETRAINING, ends) for curve in curves]
    first, last = (f"{int(place):,}" for place in (frame["step"].min(), frame["step"].max()))
    return measured(
        max(points, key=lambda values: abs(float(values.mean()) - middle)),
        min((one[0] - one[1] for one in both), key=lambda change: sign * float(change.mean())),
        conditions={
            "corpus": wanted if same.any() else corpus,
            **rows.conditions(Table.PRETRAINING),
        },
        rows=f"{corpus}, steps {first} to {last}",
    )


# Kim et al., tables: scores of runs from checkpoints of all ages.

_SCORES = {"A": "acquired", "F": "forgotten", "K": "known", "P": "downstream"}
_BASELINE, _EPOCHS, _ONE_EPOCH = "baseline", "3 epochs", 1
_LARGER_BATCH = "batch size 2048"
_LARGER_RATE, _SMALLER_RATE = "learning rate 1e-3", "learning rate 1e-4"
_RECIPES = {
    _BASELINE: ("paper-1b", ""),
    _EPOCHS: ("three-epochs", ""),
    _LARGER_BATCH: ("batch-2048", "with a larger batch than the usual one"),
    _LARGER_RATE: ("lr-1e-3", "at a larger learning rate than the usual one"),
    _SMALLER_RATE: ("lr-1e-4", "at a smaller learning rate than the usual one"),
}
"""Recipes of `training.ckl` by their published names, and what is other than usual in them."""
_FIRST, _LAST = "118k", "738k"  # the first and the last checkpoint of the tables, in updates
_NEAR = 0.1  # the most that checkpoints as old differ, as a share of the way to the last one


def _score(published: Published, base: Published | None, rows: ResultRows) -> Measured:
    name, recipe = published.measure, published.conditions["recipe"]
    frame = _runs_on(rows, ROWS[_SCORES[name]], NEW, name, recipe)
    settings = _recipe_settings(recipe, frame)

    def aged(one: Published) -> Arm:
        return _checkpoint(one.conditions["checkpoint"], frame, settings)

    arm, known = aged(published), rows.conditions(Table.ACQUISITION)
    batch, rate, step = *settings.values(), arm.settings["step"]
    assert isinstance(step, float)
    is_published = {"epochs": frame["epochs"].iloc[0], **settings} == _published_settings(recipe)
    metric = f"metric of {'tasks' if name in 'FP' else 'knowledge'}"
    return measured_arm(
        frame,
        Table.ACQUISITION,
        arm,
        lambda: aged(base) if base else None,
        factor=1.0 if name == "K" else PERCENT,
        averaged=_FREE,
        conditions={
            **_run_conditions(frame, rows, NEW),
            "metric": known.get(metric, "not said"),
            "recipe": recipe if is_published else f"batch {batch}, rate {rate}",
            "checkpoint": f"{round(step / 1000)}k",
        },
        rows=f"{arm.name}, batch {batch}, rate {rate:g}",
    )


def _runs_on(
    rows: ResultRows, where: Settings, novelty: str, what: str, recipe: str = _BASELINE
) -> pd.DataFrame:
    """Values of unedited runs on text of a kind, of the usual model and spacing of encounters."""
    words = f"{what}, unedited, on {novelty} text"
    if where["measure"] in ("F", "P"):
        words = f"{words} (not asked for, or its tasks are at chance)"
    found = rows.having(Table.ACQUISITION, {**ROWS["unedited"], **where, "novelty": novelty}, words)
    found = found[(found["epochs"] > _ONE_EPOCH) == (recipe == _EPOCHS)]
    if found.empty:
        which = "more than one epoch" if recipe == _EPOCHS else "one epoch"
        raise ScaleError(f"no runs of {which}")
    # Larger batches are over the same text, with encounters at the same places of it.
    return usual(found, "parameters", "interval_rows" if recipe == _LARGER_BATCH else "interval")


def _run_conditions(frame: pd.DataFrame, rows: ResultRows, novelty: str) -> dict[str, str]:
    known = rows.conditions(Table.ACQUISITION)
    models = {published_name("model", str(name)) for name in frame["trajectory"] if name != NONE}
    corpus = {"corpus": known[f"{novelty} corpus"]} if f"{novelty} corpus" in known else {}
    return {"model": " and ".join(sorted(models)) or "not said", **known, **corpus}


def _checkpoint(wanted: str, frame: pd.DataFrame, settings: Settings) -> Arm:
    """The checkpoint of a recipe that stands for a published one, such as "369k"."""
    steps = sorted({float(step) for step in frame["step"] if step != NONE})
    if not steps:
        raise ScaleError("it is not known how old the starts are")
    goal = float(wanted.removesuffix("k")) / float(_LAST.removesuffix("k"))
    step = min(steps, key=lambda each: abs(each / steps[-1] - goal))
    if abs(step / steps[-1] - goal) > _NEAR:
        raise ScaleError(f"no checkpoint at {goal:.0%} of the last step, where {wanted} is")
    return Arm(f"step {step:,.0f} for {wanted}", {"step": step, **settings})


def _recipe_settings(recipe: str, frame: pd.DataFrame) -> Settings:
    exact = {n: v for n, v in _published_settings(recipe).items() if n != "epochs"}
    if len(rows_with(frame, exact)):
        return exact
    common = usual(frame, "batch_size", "learning_rate").iloc[0]
    batch, rate = common["batch_size"], common["learning_rate"]
    if recipe == _LARGER_BATCH:
        batch = max(frame["batch_size"])
        rate = usual(frame[frame["batch_size"] == batch], "learning_rate")["learning_rate"].iloc[0]
    rates = frame[frame["batch_size"] == batch]["learning_rate"]
    if recipe in (_LARGER_RATE, _SMALLER_RATE):
        rate = max(rates) if recipe == _LARGER_RATE else min(rates)
    _, varied = _RECIPES[recipe]
    if varied and (batch, rate) == (common["batch_size"], common["learning_rate"]):
        raise ScaleError(f"no runs {varied}")
    return {"batch_size": batch, "learning_rate": rate}


def _published_settings(recipe: str) -> Settings:
    from training.ckl_config import CKL_RECIPES

    config = CKL_RECIPES[_RECIPES[recipe][0]]()
    names = ("epochs", "batch_size", "learning_rate")
    return {name: getattr(config, name) for name in names}


# Kim et al., text: Pearson correlations of levels, as published (what drifts with age correlates
# anyway, which `analysis.claims` tests and this does not), and gaps in acquisition between the last
# and the first checkpoint of the tables.


def _correlation(published: Published, rows: ResultRows) -> Measured:
    wanted = ROWS["forgotten" if "forgetting" in published.measure else "acquired"]
    entropy = ARMS["knowledge entropy of the start"].settings
    frame = _runs_on(rows, wanted, NEW, str(wanted["measure"]))
    settings = _recipe_settings(_BASELINE, frame)
    both = matched(
        pd.concat([frame, _runs_on(rows, entropy, NEW, "knowledge entropy")]),
        Table.ACQUISITION,
        [Arm(str(one["measure"]), {**one, **settings}) for one in (entropy, wanted)],
        _FREE,
    )
    cause, outcome = (along(both[place], "step", LEAST_CHECKPOINTS) for place in (0, 1))
    x, y = (each.to_numpy(dtype=float) for each in (cause, outcome))
    clock = np.log1p(np.array(outcome.columns, dtype=np.float64))
    kinds = (CheckpointCluster.CHECKPOINT, CorrelationKind.PEARSON)
    found = checkpoint_correlation(x, y, clock, *kinds).levels
    return Measured(
        value=found.effect,
        interval=found.interval,
        change=found.effect,
        change_interval=found.interval,
        seeds=len(y),
        conditions=_run_conditions(frame, rows, NEW),
        rows=f"{found.n} checkpoints",
    )


def _gap(published: Published, base: Published | None, rows: ResultRows) -> Measured:
    novelty = novelty_of(published.conditions["corpus"])
    frame = _runs_on(rows, ROWS["acquired"], novelty, "A")
    gaps = _gaps(frame, (novelty,))
    change, unchanged = gaps, ""
    if base is not None:
        other = novelty_of(base.conditions["corpus"])
        try:
            both = pd.concat([frame, _runs_on(rows, ROWS["acquired"], other, "A")])
            change = _gaps(both, (novelty, other))
        except ScaleError as error:
            change, unchanged = None, str(error)
    return measured(
        gaps,
        change,
        unchanged=unchanged,
        conditions=_run_conditions(frame, rows, novelty),
        rows=f"{novelty} text, {_LAST} less {_FIRST} by their age",
    )


def _gaps(frame: pd.DataFrame, novelties: Sequence[str]) -> pd.Series:
    """The gap of each seed in percent, less that on other text where one is named."""
    settings = _recipe_settings(_BASELINE, frame)
    ages = [_checkpoint(name, frame, settings) for name in (_LAST, _FIRST)]
    arms = [
        Arm(f"{age.name} on {novelty} text", {**age.settings, "novelty": novelty})
        for novelty in novelties
        for age in ages
    ]
    found = matched(frame, Table.ACQUISITION, arms, _FREE).groupby(level="seed").mean()
    gap = found[0] - found[1]
    return PERCENT * (gap - (found[2] - found[3]) if len(novelties) > 1 else gap)


# Chang et al.: what encounters add and how it fades, in the arms of the claims about the same.

_CLAIMS: Mapping[str, str] = {
    "chang-effectivity": "encounters-raise",
    "chang-size": "larger-models-acquire-more",
    "chang-duplication": "duplication-forgets-faster",
    "chang-batch-size": "larger-batches-forget-more-slowly",
    "chang-threshold": "encounters-within-the-threshold-add-up",
}


def _encounters(published: Published, rows: ResultRows) -> Measured:
    where: Settings = {**ROWS["unedited"], **ROWS["per passage"], "measure": "slope"}
    arm, base, averaged = Arm("all unedited runs", {"measure": "slope"}), None, {*_FREE}
    if published.identifier in _CLAIMS:
        claim = CLAIMS[_CLAIMS[published.identifier]]
        assert isinstance(claim.design, Contrast)
        where, arm, base = claim.where, claim.design.arm, claim.design.base
        if published.identifier == "chang-threshold" and base is not None:
            # The number is of what the claim takes as its base.
            arm, base = base, arm
        averaged = {*claim.design.averaged, *_FREE} - set(arm.settings)
    frame = rows.having(Table.ACQUISITION, where, str(where["measure"]))
    both = matched(frame, Table.ACQUISITION, [arm] if base is None else [arm, base], averaged)
    return measured(
        both[0],
        both[0] if base is None else both[0] - both[1],
        conditions=_run_conditions(frame, rows, FAMILIAR),
        rows=arm.name,
    )


# Chen et al.: shares of facts kept.

_OTHER_MEAN, _TWO_STAGES, _IN_DOMAIN = "other mean", "two stages", "ID"
_FACTOID_SETS, _OTHER_SETS = {"LAMA", "EQ", "WQ"}, {"GSM8K", "MATH", "EC", "APPS", "UC"}
_KINDS: Mapping[str, Settings] = {
    "factoid mean": ROWS["factoid"],
    _OTHER_MEAN: ROWS["non-factoid"],
    _TWO_STAGES: ROWS["factoid"],
}
_GENERIC = "generic"
_CORPORA = ("knowledge pile", "arxiv", "fineweb")
"""Generic text; the first is what the paper means by it where it says no more."""
_MIXES: Mapping[str, Arm] = {
    "none": ARMS["no mix at A, none later"],
    "random at A": ARMS["random mix at A, none later"],
    "generic at A": ARMS["generic mix at A, none later"],
    **dict.fromkeys(("random later", "random"), ARMS["no mix at A, random later"]),
    "both": ARMS["random mix at A, generic later"],
    **dict.fromkeys(("generic later", *_CORPORA), ARMS["no mix at A, generic later"]),
}
"""Mixes by their names in the tables."""
_NO_AMOUNT: Settings = {"mix_ratio": None, "mix_words": None, "mix_corpus": None}
_UNMIXED: Settings = {**_MIXES["none"].settings, **ROWS["no replay"], **_NO_AMOUNT}


def _kept(published: Published, base: Published | None, rows: ResultRows) -> Measured:
    frame = _with_data_of(published, rows)
    arm = _mix_or_replay(published, frame)
    kind = _KINDS.get(published.conditions["later"], {})

    def other() -> Arm | None:
        if base is not None:
            return _mix_or_replay(base, frame)
        # The text compares with no mix and no replay.
        return None if published.goes is None else Arm("no mix", {**_UNMIXED, **kind})

    across = base is not None and base.conditions["later"] != published.conditions["later"]
    later_sets = rows_with(frame, arm.settings)["later"].unique()
    later = {published_name("data set", str(name)) for name in later_sets}
    return measured_arm(
        frame,
        Table.MEMORIZATION,
        arm,
        other,
        factor=PERCENT,
        averaged=("later",) if across else (),
        conditions=_kept_conditions(published, arm, later, rows.conditions(Table.MEMORIZATION)),
        rows=f"{arm.name}; {', '.join(sorted(later))} later",
    )


def _with_data_of(published: Published, rows: ResultRows) -> pd.DataFrame:
    wanted = published.conditions
    first, later = wanted["first"], wanted["later"]
    familiar = wanted.get("facts") == FAMILIAR
    stages: Settings = {"stages": 3, "moment": "after C"} if later == _TWO_STAGES else {}
    data: Settings = {"equal": None, "first": names_of_set(first), "familiar": familiar}
    words = f"{'familiar ' if familiar else ''}{first} at stage A, {'three' if stages else 'two'}"
    where = {**ROWS["right"], **ROWS["unedited"], **data, **stages}
    frame = rows.having(Table.MEMORIZATION, where, f"{words} stages")
    if later in _KINDS:
        return frame
    found = rows_with(frame, {"later": names_of_set(first if later == _IN_DOMAIN else later)})
    if found.empty:
        raise ScaleError(f"no results of {words} stages with {later} later")
    return found


def _mix_or_replay(published: Published, frame: pd.DataFrame) -> Arm:
    wanted = published.conditions
    kind = _KINDS.get(wanted["later"], {})
    if "replay ratio" in wanted:
        ratio = float(wanted["replay ratio"])
        if not ratio:
            return Arm("no replay", {**_UNMIXED, **kind})
        again: Settings = {"replay": "items", "replay_ratio": ratio}
        return Arm(f"{100 * ratio:g} % replay", {**_UNMIXED, **again, **kind})
    mix = _MIXES[wanted.get("mix", wanted.get("mix later", "none"))]
    settings = {**mix.settings, **ROWS["no replay"], **kind}
    found = rows_with(frame, settings)
    if found.empty:
        raise ScaleError(f"no rows of: {mix.name}")
    amount = usual(found, *_NO_AMOUNT).iloc[0]
    amounts = {name: None if amount[name] == NONE else amount[name] for name in _NO_AMOUNT}
    return Arm(mix.name, {**settings, **amounts})


def _kept_conditions(
    published: Published, arm: Arm, later: set[str], known: Conditions
) -> dict[str, str]:
    """What is known of the runs; what they were chosen by is met."""
    wanted = published.conditions
    chosen = ("first", "facts", "mix", "replay ratio", "mix later")
    met = {name: wanted[name] for name in chosen if name in wanted}
    if _GENERIC in (arm.settings["mix_first"], arm.settings["mix_later"]):
        # A mix of generic text is a published one where the text is the same.
        name = "mix" if "mix" in wanted else "mix later"
        text = known.get(MIX_CORPUS, "not said")
        same = text == (wanted[name] if wanted[name] in _CORPORA else _CORPORA[0])
        met[name] = wanted[name] if same else f"{_GENERIC} text: {text}"
    full = wanted["later"] not in _KINDS or later == _mean_sets(published)
    met["later"] = wanted["later"] if full else " and ".join(sorted(later))
    ratio, words, _ = (arm.settings[name] for name in _NO_AMOUNT)
    # Wherever something is mixed in, it is this for each item of a stage.
    usual_amount = "2 items of 50 words"
    met["mixing"] = usual_amount if ratio is None else f"{ratio:g} items of {words:g} words"
    return {**met, **known}


def _mean_sets(published: Published) -> set[str]:
    """The later sets that a mean is over; those of three stages are not said."""
    later, first = published.conditions["later"], published.conditions["first"]
    if later != "factoid mean":
        return {_TWO_STAGES} if later == _TWO_STAGES else _OTHER_SETS
    in_domain = published.identifier.replace("factoid-mean", _IN_DOMAIN)
    has_own = in_domain != published.identifier and in_domain in PUBLISHED
    return _FACTOID_SETS | {first} if has_own else _FACTOID_SETS
