"""Everything that is known of arms of continual knowledge learning, and findings from it.

Arms are compared with their bases paired by item and seed: paired permutations over passages,
questions or subjects, p-values adjusted by Holm's method over the arms of a measure. Arms whose
bases are checkpoints of one pretraining are a series: what became of them is correlated with the
entropies of the base, in levels and in first differences.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.arm_report import (
    LEVEL,
    MOST_ARMS,
    Cells,
    Summary,
    cells,
    differing,
    each_or_range,
    provenance_of,
    summarised,
)
from analysis.arms import CklArm, base_of
from analysis.ckl_measures import (
    ACQUIRED_INJECTED,
    ALL_KINDS,
    ALL_TASKS,
    END,
    FORGOTTEN,
    INJECTED,
    MET,
    START,
    beyond_table,
    chance_table,
    change_table,
    correlation_table,
    forgetting_table,
    level_table,
    score_tables,
    trajectory_points,
)
from analysis.encounter_measures import curve_tables
from analysis.metrics import HELD_OUT
from analysis.numbers import (
    NOT_TESTED,
    capital,
    guessed,
    one_seed,
    say,
    share,
    shown_path,
    signed_nats,
    steps_text,
    texts,
)
from analysis.observations import ENTROPIES, FACTS, RECALLED, TEXT, guessing, rows_where
from analysis.runs import Moment
from analysis.significance import holm, paired_permutation

LEAST_CLUSTERS = 3
_DIGITS = 9
_COMPARISONS = (
    *("arm", "base", "measure", "unit", "effect", "low", "high", "p_value", "p_holm"),
    *("clusters", "of", "seeds"),
)


DEFINITIONS = (
    "K is the mean log-probability of the targets of knowledge probes, in nats: over a passage's "
    "probes, then over passages. A is its change since the start, divided by its size at the "
    "start; F is the fall of P, the mean accuracy of the downstream tasks, divided by P at the "
    "start. Both are positive where something was acquired, or forgotten. The start is the model "
    "that training began from; where it was edited, changes since the unedited start are given "
    "too, since an edit that spoils the start makes A large.",
    "Intervals hold for 95 of 100 draws of passages (A, K, curves), questions (P, F) or subjects "
    "(facts), not for other seeds; the range over seeds is given beside them. Held-out passages "
    "were never met and show what training does to the probes of any such passage.",
    "Source: Kim et al., \u201cKnowledge Entropy Decay during Language Model Pretraining Hinders "
    "New Knowledge Acquisition\u201d, ICLR 2025, Eq. 4 and 5; Chang et al., \u201cHow Do Large "
    "Language Models Acquire Factual Knowledge During Pretraining?\u201d, NeurIPS 2024, section "
    "3.3, for effectivity, retainability and forgetting curves.",
)


def summarise(arms: Sequence[CklArm], base: CklArm | None = None) -> Summary:
    """All tables of some arms."""
    return summarised(arms, _tables(arms, base), 8)


def _tables(arms: Sequence[CklArm], base: CklArm | None) -> Iterator[dict[str, Any]]:
    knowledge, acquired = score_tables(arms)
    yield {"knowledge": knowledge, "acquired": acquired}
    yield {"beyond": beyond_table(arms)}
    chances = chance_table(arms)
    yield {"chances": chances}
    forgotten = forgetting_table(arms, chances)
    yield {"forgotten": forgotten}
    levels = level_table(arms)
    changes = change_table(arms, levels)
    yield {"levels": levels, "changes": changes}
    gains, curves, retained, without = curve_tables(arms)
    yield {"gains": gains, "curves": curves, "retained": retained, "without_curve": without}
    trajectory = trajectory_points(arms, acquired, forgotten, levels, changes)
    yield {"trajectory": trajectory, "correlations": correlation_table(trajectory)}
    yield {"comparisons": comparison_table(arms, base)}


def comparison_table(arms: Sequence[CklArm], base: CklArm | None = None) -> pd.DataFrame:
    """Every arm against its base."""
    rows = [
        {"arm": arm.name, "base": other.name, "measure": name, "unit": unit, "of": of, **found}
        for name, (unit, of, values) in MEASURES.items()
        for arm in arms
        if (other := base_of(arm, arms, base)) is not None
        if (found := _compared(values, arm, other)) is not None
    ]
    table = pd.DataFrame(rows, columns=list(_COMPARISONS))
    by_measure = table.groupby("measure", sort=False)["p_value"]
    table["p_holm"] = by_measure.transform(lambda values: list(holm(values.tolist())))
    return table


def _compared(
    values: Callable[[CklArm], pd.Series], arm: CklArm, base: CklArm
) -> dict[str, float] | None:
    seeds = {*arm.seeds} & {*base.seeds}
    if not seeds:
        return None
    both = (replace(a, runs=tuple(r for r in a.runs if r.seed in seeds)) for a in (arm, base))
    ours, theirs = map(values, both)
    # Arms that scored other items, of another set of passages say, cannot be paired.
    if len(ours) < LEAST_CLUSTERS or not ours.index.equals(theirs.index):
        return None
    # Differences that are alike but for rounding must be alike: their interval is that one value.
    differences = np.round(ours.to_numpy() - theirs.to_numpy(), _DIGITS)
    none = np.zeros(len(differences))
    found = paired_permutation(differences, none, np.random.default_rng(0))
    numbers = {"effect": found.effect, "low": found.interval.low, "high": found.interval.high}
    return {**numbers, "p_value": found.p_value, "clusters": found.n, "seeds": len(seeds)}


def _knowledge(
    arm: CklArm, moment: str, *, held_out: bool = False, gain: bool = False
) -> pd.Series:
    table = arm.probes(moment)
    values = table["log_prob"] - (arm.probes(START)["log_prob"] if gain else 0)
    wanted = (table["exposure"] == HELD_OUT) == held_out
    return values[wanted].groupby(table["passage"]).mean()


def _questions(arm: CklArm) -> pd.Series:
    # P is a mean over tasks, so every question counts by the size of its task.
    table = arm.questions(END)
    if table.empty:
        return pd.Series(dtype=float)
    sizes = table.groupby("task")["item"].transform("size")
    weights = len(table) / (table["task"].nunique() * sizes)
    return (table["score"] * weights).groupby([table["task"], table["item"]]).mean()


def _facts(arm: CklArm) -> pd.Series:
    table = arm.facts(END)
    return table if table.empty else table.groupby("subject")["log_prob"].mean()


K_INJECTED = "K of passages met, last injection"
P_END = "P, end"
FACTS_END = "log-probability of earlier facts, end"
_GAINED = partial(_knowledge, moment=INJECTED, gain=True)
_HELD_OUT = partial(_knowledge, moment=INJECTED, held_out=True)
MEASURES: dict[str, tuple[str, str, Callable[[CklArm], pd.Series]]] = {
    K_INJECTED: ("nats", "passages", partial(_knowledge, moment=INJECTED)),
    "K of passages met, end": ("nats", "passages", partial(_knowledge, moment=END)),
    "gain of passages met since the start, last injection": ("nats", "passages", _GAINED),
    "K of held-out passages, last injection": ("nats", "passages", _HELD_OUT),
    P_END: ("share", "questions", _questions),
    FACTS_END: ("nats", "subjects", _facts),
}
"""What arms are compared in: its unit, what is drawn, and the values of an arm by what is drawn."""


def acquired_rows(
    summary: Summary, moment: str, *, against: str = START, exposure: str = MET
) -> pd.DataFrame:
    """A of every arm, mean over seeds."""
    where = {"seed": None, "against": against, "moment": moment, "exposure": exposure}
    return rows_where(summary["acquired"], kind=ALL_KINDS, **where)


def forgotten_rows(summary: Summary) -> pd.DataFrame:
    """F of every arm at the end, mean over seeds; `f` are its texts."""
    where = {"seed": None, "task": ALL_TASKS, "moment": END, "against": START}
    rows = rows_where(summary["forgotten"], **where)
    shown = pd.Series(texts(rows, "{value:share~}"), rows.index, dtype=object)
    return rows.assign(f=shown.where(rows["reason"].isna(), NOT_TESTED))


def moved_rows(summary: Summary) -> pd.DataFrame:
    """How far text and facts moved from the start to the end."""
    rows = rows_where(summary["changes"], moment=END, against=START, group=[TEXT, FACTS])
    return with_shows(rows)


def with_shows(table: pd.DataFrame) -> pd.DataFrame:
    """A table with how its measures are shown, and `by` how differences in them are."""
    is_share = table["measure"].str.startswith((RECALLED, "dormant", "P,"))
    shows = {True: "share", False: "nats"}, {True: "+points", False: "+nats"}
    return table.assign(show=is_share.map(shows[0]), by=is_share.map(shows[1]))


KNOWLEDGE_ENTROPY = ENTROPIES["knowledge"]
_FAR = 1000  # a threshold that is so many times as far as what was seen is not given in steps
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
        *_against_bases(summary),
    ]


def _stopped(summary: Summary) -> Iterator[str]:
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
            f"The interval of this gain over passages lies above 0 in "
            f"{(rows['low'] > 0).sum()} of {len(rows)} arms{seeds}."
        )


def _left(summary: Summary) -> Iterator[str]:
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
            say(f"{{rho{of}:+nats2~{of}}}, ", row)
            + f"{'more than' if p < LEVEL else 'within'} chance (p {say('{p:p}', {'p': p})})"
            for of in ("", "_differences")
            if not pd.isna(p := row[f"p_value{of}"])
        ]
        between = "; of changes from each start to the next, which a common trend does not move, "
        yield (
            f"Over {row['starts']} starts ({row['series']}), {_OUTCOMES[row['outcome']]} and "
            f"knowledge entropy of the start have a rank correlation of {between.join(both)}."
        )


def _against_bases(summary: Summary) -> Iterator[str]:
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


def provenance(arms: Sequence[CklArm]) -> dict[str, str]:
    """Models, texts and versions behind the numbers, in words."""
    runs = [run for arm in arms for run in arm.runs]
    inputs = [run.manifest["inputs"] for run in runs]
    learnt = {
        "trained on": [
            f"{shown_path(host['corpus'])}, {host['documents']:,} documents in {host['rows']:,} "
            f"rows of {host['row_length']} (rows {host['content_hash'][:12]})"
            for host in (found["data"]["host"] for found in inputs)
        ],
        "knowledge": [
            f"{one['name']}, {one['passages']} passages and {one['probes']} probes "
            f"(text {one['sha256'][:12]})"
            for one in (found["knowledge"] for found in inputs)
        ],
    }
    return provenance_of(runs, learnt, [found.get("held_out", {}) for found in inputs])
