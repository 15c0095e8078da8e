"""Tables of a report for people: the same rows in a document, on a page and on a terminal.

Shares in percent, log-probabilities in nats. A number in brackets is an interval over items.

Example:
    >>> for table in text_tables(summary):                                   # doctest: +SKIP
    ...     print(table.title)
"""

from collections.abc import Iterator

import pandas as pd

from analysis.remix_report.arms import RemixArm
from analysis.remix_report.chains import START, TOKENS, after
from analysis.remix_report.detail_tables import detail_tables
from analysis.remix_report.levels import TEXT
from analysis.remix_report.recalls import SHARE, retained
from analysis.remix_report.summary import RemixSummary
from analysis.report_texts import nats, p_text, points, share, signed, with_interval
from analysis.theme import count
from probes.tables import Table

MAIN = "What was kept"


def text_tables(summary: RemixSummary) -> list[Table]:
    """Every table that there is anything to put into."""
    tables = [main_table(summary), _difference_table(summary), *detail_tables(summary)]
    return [table for table in tables if table.rows]


def main_table(summary: RemixSummary) -> Table:
    """What every arm knows after every stage."""
    columns = dict(_columns(summary))
    rows = [
        (arm.name, *(cells.get(arm.name, "") for cells in columns.values()), _seeds(arm))
        for arm in summary.arms
    ]
    return Table.of_rows(
        MAIN,
        ("", *columns, "seeds"),
        rows,
        note="The share of items that are right, all their tokens at once, mean over seeds; A is "
        "what stage A taught, and so on. \u201cOf what was learnt\u201d is the share of the "
        "items right after stage A that are right at the end. The difference is from the base "
        "of an arm, paired by item and seed, in percentage points; p is adjusted by Holm's "
        "method over the arms.",
    ).without_empty()


def _columns(summary: RemixSummary) -> Iterator[tuple[str, dict[str, str]]]:
    """Heading and cells, by arm."""
    last = summary.last_moment
    for moment in summary.arms[0].moments[1:]:
        yield f"A, {moment}", shares(summary, "A", moment)
    yield "of what was learnt", _kept(summary)
    found = retained(summary.differences, last)
    yield (
        f"A, {last}, against the base",
        {str(arm): with_interval(row, signed_points, "effect") for arm, row in found.iterrows()},
    )
    yield "p", {str(arm): p_text(row["p_holm"]) for arm, row in found.iterrows()}
    for stage in summary.arms[0].stages[1:]:
        yield f"{stage}, {last}", shares(summary, stage, last)
    for items in others(summary):
        for moment in (START, last):
            yield f"{items}, {moment}", shares(summary, items, moment)
    yield from text_columns(summary)


def others(summary: RemixSummary) -> list[str]:
    """Lists that no stage taught: facts that the start knew before, say."""
    names = dict.fromkeys(summary.recalls["items"])
    return [str(name) for name in names if name not in summary.arms[0].stages]


def shares(
    summary: RemixSummary, items: str, moment: str, match: str = TOKENS, *, interval: bool = True
) -> dict[str, str]:
    """The share of a list that is right, by arm, as text."""
    found = retained(summary.recalls, moment, items, match)
    return {
        str(arm): with_interval(row, share) if interval else share(row["value"])
        for arm, row in found.iterrows()
    }


def text_columns(summary: RemixSummary) -> Iterator[tuple[str, dict[str, str]]]:
    """Held-out text after the last stage, and its change since the start."""
    rows = summary.levels[
        (summary.levels["group"] == TEXT) & (summary.levels["moment"] == summary.last_moment)
    ]
    for measure, ours in rows.groupby("measure", sort=False):
        cells = {
            str(row.arm): f"{nats(row.value)} ({signed(row.change, nats)})"
            for row in ours.itertuples()
        }
        yield f"{measure}, {summary.last_moment} (change)", cells


def signed_points(value: float) -> str:
    """A difference of shares."""
    return signed(value, points)


def _kept(summary: RemixSummary) -> dict[str, str]:
    rows = summary.kept
    rows = rows[(rows["items"] == "A") & (rows["moment"] == summary.last_moment)]
    return {row.arm: share(row.value) for row in rows.itertuples() if not pd.isna(row.value)}


def _seeds(arm: RemixArm) -> str:
    return count(len(arm.seeds))


def _difference_table(summary: RemixSummary) -> Table:
    wanted = summary.differences[summary.differences["match"] == TOKENS]
    wanted = wanted[wanted["measure"] == SHARE]
    rows = [
        (
            f"{row['arm']}, less {row['base']}: {row['items']}, {row['moment']}",
            with_interval(row, signed_points, "effect"),
            p_text(row["p_value"]),
            p_text(row["p_holm"]),
            _over_seeds(row),
            "" if pd.isna(row["seed_p_value"]) else p_text(row["seed_p_value"]),
            count(int(row["seeds"])),
            count(int(row["count"])),
        )
        for _, row in wanted.iterrows()
    ]
    return Table.of_rows(
        "Arms against their bases",
        ("", "difference", "p", "p, Holm", "over seeds", "p over seeds", "seeds", "items"),
        rows,
        note="Differences in the share of items that are right, in percentage points. The "
        "interval and p over items are about these runs (paired permutations over items of "
        "their mean over seeds; McNemar's exact test of one seed); those over seeds, from "
        "the t distribution, are about other seeds, and are wide where there are few.",
    )


def _over_seeds(row: pd.Series) -> str:
    if pd.isna(row["seed_low"]):
        return ""
    ends = ", ".join(
        signed_points(row[name]).removesuffix(" points") for name in ("seed_low", "seed_high")
    )
    return f"[{ends}]"


def moments_after(summary: RemixSummary) -> list[str]:
    """When stages are over."""
    return [after(stage) for stage in summary.arms[0].stages]
