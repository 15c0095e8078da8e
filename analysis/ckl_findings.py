"""Findings of runs of continual knowledge learning, in plain sentences.

Every sentence follows from the tables of the summary. Up to four arms have sentences of their own;
of more, the lowest and the highest are named.
"""

from collections.abc import Callable, Iterator

import pandas as pd

from analysis.arm_report import (
    LEVEL,
    MOST_ARMS,
    Cells,
    Summary,
    cells,
    differing,
    each_or_range,
    ranged,
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
)
from analysis.numbers import (
    NOT_TESTED,
    capital,
    count,
    guessed,
    nats,
    one_seed,
    p_text,
    points,
    share,
    signed,
    signed_nats,
    steps_text,
    value_range,
    with_interval,
)
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
    a = {at: cells(acquired_rows(summary, at), ranged(share)) for at in (INJECTED, END)}
    unedited = cells(acquired_rows(summary, INJECTED, against=Moment.UNEDITED), ranged(share))
    seeds = acquired_seeds(summary)

    def sentence(row: pd.Series) -> str:
        arm = row["arm"]
        return (
            f"{capital(arm)}: right after the last injection, K of the passages that were met went "
            f"from {from_to(row, nats)} nats, A = {a[INJECTED][arm]}"
            + (f" (seeds {seeds[arm]})" if arm in seeds else "")
            + (f", {unedited[arm]} against the unedited start" if arm in unedited else "")
            + f"; at the end A = {a[END][arm]}."
        )

    rows = acquired_rows(summary, INJECTED)
    return each_or_range("A right after the last injection", rows, share, sentence)


def _held_out(summary: Summary) -> Iterator[str]:
    """How much of the gain passages show that were never met."""
    rows = rows_where(summary["beyond"], moment=INJECTED)

    def sentence(row: pd.Series) -> str:
        unsure = not pd.isna(row["low"]) and row["low"] <= 0 <= row["high"]
        return (
            f"{capital(row['arm'])}: held-out passages, which were never met, gained "
            f"{signed_nats(row['held_out'])} nats, passages met {signed_nats(row['met'])}; the "
            f"difference, which meeting them made, is {with_interval(row, signed_nats)} nats"
            f"{', which is not beyond chance' if unsure else ''}."
        )

    what = "What passages met gained beyond held-out ones, right after the last injection,"
    yield from each_or_range(what, rows, lambda value: f"{signed_nats(value)} nats", sentence)
    if len(rows) > MOST_ARMS:
        above = int((rows["low"] > 0).sum())
        seeds = one_seed(len(arm.seeds) for arm in summary.arms)
        yield (
            f"That is above 0 beyond its interval over passages{seeds} in {above} of {len(rows)} "
            "arms."
        )


def _left(summary: Summary) -> Iterator[str]:
    """What share of the gain right after the last injection is left at the end."""
    rows = [acquired_rows(summary, at).set_index("arm") for at in (INJECTED, END)]
    gained, left = (one["after"] - one["before"] for one in rows)
    later = {arm.name: arm.moments[END] - arm.moments[INJECTED] for arm in summary.arms}
    found = pd.DataFrame({"later": later, "gained": gained, "value": left / gained})
    found = found.query("later > 0 and gained > 0").rename_axis("arm").reset_index()
    most = MOST_ARMS if len(summary.arms) <= MOST_ARMS else 0
    return each_or_range(
        "The share of that gain that is left at the end",
        found,
        share,
        lambda row: (
            f"{capital(row['arm'])}: at the end, {count(int(row['later']))} steps later, "
            f"{share(row['value'])} of the gain of passages met is there."
        ),
        most=most,
    )


def _forgotten(summary: Summary) -> Iterator[str]:
    rows = forgotten_rows(summary)
    if rows.empty:
        yield "F is not tested: no downstream tasks were asked."
    untested, tested = rows[rows["reason"].notna()], rows[rows["reason"].isna()]
    if len(untested) > MOST_ARMS:
        one = untested.iloc[0]
        yield (
            f"F is not tested for {len(untested)} of {len(rows)} arms, at whose starts no task is "
            f"answered better than by guessing. {capital(one['arm'])}, for one: {one['reason']}."
        )
    else:
        for _, row in untested.iterrows():
            yield f"{capital(row['arm'])}: F is not tested; {row['reason']}."
    yield from each_or_range(
        "F at the end",
        tested,
        share,
        lambda row: (
            f"{capital(row['arm'])}: P went from {from_to(row, share)} at the end, "
            f"F = {forgotten_text(row)}."
        ),
    )


def _moved(summary: Summary) -> Iterator[str]:
    """Text and facts, which measure forgetting where the tasks cannot."""
    rows = moved_rows(summary)
    rows = rows[(rows["group"] == TEXT) | (rows["measure"] == RECALLED)]
    for measure, ours in rows.groupby("measure", sort=False):
        name = capital(str(measure))
        if measure == RECALLED and (chance := facts_by_guessing(summary)):
            name = f"{name} ({chance})"
        if len(ours) > MOST_ARMS:
            changes = ours.set_index("arm")["change"]
            what = f"{name}: the change from start to end"
            yield value_range(what, dict(changes), signed_by(str(measure)))
            continue
        show = shown_by(str(measure))
        each = "; ".join(f"{row['arm']} {from_to(row, show)}" for _, row in ours.iterrows())
        yield f"{name}, from start to end: {each}."


