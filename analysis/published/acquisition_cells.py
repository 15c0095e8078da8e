"""Acquisition cells: published scores of checkpoints of all ages against runs of ours.

A checkpoint stands for a published one where it is as far on the way to the last one. A recipe
stands for a published one where batch and learning rate are the same; else the usual one stands for
the baseline, the largest batch for the larger one, and the largest and smallest learning rate for
these. New text stands for PubMed.
"""

from collections.abc import Mapping

import pandas as pd

from analysis.claims.knowledge_settings import ACQUIRED, DOWNSTREAM, FORGOTTEN, KNOWN
from analysis.claims.measurements import NONE, Table
from analysis.claims.selection import UNEDITED, Arm, Settings, rows_with
from analysis.published.comparing import Measured
from analysis.published.knowledge_entropy import CHECKPOINTS
from analysis.published.records import Published
from analysis.published.result_names import NEW, published_model
from analysis.published.result_rows import ResultRows, measured_arm, usual
from analysis.statistics.tests import ScaleError

PERCENT = 100.0
_WHERE: Mapping[str, Settings] = {"A": ACQUIRED, "F": FORGOTTEN, "K": KNOWN, "P": DOWNSTREAM}
_FACTORS = {"A": PERCENT, "F": PERCENT, "K": 1.0, "P": PERCENT}
_OF_TASKS = "FP"
BASELINE, EPOCHS, ONE_EPOCH = "baseline", "3 epochs", "1"
_LARGER_BATCH, _LARGER_RATE, _SMALLER_RATE = (
    "batch size 2048",
    "learning rate 1e-3",
    "learning rate 1e-4",
)
_RECIPES = {
    BASELINE: "paper-1b",
    _LARGER_BATCH: "batch-2048",
    _LARGER_RATE: "lr-1e-3",
    _SMALLER_RATE: "lr-1e-4",
    EPOCHS: "three-epochs",
}
"""Recipes of `training.ckl` by their published names."""
_VARIED = {
    _LARGER_BATCH: "with a larger batch than the usual one",
    _LARGER_RATE: "at a larger learning rate than the usual one",
    _SMALLER_RATE: "at a smaller learning rate than the usual one",
}
NEAR = 0.1
"""Of the way to the last checkpoint: the most that two checkpoints differ that are as old."""
THOUSAND = 1000
FREE = ("spacing",)
"""Settings that follow from what a run did, and need not agree between checkpoints."""


def measure_cell(published: Published, base: Published | None, rows: ResultRows) -> Measured:
    """What results say of a number of Tables 1 and 2."""
    measure, recipe = published.measure, published.conditions["recipe"]
    frame = runs_on(rows, _WHERE[measure], NEW, measure)
    settings = recipe_settings(recipe, frame, rows)

    def aged(one: Published) -> Arm:
        return checkpoint_arm(one.conditions["checkpoint"], frame, settings)

    arm = aged(published)
    return measured_arm(
        frame,
        Table.ACQUISITION,
        arm,
        lambda: aged(base) if base else None,
        factor=_FACTORS[measure],
        averaged=FREE,
        conditions={
            **conditions_of(frame, rows, NEW),
            "metric": _metric(measure, rows),
            "recipe": _same_recipe(recipe, settings, rows),
            "checkpoint": f"{round(_number(arm, 'step') / THOUSAND)}k",
        },
        rows=f"{arm.name}, batch {settings['batch_size']}, rate {settings['learning_rate']:g}",
    )


def runs_on(rows: ResultRows, where: Settings, novelty: str, what: str) -> pd.DataFrame:
    """Values of unedited runs on text of a kind, of the usual model and spacing of encounters."""
    words = f"{what}, unedited, on {novelty} text"
    if where["measure"] in ("F", "P"):
        words = f"{words} (not asked for, or its tasks are at chance)"
    found = rows.having(Table.ACQUISITION, {**UNEDITED, **where, "novelty": novelty}, words)
    return usual(found, "parameters", "interval")


def conditions_of(frame: pd.DataFrame, rows: ResultRows, novelty: str) -> dict[str, str]:
    """What runs are known to have been made with."""
    said = rows.conditions(Table.ACQUISITION)
    models = {published_model(str(name)) for name in frame["trajectory"] if name != NONE}
    corpus = {"corpus": said[f"{novelty} corpus"]} if f"{novelty} corpus" in said else {}
    return {"model": " and ".join(sorted(models)) or "not said", **said, **corpus}


def checkpoint_arm(wanted: str, frame: pd.DataFrame, settings: Settings) -> Arm:
    """The checkpoint that stands for a published one."""
    steps = sorted({float(step) for step in frame["step"] if step != NONE})
    if not steps:
        raise ScaleError("it is not known how old the starts are")
    goal = _thousands(wanted) / _thousands(CHECKPOINTS[-1])
    step = min(steps, key=lambda each: abs(each / steps[-1] - goal))
    if abs(step / steps[-1] - goal) > NEAR:
        raise ScaleError(f"no checkpoint at {goal:.0%} of the last step, where {wanted} is")
    return Arm(f"step {step:,.0f} for {wanted}", {"step": step, **settings})


def recipe_settings(recipe: str, frame: pd.DataFrame, rows: ResultRows) -> Settings:
    """Batch and learning rate that stand for a published recipe."""
    if (recipe == EPOCHS) != _several_epochs(rows):
        which = "more than one epoch" if recipe == EPOCHS else "one epoch"
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
    if same and recipe not in (BASELINE, EPOCHS):
        raise ScaleError(f"no runs {_VARIED[recipe]}")
    return {"batch_size": batch, "learning_rate": rate}


def _same_recipe(recipe: str, settings: Settings, rows: ResultRows) -> str:
    """The published recipe where settings are its own, else what they are."""
    if "epochs" in rows.conditions(Table.ACQUISITION) and settings == _published_settings(recipe):
        return recipe
    return f"batch {settings['batch_size']}, rate {settings['learning_rate']}"


def _several_epochs(rows: ResultRows) -> bool:
    return rows.conditions(Table.ACQUISITION).get("epochs", ONE_EPOCH) != ONE_EPOCH


def _published_settings(recipe: str) -> Settings:
    from training.ckl.recipes import CKL_RECIPES

    config = CKL_RECIPES[_RECIPES[recipe]]()
    return {"batch_size": config.batch_size, "learning_rate": config.learning_rate}


def _metric(measure: str, rows: ResultRows) -> str:
    of = "tasks" if measure in _OF_TASKS else "knowledge"
    return rows.conditions(Table.ACQUISITION).get(f"metric of {of}", "not said")


def _thousands(checkpoint: str) -> float:
    return float(checkpoint.removesuffix("k"))


def _number(arm: Arm, column: str) -> float:
    found = arm.settings[column]
    assert isinstance(found, int | float)
    return float(found)
