"""Findings of runs of continual knowledge learning, in plain sentences.

The page, the document and the terminal say them. Every sentence follows from the numbers of the
summary. Up to four arms are told one by one; of more, the lowest and the highest.
"""

import re
from collections.abc import Iterator

import pandas as pd

from analysis.arms import CklArm
from analysis.ckl_comparisons import ACQUIRED_INJECTED, FACTS_END, FORGOTTEN, K_INJECTED, P_END
from analysis.ckl_measures import ALL_KINDS, ALL_TASKS, MET
from analysis.ckl_report.summary import CklSummary
from analysis.ckl_report.tables import (
    acquired_text,
    forgotten_text,
    means_over_seeds,
    shown_by,
    signed_by,
)
from analysis.numbers import (
    capital,
    guessed,
    nats,
    one_seed,
    p_text,
    share,
    signed,
    steps_text,
    value_range,
    with_interval,
)
from analysis.observations import ENTROPIES, RECALLED, TEXT
from analysis.runs import Moment
from analysis.theme import count

KNOWLEDGE_ENTROPY = ENTROPIES["knowledge"]
TOLD = 4
"""So many arms are told one by one."""
FAR = 1000
"""A threshold that is so many times as far as what was seen is not told in steps."""


def kept_findings(summary: CklSummary) -> list[str]:
    """Forgetting, text and facts, forgetting curves, entropies."""
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
    """Text and facts, which measure forgetting where the tasks cannot."""
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


_LEVEL = 0.05
_NAMES = {ACQUIRED_INJECTED: "A right after the last injection", FORGOTTEN: "F at the end"}
"""Outcomes of a trajectory that are told."""


def findings(summary: CklSummary) -> list[str]:
    """What stands out."""
    return [
        *_stopped(summary),
        *_acquired(summary),
        *_held_out(summary),
        *_left(summary),
        *kept_findings(summary),
        *_trajectory(summary),
        *_compared(summary),
    ]


def _stopped(summary: CklSummary) -> Iterator[str]:
    runs = [run for arm in summary.arms for run in arm.runs]
    names = [run.name for run in runs if run.stopped is not None]
    if names:
        yield f"{len(names)} of {len(runs)} runs ended before their last step: {', '.join(names)}."


def _acquired(summary: CklSummary) -> Iterator[str]:
    if len(summary.arms) > TOLD:
        values = {arm.name: _a(summary, arm, MET, Moment.INJECTED)["value"] for arm in summary.arms}
        yield value_range("A right after the last injection", values, share)
        return
    for arm in summary.arms:
        row = _a(summary, arm, MET, Moment.INJECTED)
        seeds = acquired_text(summary, arm, Moment.INJECTED, seeds=True)
        against = acquired_text(summary, arm, Moment.INJECTED, against=Moment.UNEDITED)
        yield (
            f"{capital(arm.name)}: right after the last injection, K of the passages that were "
            f"met went from {nats(row['before'])} to {nats(row['after'])} nats, "
            f"A = {acquired_text(summary, arm, Moment.INJECTED)}"
            + (f" (seeds {seeds})" if seeds else "")
            + (f", {against} against the unedited start" if against else "")
            + f"; at the end A = {acquired_text(summary, arm, Moment.END)}."
        )


def _held_out(summary: CklSummary) -> Iterator[str]:
    """How much of the gain passages show that were never met."""
    rows = summary.beyond[summary.beyond["moment"] == Moment.INJECTED]
    if len(rows) > TOLD:
        yield value_range(
            "What passages met gained beyond held-out ones, right after the last injection,",
            dict(zip(rows["arm"], rows["value"], strict=True)),
            lambda value: f"{signed(value, nats)} nats",
        )
        above = int((rows["low"] > 0).sum())
        seeds = one_seed(pd.Series([len(arm.seeds) for arm in summary.arms]))
        yield (
            f"That is above 0 beyond its interval over passages{seeds} in {above} of {len(rows)} "
            "arms."
        )
        return
    for _, row in rows.iterrows():
        yield (
            f"{capital(row['arm'])}: held-out passages, which were never met, gained "
            f"{signed(row['held_out'], nats)} nats, passages met {signed(row['met'], nats)}; the "
            f"difference, which meeting them made, is {_difference(row)}."
        )


