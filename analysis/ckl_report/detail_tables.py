"""Tables of a report for people: what encounters gained, and what is compared.

Example:
    >>> [table.title for table in detail_tables(summary) if table.rows]      # doctest: +SKIP
    ['Effectivity', 'Forgetting curves']
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.ckl_report.levels import ENTROPIES
from analysis.ckl_report.scores import ALL_KINDS
from analysis.ckl_report.summary import CklSummary
from analysis.ckl_report.texts import signed_by
from analysis.ckl_report.trajectory import outcomes_of
from analysis.report_texts import (
    NOT_TESTED,
    nats,
    nats_or_none,
    p_text,
    share,
    signed,
    steps_text,
    with_interval,
)
from probes.tables import Table


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
