"""Findings about what was kept and forgotten, in plain sentences.

Example:
    >>> kept_findings(summary)[0]                                            # doctest: +SKIP
    'F is not tested: no downstream tasks were asked.'
"""

from collections.abc import Iterator

import pandas as pd

from analysis.ckl_report.arms import Moment
from analysis.ckl_report.forgetting import ALL_TASKS
from analysis.ckl_report.levels import ENTROPIES, RECALLED, TEXT
from analysis.ckl_report.scores import ALL_KINDS
from analysis.ckl_report.summary import CklSummary
from analysis.ckl_report.tables import forgotten_text, means_over_seeds
from analysis.ckl_report.texts import shown_by, signed_by
from analysis.report_texts import (
    capital,
    guessed,
    nats,
    share,
    signed,
    steps_text,
    value_range,
    with_interval,
)

KNOWLEDGE_ENTROPY = ENTROPIES["knowledge"]
TOLD = 4
"""So many arms are told one by one."""
FAR = 1000
"""A threshold that is so many times as far as what was seen is not told in steps."""


def kept_findings(summary: CklSummary) -> list[str]:
    """Forgetting, text and facts, forgetting curves, entropies.

    Args:
        summary: of the runs.
    """
    return [*_forgotten(summary), *_moved(summary), *_curves(summary), *_entropies(summary)]


def _forgotten(summary: CklSummary) -> Iterator[str]:
    rows = means_over_seeds(
        summary.forgotten, task=ALL_TASKS, moment=Moment.END, against=Moment.START
    )
    if rows.empty:
        yield "F is not tested: no downstream tasks were asked."
    yield from _untested(rows[rows["reason"].notna()], len(rows))
    tested = rows[rows["reason"].isna()]
    if len(tested) > TOLD:
        values = dict(zip(tested["arm"], tested["value"], strict=True))
        yield value_range("F at the end", values, share)
        return
    for _, row in tested.iterrows():
        yield (
            f"{capital(row['arm'])}: P went from {share(row['before'])} to {share(row['after'])} "
            f"at the end, F = {forgotten_text(row)}."
        )


def _untested(rows: pd.DataFrame, arms: int) -> Iterator[str]:
    if len(rows) > TOLD:
        row = rows.iloc[0]
        yield (
            f"F is not tested for {len(rows)} of {arms} arms, at whose starts no task is answered "
            f"better than by guessing. {capital(row['arm'])}, for one: {row['reason']}."
        )
        return
    for _, row in rows.iterrows():
        yield f"{capital(row['arm'])}: F is not tested; {row['reason']}."


def _moved(summary: CklSummary) -> Iterator[str]:
    """Text and facts, which measure forgetting where the tasks cannot.

    What facts are worth in nats is left to the tables.
    """
    rows = summary.changes[
        (summary.changes["moment"] == Moment.END)
        & (summary.changes["against"] == Moment.START)
        & ((summary.changes["group"] == TEXT) | (summary.changes["measure"] == RECALLED))
    ]
    for measure, ours in rows.groupby("measure", sort=False):
        name, show = capital(str(measure)), shown_by(str(measure))
        if measure == RECALLED and (chance := guessed(summary.guessing)):
            name = f"{name} ({chance})"
        if len(ours) > TOLD:
            changes = dict(zip(ours["arm"], ours["change"], strict=True))
            yield value_range(
                f"{name}: the change from start to end", changes, signed_by(str(measure))
            )
            continue
        each = "; ".join(
            f"{row['arm']} {show(row['before'])} to {show(row['after'])}"
            for _, row in ours.iterrows()
        )
        yield f"{name}, from start to end: {each}."


def _curves(summary: CklSummary) -> Iterator[str]:
    rows = summary.curves[summary.curves["kind"] == ALL_KINDS]
    if len(rows) <= TOLD:
        yield from (_curve(row) for _, row in rows.iterrows())
    else:
        for exposure, ours in rows.groupby("exposure", sort=False):
            yield (
                f"Slopes of the forgetting curves of {str(exposure).replace('_', ' ')} passages "
                f"run from {signed(ours['slope'].min(), nats)} to "
                f"{signed(ours['slope'].max(), nats)} per decade of steps, over {len(ours)} arms."
            )
    reasons: dict[str, list[str]] = {}
    for arm, reason in summary.without_curve.items():
        reasons.setdefault(reason, []).append(arm)
    for reason, arms in reasons.items():
        which = "; ".join(arms) if len(arms) <= TOLD else f"{len(arms)} arms"
        yield f"No forgetting curve, or not all ({which}): {reason}."


def _curve(row: pd.Series) -> str:
    slope = with_interval(row, lambda value: signed(value, nats), "slope")
    ending = "and does not fall"
    if row["threshold"] != float("inf"):
        beyond = ", beyond what was seen" if row["threshold"] > row["last"] else ""
        ending = f"and reaches zero after {steps_text(row['threshold'])} steps{beyond}"
        if row["threshold"] > FAR * row["last"]:
            ending = "and reaches zero far beyond what was seen"
    return (
        f"{capital(row['arm'])}, {row['exposure'].replace('_', ' ')} passages: the share of what "
        f"encounters gained that is left changes by {slope} per decade of steps ({row['first']} to "
        f"{row['last']} steps after the last maximum, R\N{SUPERSCRIPT TWO} "
        f"{nats(row['r_squared'], 2)}), {ending}."
    )


def _entropies(summary: CklSummary) -> Iterator[str]:
    levels = means_over_seeds(summary.levels, measure=KNOWLEDGE_ENTROPY)
    values = levels.set_index(["arm", "moment"])["value"]
    arms = [arm for arm in summary.arms if (arm.name, Moment.END) in values.index]
    if len(arms) > TOLD:
        moved = {
            arm.name: values[arm.name, Moment.END] - values[arm.name, Moment.START] for arm in arms
        }
        yield value_range(
            "The change of knowledge entropy in training",
            moved,
            lambda value: f"{signed(value, nats)} nats",
        )
        return
    for arm in arms:
        edited = f"{nats(values[arm.name, Moment.UNEDITED])} unedited, " if arm.is_edited else ""
        yield (
            f"{capital(arm.name)}: knowledge entropy {edited}"
            f"{nats(values[arm.name, Moment.START])} nats at the start, "
            f"{nats(values[arm.name, Moment.END])} at the end."
        )