def _difference(row: pd.Series) -> str:
    shown = with_interval(row, lambda value: signed(value, nats))
    unsure = not pd.isna(row["low"]) and row["low"] <= 0 <= row["high"]
    return f"{shown} nats" + (", which chance may do as well" if unsure else "")


def _left(summary: CklSummary) -> Iterator[str]:
    """What share of the gain right after the last injection is left at the end."""
    left = {}
    for arm in summary.arms:
        injected, end = (_a(summary, arm, MET, m) for m in (Moment.INJECTED, Moment.END))
        if _gain(injected) > 0 and arm.moments[Moment.END] > arm.moments[Moment.INJECTED]:
            left[arm.name] = _gain(end) / _gain(injected)
    if len(summary.arms) > TOLD and left:
        yield value_range("The share of that gain that is left at the end", left, share)
        return
    for arm in summary.arms:
        if arm.name in left:
            later = arm.moments[Moment.END] - arm.moments[Moment.INJECTED]
            yield (
                f"{capital(arm.name)}: at the end, {count(later)} steps later, "
                f"{share(left[arm.name])} of the gain of passages met is there."
            )


def _trajectory(summary: CklSummary) -> Iterator[str]:
    rows = summary.correlations[summary.correlations["entropy"] == KNOWLEDGE_ENTROPY]
    for _, row in rows[rows["outcome"].isin(list(_NAMES))].iterrows():
        if pd.isna(row["rho"]):
            continue
        differences = ""
        if not pd.isna(row["rho_differences"]):
            differences = (
                "; of changes from each start to the next, which a common trend does not move, "
                f"{_rho(row, '_differences')}"
            )
        yield (
            f"Over {row['starts']} starts ({row['series']}), {_NAMES[row['outcome']]} and "
            f"knowledge entropy of the start have a rank correlation of {_rho(row, '')}"
            f"{differences}."
        )


def _rho(row: pd.Series, ending: str) -> str:
    ends = pd.Series({name: row[f"{name}{ending}"] for name in ("rho", "low", "high")}, dtype=float)
    shown = with_interval(ends, lambda value: signed(value, lambda v: nats(v, 2)), "rho")
    p = row[f"p_value{ending}"]
    verdict = "more than chance" if p < _LEVEL else "which chance may do"
    return f"{shown}, {verdict} (p {p_text(p)})"


def _compared(summary: CklSummary) -> Iterator[str]:
    """What was known after the last injection, and what was kept; the rest is in the table."""
    asked = summary.comparisons[summary.comparisons["measure"].isin([K_INJECTED, P_END, FACTS_END])]
    for measure, rows in asked.groupby("measure", sort=False):
        differ = rows[rows["p_holm"] < _LEVEL]
        if differ.empty and measure != K_INJECTED:
            continue
        shown = {
            row["arm"]: with_interval(row, signed_by(str(measure)), "effect")
            for _, row in differ.iterrows()
        }
        # Rounding alone can differ the same way in every item.
        told = {arm: text for arm, text in shown.items() if re.search("[1-9]", text)}
        each = "; ".join(f"{arm} by {text}" for arm, text in told.items())
        if len(told) < len(shown):
            each += f"; {len(shown) - len(told)} by nothing that can be shown"
        over = f"over {rows['of'].iloc[0]}{one_seed(rows['seeds'])}"
        yield (
            f"In {measure}, {len(differ)} of {len(rows)} arms differ from their base beyond chance "
            f"{over} (Holm, {share(_LEVEL)}){': ' if each else ''}{each.removeprefix('; ')}."
        )


def _a(summary: CklSummary, arm: CklArm, exposure: str, moment: str) -> pd.Series:
    """A against the start, mean over seeds; one row."""
    rows = means_over_seeds(
        summary.acquired, arm=arm.name, exposure=exposure, moment=moment, kind=ALL_KINDS
    )
    return rows[rows["against"] == Moment.START].iloc[0]


def _gain(row: pd.Series) -> float:
    return float(row["after"] - row["before"])
