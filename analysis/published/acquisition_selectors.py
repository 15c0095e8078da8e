"""Acquisition selectors: which runs and sweeps stand for a number of Kim et al. or Chang et al.

| numbers | stand for |
|---|---|
| Kim et al., figures | curves of entropies over checkpoints |
| Kim et al., tables | scores of unedited runs from checkpoints of all ages |
| Kim et al., text | correlations and gaps of these |
| Chang et al. | encounters and forgetting curves, in the arms of our claims about them |

A checkpoint stands for a published one where it is as far on the way to the last one, a recipe
where batch and learning rate are the same; else the usual one stands for the baseline, the largest
batch for the larger one, and the largest and smallest learning rate for these. New text stands for
PubMed.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.claims.catalogue import CLAIMS
from analysis.claims.choices import Extreme, Paper
from analysis.claims.designs import Contrast
from analysis.claims.measurements import NONE, Table
from analysis.claims.selection import (
    ACQUIRED,
    DOWNSTREAM,
    FORGOTTEN,
    KNOWN,
    MET,
    NO_PROBES,
    UNEDITED,
    Arm,
    Settings,
    along,
    matched,
    rows_with,
)
from analysis.numbers import shown_path
from analysis.published.comparing import Measured
from analysis.published.published_numbers import Published, Reading
from analysis.published.result_rows import PERCENT, ResultRows, measured, measured_arm, usual
from analysis.published.result_settings import FAMILIAR, NEW, novelty_of, published_model
from analysis.statistics.results import CheckpointCluster, CorrelationKind
from analysis.statistics.series import (
    LEAST_CHECKPOINTS,
    ScaleError,
    checkpoint_correlation,
)

_FREE = ("spacing",)
"""Settings that follow from what a run did, and need not agree between checkpoints."""


def acquisition_measured(
    published: Published, base: Published | None, rows: ResultRows
) -> Measured:
    """What results say of a number of Kim et al. or Chang et al."""
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
_YOUNGEST = 18_000 / 738_000
"""Updates at the first checkpoint of Figure 8, over those at the last."""
_ENDS = (
    Arm("last checkpoint", {"step": Extreme.LARGEST}),
    Arm("first checkpoint", {"step": Extreme.SMALLEST}),
)


def _curve(published: Published, rows: ResultRows) -> Measured:
    what, wanted = published.measure, published.conditions["corpus"]
    frame = rows.having(Table.PRETRAINING, {"measure": _ENTROPIES[what]}, what)
    has_layer = frame["layer"] != NONE
    frame = frame[has_layer if what == _BY_LAYER else ~has_layer]
    names = frame["corpus"].astype(str)
    is_same = names.str.casefold() == wanted.casefold()
    if not is_same.any():
        is_same = names.map(novelty_of) == novelty_of(wanted)
        if not is_same.any():
            raise ScaleError(f"no {what} over {novelty_of(wanted)} text")
    frame = usual(frame[is_same], "corpus")
    frame = frame[frame["step"] >= _YOUNGEST * frame["step"].max()]
    if frame["step"].nunique() == 1:
        raise ScaleError(f"one checkpoint of {what}, a change needs two")
    corpus = str(frame["corpus"].iloc[0])
    same = corpus.casefold() == wanted.casefold()
    curves = [curve for _, curve in frame.groupby(["measure", "layer"], sort=False)]
    first, last = (f"{int(place):,}" for place in (frame["step"].min(), frame["step"].max()))
    return measured(
        _farthest(curves, published),
        _weakest(curves, published),
        conditions={
            "corpus": wanted if same else shown_path(corpus),
            **rows.conditions(Table.PRETRAINING),
        },
        rows=f"{shown_path(corpus)}, steps {first} to {last}",
    )


def _farthest(curves: Sequence[pd.DataFrame], published: Published) -> pd.Series:
    """Values by seed at the point of the curves that is farthest from the published range."""
    assert published.low is not None
    assert published.high is not None
    middle = (published.low + published.high) / 2
    points = [
        point.groupby("seed")["value"].mean()
        for curve in curves
        for _, point in curve.groupby("step")
    ]
    return max(points, key=lambda values: abs(float(values.mean()) - middle))


def _weakest(curves: Sequence[pd.DataFrame], published: Published) -> pd.Series:
    """Changes by seed of the curve that goes the published way least."""
    assert published.told is not None
    sign = published.told.sign
    both = [matched(curve, Table.PRETRAINING, _ENDS) for curve in curves]
    return min((one[0] - one[1] for one in both), key=lambda change: sign * float(change.mean()))


# Kim et al., tables: scores of runs from checkpoints of all ages.

_SCORES: Mapping[str, Settings] = {"A": ACQUIRED, "F": FORGOTTEN, "K": KNOWN, "P": DOWNSTREAM}
_BASELINE, _EPOCHS, _ONE_EPOCH = "baseline", "3 epochs", "1"
_LARGER_BATCH = "batch size 2048"
_LARGER_RATE, _SMALLER_RATE = "learning rate 1e-3", "learning rate 1e-4"
_RECIPES = {
    _BASELINE: "paper-1b",
    _LARGER_BATCH: "batch-2048",
    _LARGER_RATE: "lr-1e-3",
    _SMALLER_RATE: "lr-1e-4",
    _EPOCHS: "three-epochs",
}
"""Recipes of `training.ckl` by their published names."""
_VARIED = {
    _LARGER_BATCH: "with a larger batch than the usual one",
    _LARGER_RATE: "at a larger learning rate than the usual one",
    _SMALLER_RATE: "at a smaller learning rate than the usual one",
}
_FIRST, _LAST = "118k", "738k"
"""The first and the last checkpoint of the tables, in updates."""
_NEAR = 0.1
"""Of the way to the last checkpoint: the most that two checkpoints differ that are as old."""


def _score(published: Published, base: Published | None, rows: ResultRows) -> Measured:
    name, recipe = published.measure, published.conditions["recipe"]
    frame = _runs_on(rows, _SCORES[name], NEW, name)
    settings = _recipe_settings(recipe, frame, rows)

    def aged(one: Published) -> Arm:
        return _checkpoint(one.conditions["checkpoint"], frame, settings)

    arm, known = aged(published), rows.conditions(Table.ACQUISITION)
    batch, rate = settings["batch_size"], settings["learning_rate"]
    is_published = "epochs" in known and settings == _published_settings(recipe)
    step = arm.settings["step"]
    assert isinstance(step, float)
    return measured_arm(
        frame,
        Table.ACQUISITION,
        arm,
        lambda: aged(base) if base else None,
        factor=1.0 if name == "K" else PERCENT,
        averaged=_FREE,
        conditions={
            **_run_conditions(frame, rows, NEW),
            "metric": known.get(
                f"metric of {'tasks' if name in 'FP' else 'knowledge'}", "not said"
            ),
            "recipe": recipe if is_published else f"batch {batch}, rate {rate}",
            "checkpoint": f"{round(step / 1000)}k",
        },
        rows=f"{arm.name}, batch {batch}, rate {rate:g}",
    )


def _runs_on(rows: ResultRows, where: Settings, novelty: str, what: str) -> pd.DataFrame:
    """Values of unedited runs on text of a kind, of the usual model and spacing of encounters."""
    words = f"{what}, unedited, on {novelty} text"
    if where["measure"] in ("F", "P"):
        words = f"{words} (not asked for, or its tasks are at chance)"
    found = rows.having(Table.ACQUISITION, {**UNEDITED, **where, "novelty": novelty}, words)
    return usual(found, "parameters", "interval")


def _run_conditions(frame: pd.DataFrame, rows: ResultRows, novelty: str) -> dict[str, str]:
    """What runs are known to have been made with."""
    known = rows.conditions(Table.ACQUISITION)
    models = {published_model(str(name)) for name in frame["trajectory"] if name != NONE}
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


def _recipe_settings(recipe: str, frame: pd.DataFrame, rows: ResultRows) -> Settings:
    """Batch and learning rate that stand for a published recipe."""
    epochs = rows.conditions(Table.ACQUISITION).get("epochs", _ONE_EPOCH)
    if (recipe == _EPOCHS) != (epochs != _ONE_EPOCH):
        which = "more than one epoch" if recipe == _EPOCHS else "one epoch"
        raise ScaleError(f"no runs of {which}")
    exact = _published_settings(recipe)
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
    same = (batch, rate) == (common["batch_size"], common["learning_rate"])
    if same and recipe in _VARIED:
        raise ScaleError(f"no runs {_VARIED[recipe]}")
    return {"batch_size": batch, "learning_rate": rate}


def _published_settings(recipe: str) -> Settings:
    from training.ckl_config import CKL_RECIPES

    config = CKL_RECIPES[_RECIPES[recipe]]()
    return {"batch_size": config.batch_size, "learning_rate": config.learning_rate}


# Kim et al., text: Pearson correlations of levels, as published (what drifts with age correlates
# anyway, which `analysis.claims` tests and this does not), and gaps in acquisition between the last
# and the first checkpoint of the tables.

_ENTROPY: Settings = {
    "measure": "knowledge entropy",
    "moment": "unedited start",
    "against": None,
    **NO_PROBES,
}


def _correlation(published: Published, rows: ResultRows) -> Measured:
    wanted = FORGOTTEN if "forgetting" in published.measure else ACQUIRED
    frame = _runs_on(rows, wanted, NEW, str(wanted["measure"]))
    settings = _recipe_settings(_BASELINE, frame, rows)
    both = matched(
        pd.concat([frame, _runs_on(rows, _ENTROPY, NEW, "knowledge entropy")]),
        Table.ACQUISITION,
        [Arm(str(one["measure"]), {**one, **settings}) for one in (_ENTROPY, wanted)],
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
    """A gap on one corpus, and its change from that on another of runs alike in all else."""
    novelty = novelty_of(published.conditions["corpus"])
    frame = _runs_on(rows, ACQUIRED, novelty, "A")
    gaps = _gaps(frame, (novelty,), rows)
    change, unchanged = gaps, ""
    if base is not None:
        other = novelty_of(base.conditions["corpus"])
        try:
            both = pd.concat([frame, _runs_on(rows, ACQUIRED, other, "A")])
            change = _gaps(both, (novelty, other), rows)
        except ScaleError as error:
            change, unchanged = None, str(error)
    return measured(
        gaps,
        change,
        unchanged=unchanged,
        conditions=_run_conditions(frame, rows, novelty),
        rows=f"{novelty} text, {_LAST} less {_FIRST} by their age",
    )


def _gaps(frame: pd.DataFrame, novelties: Sequence[str], rows: ResultRows) -> pd.Series:
    """The gap of each seed in percent, less that on other text where one is named."""
    settings = _recipe_settings(_BASELINE, frame, rows)
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
_TURNED = ("chang-threshold",)
"""Told of what the claim takes as its base."""
_FADING: Settings = {**UNEDITED, "measure": "slope", "moment": None, "against": None, **MET}


def _encounters(published: Published, rows: ResultRows) -> Measured:
    where: Settings = _FADING
    arm, base = Arm("all unedited runs", {"measure": "slope"}), None
    averaged = {*_FREE}
    if published.identifier in _CLAIMS:
        claim = CLAIMS[_CLAIMS[published.identifier]]
        assert isinstance(claim.design, Contrast)
        where, arm, base = claim.where, claim.design.arm, claim.design.base
        if published.identifier in _TURNED and base is not None:
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