def _curves(summary: Summary) -> Iterator[str]:
    rows = rows_where(summary["curves"], kind=ALL_KINDS)
    if len(rows) <= MOST_ARMS:
        yield from (_curve(row) for _, row in rows.iterrows())
    else:
        for exposure, ours in rows.groupby("exposure", sort=False):
            slopes = ours["slope"]
            yield (
                f"Slopes of the forgetting curves of {str(exposure).replace('_', ' ')} passages "
                f"run from {signed_nats(slopes.min())} to {signed_nats(slopes.max())} per decade "
                f"of steps, over {len(ours)} arms."
            )
    reasons: dict[str, list[str]] = {}
    for arm, reason in summary.more["without_curve"].items():
        reasons.setdefault(reason, []).append(arm)
    for reason, arms in reasons.items():
        which = "; ".join(arms) if len(arms) <= MOST_ARMS else f"{len(arms)} arms"
        yield f"No forgetting curve, or not all ({which}): {reason}."


def _curve(row: pd.Series) -> str:
    if row["threshold"] == float("inf"):
        ending = "and does not fall"
    elif row["threshold"] > _FAR * row["last"]:
        ending = "and reaches zero far beyond what was seen"
    else:
        beyond = ", beyond what was seen" if row["threshold"] > row["last"] else ""
        ending = f"and reaches zero after {steps_text(row['threshold'])} steps{beyond}"
    return (
        f"{capital(row['arm'])}, {row['exposure'].replace('_', ' ')} passages: the share of what "
        f"encounters gained that is left changes by {with_interval(row, signed_nats, 'slope')} per "
        f"decade of steps ({row['first']} to {row['last']} steps after the last maximum, "
        f"R\N{SUPERSCRIPT TWO} {nats(row['r_squared'], 2)}), {ending}."
    )


def _entropies(summary: Summary) -> Iterator[str]:
    levels = rows_where(summary["levels"], seed=None, measure=KNOWLEDGE_ENTROPY)
    wide = levels.pivot(index="arm", columns="moment", values="value")
    wide = wide.reindex(index=summary.names, columns=[Moment.UNEDITED, START, END])

    def sentence(row: pd.Series) -> str:
        before = row[Moment.UNEDITED]
        return (
            f"{capital(row['arm'])}: knowledge entropy "
            f"{'' if pd.isna(before) else f'{nats(before)} unedited, '}{nats(row[START])} nats at "
            f"the start, {nats(row[END])} at the end."
        )

    rows = wide.assign(value=wide[END] - wide[START]).dropna(subset="value").reset_index()
    what = "The change of knowledge entropy in training"
    yield from each_or_range(what, rows, lambda value: f"{signed_nats(value)} nats", sentence)


def _trajectory(summary: Summary) -> Iterator[str]:
    rows = rows_where(
        summary["correlations"], entropy=KNOWLEDGE_ENTROPY, outcome=list(_OUTCOMES)
    ).dropna(subset="rho")
    for _, row in rows.iterrows():
        both = [
            f"{correlation(row, of, 2)}, {'more than chance' if p < LEVEL else 'within chance'} "
            f"(p {p_text(p)})"
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
    for measure, rows in asked.groupby("measure", sort=False):
        if measure == K_INJECTED or (rows["p_holm"] < LEVEL).any():
            show = signed_by(str(measure))
            yield differing(str(measure), rows, show, over=rows["of"].iloc[0])


def shown_by(measure: str) -> Callable[[float], str]:
    """How numbers of a measure are shown: those that are shares in percent."""
    return share if measure.startswith((RECALLED, "dormant", "P,")) else nats


def signed_by(measure: str) -> Callable[[float], str]:
    """How differences of a measure are shown: those of shares in percentage points."""
    show = points if shown_by(measure) is share else nats
    return lambda value: signed(value, show)


def from_to(row: pd.Series, show: Callable[[float], str]) -> str:
    """A number before and after."""
    return f"{show(row['before'])} to {show(row['after'])}"


def acquired_seeds(summary: Summary) -> Cells:
    """The least and the most A of single seeds, right after the last injection."""
    rows = rows_where(
        summary["acquired"], against=START, moment=INJECTED, exposure=MET, kind=ALL_KINDS
    ).dropna(subset="seed")
    return {
        str(arm): f"{share(values.min())} to {share(values.max())}"
        for arm, values in rows.groupby("arm", sort=False)["value"]
        if len(values) > 1
    }


def forgotten_text(row: pd.Series) -> str:
    """F with its interval, where it is tested."""
    return with_interval(row, share) if pd.isna(row["reason"]) else NOT_TESTED


def correlation(row: pd.Series, ending: str, digits: int = 3) -> str:
    """A rank correlation with its interval; empty where there is none."""
    ends = pd.Series({name: row[f"{name}{ending}"] for name in ("rho", "low", "high")}, dtype=float)
    if pd.isna(ends["rho"]):
        return ""
    return with_interval(ends, lambda value: signed(value, lambda v: nats(v, digits)), "rho")


def facts_by_guessing(summary: Summary) -> str:
    """The share of earlier facts that guessing recalls, in words; empty where it is not known."""
    return guessed(guessing(run.task_scores for arm in summary.arms for run in arm.runs))
