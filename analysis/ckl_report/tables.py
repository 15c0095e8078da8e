"""Tables of a report for people: the same rows in a document, on a page and on a terminal.

K in nats, A and F in percent. A number in brackets is an interval over passages or questions, what
stands behind "seeds" are the least and the most of single seeds.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from analysis.arms import CklArm
from analysis.ckl_comparisons import outcomes_of
from analysis.ckl_measures import ALL_KINDS, ALL_TASKS, MET, spread_over_seeds
from analysis.ckl_report.summary import CklSummary
from analysis.metrics import HELD_OUT
from analysis.numbers import (
    NOT_TESTED,
    guessed,
    nats,
    nats_or_none,
    p_text,
    points,
    share,
    signed,
    steps_text,
    with_interval,
)
from analysis.observations import ENTROPIES, ENTROPY, FACTS, RECALLED, TEXT
from analysis.runs import Moment
from analysis.theme import count
from probes.tables import Table


def shown_by(measure: str) -> Callable[[float], str]:
    """How numbers of a measure are shown: those that are shares in percent."""
    return share if measure.startswith(("facts recalled", "dormant", "P,")) else nats


def signed_by(measure: str) -> Callable[[float], str]:
    """How differences of a measure are shown: those of shares in percentage points."""
    show = points if shown_by(measure) is share else nats
    return lambda value: signed(value, show)


def detail_tables(summary: CklSummary) -> list[Table]:
    """Encounters, forgetting curves, the trajectory and comparisons."""
    return [
        _gains_table(summary),
        _curve_table(summary),
        *_trajectory_tables(summary),
        _comparison_table(summary),
    ]


def _gains_table(summary: CklSummary) -> Table:
    rows = summary.gains[summary.gains["kind"] == ALL_KINDS]
    most = int(rows["encounter"].max()) if len(rows) else 0
    found = []
    for (arm, exposure), ours in rows.groupby(["arm", "exposure"], sort=False):
        cells = [with_interval(row, nats, "gain") for _, row in ours.iterrows()]
        found.append((f"{arm}, {exposure}", *cells, *[""] * (most - len(cells))))
    return Table.of_rows(
        "Effectivity",
        ("", *map(str, range(1, most + 1))),
        found,
        note="What each encounter gained at its local maximum, in nats. A maximum over noise is a "
        "little too high, so it is positive where nothing was learnt.",
    )


def _curve_table(summary: CklSummary) -> Table:
    rows = [
        (
            ", ".join([row["arm"], row["exposure"], *_kind_of(row)]),
            with_interval(row, lambda value: signed(value, nats), "slope"),
            steps_text(row["threshold"]),
            nats(row["r_squared"]),
            f"{row['first']} to {row['last']}",
            f"{row['probes']} of {row['all_probes']}",
        )
        for _, row in summary.curves.iterrows()
    ]
    return Table.of_rows(
        "Forgetting curves",
        ("", "slope", "threshold, steps", "R\N{SUPERSCRIPT TWO}", "offsets", "probes that gained"),
        rows,
        note="The share of all gains that is left falls in a straight line over the logarithm of "
        "the steps since the last local maximum: its slope per decade, where it reaches zero "
        "(the learnability threshold), and how well the line fits. Probes count by what they "
        "gained.",
    )


def _kind_of(row: pd.Series) -> list[str]:
    return [] if row["kind"] == ALL_KINDS else [row["kind"]]


def _trajectory_tables(summary: CklSummary) -> Iterator[Table]:
    points = summary.trajectory
    if points.empty:
        return
    several = points["series"].nunique() > 1
    kinds = [name for name in ENTROPIES.values() if name in points.columns]
    outcomes = outcomes_of(points)
    yield Table.of_rows(
        "Over the trajectory",
        ("start", *kinds, *outcomes),
        [
            (
                f"{row['series'] + ', ' if several else ''}step {row['step']:,}",
                *(nats_or_none(row[kind]) for kind in kinds),
                *(_outcome(name, row[name]) for name in outcomes),
            )
            for _, row in points.iterrows()
        ],
        note="Starts by the steps of their pretraining: entropies of the start in nats, and what "
        "became of it.",
    )
    yield Table.of_rows(
        "Rank correlations with entropies of the start",
        ("", "starts", "levels", "p", "differences", "p"),
        [
            (
                f"{row['series'] + ': ' if several else ''}{row['outcome']}; {row['entropy']}",
                str(row["starts"]),
                *_correlation(row, ""),
                *_correlation(row, "_differences"),
            )
            for _, row in summary.correlations.iterrows()
        ],
        note="Spearman's over starts, with its interval; differences are from each start to the "
        "next, which a common trend does not move.",
    )


def _outcome(name: str, value: Any) -> str:
    if value is None or pd.isna(value):
        return NOT_TESTED if name.startswith("F") else ""
    if name[0] in "AF":
        return share(value)
    return signed_by(name)(value)


def _correlation(row: pd.Series, ending: str) -> tuple[str, str]:
    value, p = row[f"rho{ending}"], row[f"p_value{ending}"]
    if pd.isna(value):
        return "", ""
    ends = pd.Series({"value": value, "low": row[f"low{ending}"], "high": row[f"high{ending}"]})
    return with_interval(ends, lambda v: signed(v, nats)), p_text(p)


def _comparison_table(summary: CklSummary) -> Table:
    rows = [
        (
            f"{row['arm']}, less {row['base']}",
            row["measure"],
            with_interval(row, signed_by(row["measure"]), "effect"),
            p_text(row["p_value"]),
            p_text(row["p_holm"]),
            f"{row['clusters']} {row['of']}, {row['seeds']} seeds",
        )
        for _, row in summary.comparisons.iterrows()
    ]
    return Table.of_rows(
        "Arms against their bases",
        ("", "measure", "difference", "p", "p, Holm", "paired by"),
        rows,
        note="Differences in nats (P in points), paired by item and seed; paired permutation "
        "tests over what is counted in the last column, adjusted by Holm's method over the "
        "arms of a measure.",
    )


def text_tables(summary: CklSummary) -> list[Table]:
    """Every table that there is anything to put into."""
    tables = [
        acquired_table(summary),
        *(_parts_table(summary, moment) for moment in (Moment.INJECTED, Moment.END)),
        _kept_table(summary),
        _chance_table(summary),
        _entropy_table(summary),
        *detail_tables(summary),
    ]
    return [table for table in tables if table.rows]


def acquired_table(summary: CklSummary) -> Table:
    """K of passages met and A, of every arm."""
    k = means_over_seeds(summary.knowledge, exposure=MET, kind=ALL_KINDS)
    beyond = summary.beyond[summary.beyond["moment"] == Moment.INJECTED].set_index("arm")
    rows = []
    for arm in summary.arms:
        score = k[k["arm"] == arm.name].set_index("moment")["score"]
        rows.append(
            (
                arm.name,
                *(nats_or_none(score.get(moment)) for moment in Moment),
                acquired_text(summary, arm, Moment.INJECTED),
                acquired_text(summary, arm, Moment.INJECTED, seeds=True),
                acquired_text(summary, arm, Moment.END),
                acquired_text(summary, arm, Moment.INJECTED, against=Moment.UNEDITED),
                acquired_text(summary, arm, Moment.INJECTED, exposure=HELD_OUT),
                with_interval(beyond.loc[arm.name], lambda value: signed(value, nats))
                if arm.name in beyond.index
                else "",
            )
        )
    header = (
        *("", *(f"K, {moment}" for moment in Moment), "A, last injection", "seeds"),
        *("A, end", "A, last injection, against the unedited start"),
        *("A of held-out passages, last injection", "gain beyond theirs, nats"),
    )
    return Table.of_rows(
        "What was acquired",
        header,
        rows,
        note="K of all passages that were met, in nats, and its change as a share of its size "
        "before, A. Held-out passages were never met: what they gain is not knowledge of them.",
    ).without_empty()


def acquired_text(
    summary: CklSummary,
    arm: CklArm,
    moment: str,
    *,
    against: str = Moment.START,
    exposure: str = MET,
    kind: str = ALL_KINDS,
    seeds: bool = False,
    interval: bool = True,
) -> str:
    """A as a text, with its interval; or the least and the most of single seeds."""
    rows = spread_over_seeds(summary.acquired[summary.acquired["arm"] == arm.name])
    rows = rows[(rows["against"] == against) & (rows["moment"] == moment)]
    rows = rows[(rows["exposure"] == exposure) & (rows["kind"] == kind)]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    if seeds:
        return f"{share(row['least'])} to {share(row['most'])}" if row["seeds"] > 1 else ""
    return with_interval(row, share) if interval else share(row["value"])


def _parts_table(summary: CklSummary, moment: str) -> Table:
    rows = means_over_seeds(summary.acquired, against=Moment.START, moment=moment)
    groups = list(dict.fromkeys(zip(rows["exposure"], rows["kind"], strict=True)))
    wanted = [g for g in groups if ALL_KINDS in g or g[0] == MET]
    found = []
    for arm in summary.arms:
        ours = rows[rows["arm"] == arm.name].set_index(["exposure", "kind"])
        found.append(
            (
                arm.name,
                *(with_interval(ours.loc[g], share) if g in ours.index else "" for g in wanted),
            )
        )
    return Table.of_rows(
        f"A by exposure and by kind of probe, {moment}",
        ("", *(_group_name(*group) for group in wanted)),
        found,
        note="Against the start that training began from. Kinds are of all passages that were met.",
    )


def _group_name(exposure: str, kind: str) -> str:
    return exposure.replace("_", " ") if kind == ALL_KINDS else kind


def _kept_table(summary: CklSummary) -> Table:
    """P and F, text and facts from the start to the end."""
    moved = summary.changes[
        (summary.changes["moment"] == Moment.END) & (summary.changes["against"] == Moment.START)
    ]
    moved = moved[moved["group"].isin([TEXT, FACTS])]
    measures = list(moved["measure"].unique())
    forgotten = means_over_seeds(
        summary.forgotten, task=ALL_TASKS, moment=Moment.END, against=Moment.START
    ).set_index("arm")
    chance = guessed(summary.guessing) if RECALLED in measures else ""
    rows = []
    for arm in summary.arms:
        ours = moved[moved["arm"] == arm.name].set_index("measure")
        f = ("", "")
        if arm.name in forgotten.index:
            row = forgotten.loc[arm.name]
            f = (f"{share(row['before'])} to {share(row['after'])}", forgotten_text(row))
        cells = [_from_to(ours.loc[m]) if m in ours.index else "" for m in measures]
        rows.append((arm.name, *f, *cells))
    return Table.of_rows(
        "What was kept",
        ("", "P", "F", *measures),
        rows,
        note="From the start to the end, and the change; its interval over the subjects of "
        "facts. P is the mean accuracy of the downstream tasks, F its fall as a share of its "
        "size before, with its interval over questions. A rise in bits per byte is "
        f"forgetting, and so is a fall in facts{_of_guessing(chance)}.",
    ).without_empty()


def _of_guessing(chance: str) -> str:
    """What a share of facts recalled is worth."""
    if not chance:
        return ""
    return f"; {chance}; an untrained model, to which short values are likelier, can recall more"


def forgotten_text(row: pd.Series) -> str:
    """F with its interval, where it is tested."""
    return with_interval(row, share) if pd.isna(row["reason"]) else NOT_TESTED


def _from_to(row: pd.Series) -> str:
    measure = str(row.name)
    show = shown_by(measure)
    change = with_interval(row, signed_by(measure), "change")
    return f"{show(row['before'])} to {show(row['after'])}: {change}"


def _chance_table(summary: CklSummary) -> Table:
    rows = [
        (
            f"{row.arm}, {row.moment}",
            row.task,
            share(row.score)
            if pd.isna(row.low)
            else with_interval(
                pd.Series({"value": row.score, "low": row.low, "high": row.high}), share
            ),
            share(row.chance),
            "yes" if row.above else "no",
            count(row.questions),
        )
        for row in summary.chances.itertuples()
    ]
    return Table.of_rows(
        "The downstream tasks at the start, against guessing",
        ("", "task", "accuracy", "guessing", "above", "questions"),
        rows,
        note="Intervals of all tasks of a start hold together. Where no task stands above "
        "guessing, there is nothing to forget, and F is not tested.",
    )


def _entropy_table(summary: CklSummary) -> Table:
    levels = means_over_seeds(summary.levels, group=ENTROPY)
    moments = [Moment.UNEDITED, Moment.START, Moment.END]
    kinds = [kind for kind in ENTROPIES.values() if (levels["measure"] == kind).any()]
    values = levels.set_index(["arm", "measure", "moment"])["value"]
    columns = [(kind, moment) for kind in kinds for moment in moments]
    rows = [
        (arm.name, *(nats_or_none(values.get((arm.name, *column))) for column in columns))
        for arm in summary.arms
        if kinds
    ]
    return Table.of_rows(
        "Entropies",
        ("", *map(", ".join, columns)),
        rows,
        note="In nats: summed over layers, next-token entropy a mean over positions.",
    ).without_empty()


def means_over_seeds(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    """Rows of means over seeds with these values."""
    rows = table[table["seed"].isna()]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows
