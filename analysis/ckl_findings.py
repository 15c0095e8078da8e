"""Findings of runs of continual knowledge learning, in plain sentences.

Every sentence follows from the tables of the summary. Up to four arms have sentences of their own;
of more, the lowest and the highest are named.
"""

from collections.abc import Iterator

import pandas as pd

from analysis.arm_report import (
    LEVEL,
    MOST_ARMS,
    Cells,
    Summary,
    cells,
    differing,
    each_or_range,
    say,
    texts,
)
from analysis.ckl_measures import ALL_KINDS
from analysis.ckl_summary import (
    ACQUIRED_INJECTED,
    END,
    FACTS_END,
    FORGOTTEN,
    INJECTED,
    K_INJECTED,
    MET,
    P_END,
    START,
    acquired_rows,
    forgotten_rows,
    moved_rows,
    with_shows,
)
from analysis.numbers import capital, guessed, one_seed, share, signed_nats, steps_text
from analysis.observations import ENTROPIES, RECALLED, TEXT, guessing, rows_where
from analysis.runs import Moment

KNOWLEDGE_ENTROPY = ENTROPIES["knowledge"]
_FAR = 1000
"""A threshold that is so many times as far as what was seen is not given in steps."""
_OUTCOMES = {ACQUIRED_INJECTED: "A right after the last injection", FORGOTTEN: "F at the end"}
"""Outcomes of a trajectory that have sentences."""


def findings(summary: Summary) -> list[str]:
    """What stands out."""
    return [
        *_stopped(summary),
        *_acquired(summary),
        *_held_out(summary),
        *_left(summary),
        *_forgotten(summary),
        *_moved(summary),
        *_curves(summary),
        *_entropies(summary),
        *_trajectory(summary),
        *_compared(summary),
    ]


def _stopped(summary: Summary) -> Iterator[str]:
    """Which runs ended early."""
    runs = [run for arm in summary.arms for run in arm.runs]
    names = [run.name for run in runs if run.stopped is not None]
    if names:
        yield f"{len(names)} of {len(runs)} runs ended before their last step: {', '.join(names)}."


def _acquired(summary: Summary) -> Iterator[str]:
    end = cells(acquired_rows(summary, END), "{value:share~}")
    unedited = acquired_rows(summary, INJECTED, against=Moment.UNEDITED)
    beside = {
        "seeds": {arm: f" (seeds {seeds})" for arm, seeds in acquired_seeds(summary).items()},
        "unedited": cells(unedited, ", {value:share~} against the unedited start"),
    }
    rows = acquired_rows(summary, INJECTED)
    more = {of: [known.get(arm, "") for arm in rows["arm"]] for of, known in beside.items()}
    return each_or_range(
        "A right after the last injection",
        rows.assign(**more, end=rows["arm"].map(end)),
        "{value:share}",
        "{arm:capital}: right after the last injection, K of the passages that were met went from "
        "{before:nats} to {after:nats} nats, A = {value:share~}{seeds}{unedited}; at the end A = "
        "{end}.",
    )


def _held_out(summary: Summary) -> Iterator[str]:
    """How much of the gain passages show that were never met."""
    rows = rows_where(summary["beyond"], moment=INJECTED)
    unsure = (rows["low"] <= 0) & (rows["high"] >= 0)
    yield from each_or_range(
        "What passages met gained beyond held-out ones, right after the last injection,",
        rows.assign(unsure=unsure.map({True: ", which is not beyond chance", False: ""})),
        "{value:+nats} nats",
        "{arm:capital}: held-out passages, which were never met, gained {held_out:+nats} nats, "
        "passages met {met:+nats}; the difference, which meeting them made, is {value:+nats~} "
        "nats{unsure}.",
    )
    if len(rows) > MOST_ARMS:
        seeds = one_seed(len(arm.seeds) for arm in summary.arms)
        yield (
            f"The interval of this gain over passages{seeds} lies above 0 in "
            f"{(rows['low'] > 0).sum()} of {len(rows)} arms."
        )


def _left(summary: Summary) -> Iterator[str]:
    """What share of the gain right after the last injection is left at the end."""
    rows = [acquired_rows(summary, at).set_index("arm") for at in (INJECTED, END)]
    gained, left = (one["after"] - one["before"] for one in rows)
    later = {arm.name: arm.moments[END] - arm.moments[INJECTED] for arm in summary.arms}
    found = pd.DataFrame({"later": later, "gained": gained, "value": left / gained})
    return each_or_range(
        "The share of that gain that is left at the end",
        found.query("later > 0 and gained > 0").rename_axis("arm").reset_index(),
        "{value:share}",
        "{arm:capital}: at the end, {later:,.0f} steps later, {value:share} of the gain of "
        "passages met is there.",
        most=MOST_ARMS if len(summary.arms) <= MOST_ARMS else 0,
    )


def _forgotten(summary: Summary) -> Iterator[str]:
    rows = forgotten_rows(summary)
    if rows.empty:
        yield "F is not tested: no downstream tasks were asked."
    untested, tested = rows[rows["reason"].notna()], rows[rows["reason"].isna()]
    if len(untested) > MOST_ARMS:
        yield (
            f"F is not tested for {len(untested)} of {len(rows)} arms, at whose starts no task is "
            "answered better than by guessing. "
            + say("{arm:capital}, for one: {reason}.", untested.iloc[0])
        )
    else:
        yield from texts(untested, "{arm:capital}: F is not tested; {reason}.")
    sentence = "{arm:capital}: P went from {before:share} to {after:share} at the end, F = {f}."
    yield from each_or_range("F at the end", tested, "{value:share}", sentence)


def _moved(summary: Summary) -> Iterator[str]:
    """Text and facts, which measure forgetting where the tasks cannot."""
    rows = moved_rows(summary)
    rows = rows[(rows["group"] == TEXT) | (rows["measure"] == RECALLED)]
    for measure, ours in rows.groupby("measure", sort=False):
        name = capital(str(measure))
        if measure == RECALLED and (chance := facts_by_guessing(summary)):
            name = f"{name} ({chance})"
        if len(ours) > MOST_ARMS:
            change = f"{{change:{ours['by'].iloc[0]}}}"
            yield from each_or_range(f"{name}: the change from start to end", ours, change, "")
        else:
            each = texts(ours, "{arm} {before:{show}} to {after:{show}}")
            yield f"{name}, from start to end: {'; '.join(each)}."


def _curves(summary: Summary) -> Iterator[str]:
    rows = rows_where(summary["curves"], kind=ALL_KINDS)
    if len(rows) <= MOST_ARMS:
        yield from texts(
            rows.assign(ending=[_ending(row) for _, row in rows.iterrows()]),
            "{arm:capital}, {exposure:words} passages: the share of what encounters gained that is "
            "left changes by {slope:+nats~} per decade of steps ({first} to {last} steps after the "
            "last maximum, R\N{SUPERSCRIPT TWO} {r_squared:.2f}), and {ending}.",
        )
    else:
        for exposure, slopes in rows.groupby("exposure", sort=False)["slope"]:
            yield (
                f"Slopes of the forgetting curves of {str(exposure).replace('_', ' ')} passages "
                f"run from {signed_nats(slopes.min())} to {signed_nats(slopes.max())} per decade "
                f"of steps, over {len(slopes)} arms."
            )
    reasons: dict[str, list[str]] = {}
    for arm, reason in summary.more["without_curve"].items():
        reasons.setdefault(reason, []).append(arm)
    for reason, arms in reasons.items():
        which = "; ".join(arms) if len(arms) <= MOST_ARMS else f"{len(arms)} arms"
        yield f"No forgetting curve, or not all ({which}): {reason}."


def _ending(row: pd.Series) -> str:
    if row["threshold"] == float("inf"):
        return "does not fall"
    if row["threshold"] > _FAR * row["last"]:
        return "reaches zero far beyond what was seen"
    beyond = ", beyond what was seen" if row["threshold"] > row["last"] else ""
    return f"reaches zero after {steps_text(row['threshold'])} steps{beyond}"


def _entropies(summary: Summary) -> Iterator[str]:
    levels = rows_where(summary["levels"], seed=None, measure=KNOWLEDGE_ENTROPY)
    wide = levels.pivot(index="arm", columns="moment", values="value")
    wide = wide.reindex(index=summary.names, columns=[Moment.UNEDITED, START, END])
    wide = wide.assign(value=wide[END] - wide[START]).dropna(subset="value").reset_index()
    unedited = texts(wide, f"{{{Moment.UNEDITED}:nats}}")
    wide["edited"] = [f"{shown} unedited, " if shown else "" for shown in unedited]
    return each_or_range(
        "The change of knowledge entropy in training",
        wide,
        "{value:+nats} nats",
        "{arm:capital}: knowledge entropy {edited}{start:nats} nats at the start, {end:nats} at "
        "the end.",
    )


def _trajectory(summary: Summary) -> Iterator[str]:
    asked = {"entropy": KNOWLEDGE_ENTROPY, "outcome": list(_OUTCOMES)}
    for _, row in rows_where(summary["correlations"], **asked).dropna(subset="rho").iterrows():
        both = [
            say(f"{{rho{of}:+2~{of}}}, ", row)
            + f"{'more than' if p < LEVEL else 'within'} chance (p {say('{p:p}', {'p': p})})"
            for of in ("", "_differences")
            if not pd.isna(p := row[f"p_value{of}"])
        ]
        between = "; of changes from each start to the next, which a common trend does not move, "
        yield (
            f"Over {row['starts']} starts ({row['series']}), {_OUTCOMES[row['outcome']]} and "
            f"knowledge entropy of the start have a rank correlation of {between.join(both)}."
        )


def _compared(summary: Summary) -> Iterator[str]:
    """What was known after the last injection, and what was kept; the rest is in the table."""
    asked = rows_where(summary["comparisons"], measure=[K_INJECTED, P_END, FACTS_END])
    for measure, rows in with_shows(asked).groupby("measure", sort=False):
        if measure == K_INJECTED or (rows["p_holm"] < LEVEL).any():
            over = str(rows["of"].iloc[0])
            yield differing(str(measure), rows, "{effect:{by}~}", over=over)


def acquired_seeds(summary: Summary) -> Cells:
    """The least and the most A of single seeds, right after the last injection."""
    where = {"against": START, "moment": INJECTED, "exposure": MET, "kind": ALL_KINDS}
    rows = rows_where(summary["acquired"], **where).dropna(subset="seed")
    return {
        str(arm): f"{share(values.min())} to {share(values.max())}"
        for arm, values in rows.groupby("arm", sort=False)["value"]
        if len(values) > 1
    }


def facts_by_guessing(summary: Summary) -> str:
    """The share of earlier facts that guessing recalls, in words; empty where it is not known."""
    return guessed(guessing(run.task_scores for arm in summary.arms for run in arm.runs))
