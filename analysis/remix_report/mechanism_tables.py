"""Tables of what happened inside: gradients, first steps, weight drift, relearning.

Example:
    >>> [table.title for table in mechanism_tables(summary)]                 # doctest: +SKIP
"""

from collections.abc import Iterator

import pandas as pd

from analysis.remix_report.summary import RemixSummary
from analysis.report_texts import nats, nats_or_none, points, share, signed, with_interval
from analysis.theme import count
from probes.tables import Table


def mechanism_tables(summary: RemixSummary) -> Iterator[Table]:
    """The tables."""
    yield _sign_table(summary)
    yield _term_table(summary)
    yield _drift_table(summary)
    yield _relearning_table(summary)


def _sign_table(summary: RemixSummary) -> Table:
    rows = [
        (
            f"{row.arm}: stage {row.stage}, {row.pair}",
            nats_or_none(row.cosine),
            count(int(row.positive)),
            count(int(row.negative)),
            count(int(row.untold)),
        )
        for row in summary.signs.itertuples()
    ]
    return Table.of_rows(
        "Gradients",
        ("", "cosine", "positive", "negative", "not told"),
        rows,
        note="The cosine of the gradients of two samples, mean over looks and seeds, and in how "
        "many looks their product is positive or negative beyond its interval over items. "
        "Where a gradient is near zero, or the interval holds 0, no sign is claimed. M is "
        "the mix.",
    )


def _term_table(summary: RemixSummary) -> Table:
    rows = [
        (
            f"{row['arm']}, seed {row['seed']}",
            share(row["mix_share"]),
            signed(row["delta_1"], nats),
            with_interval(row, lambda value: signed(value, nats), "delta_2"),
            "not told" if pd.isna(row["sign"]) else "helps" if row["sign"] > 0 else "harms",
            row["near_zero"],
        )
        for _, row in summary.terms.iterrows()
    ]
    return Table.of_rows(
        "First step of stage B",
        ("", "share of the mix", "first term", "second term", "mixing", "near zero"),
        rows,
        note="What mixing saves of the loss on A, in nats a token, to first order: by where "
        "stage B begins (the first term), and by what its first step does, for a learning "
        "rate of 1 (the second), with intervals over items. No sign is claimed where a "
        "gradient is near zero. A trained model takes many steps: these say where they set "
        "out, not where they end.",
    ).without_empty()


def _drift_table(summary: RemixSummary) -> Table:
    drift = summary.drift[summary.drift["level"].isin(["model", "module"])]
    names = list(dict.fromkeys(drift["module"].fillna("all")))
    keys = dict.fromkeys(zip(drift["arm"], drift["stage"], strict=True))
    values = drift.assign(module=drift["module"].fillna("all")).set_index(
        ["arm", "stage", "module"]
    )["relative"]
    rows = [
        (
            f"{arm}: stage {stage}",
            *(_relative(values.get((arm, stage, name))) for name in names),
        )
        for arm, stage in keys
    ]
    return Table.of_rows(
        "Weight drift",
        ("", *(name.replace("_", " ") for name in names)),
        rows,
        note="How far weights are at the end of a stage from where it began, as a share of their "
        "size there, mean over seeds.",
    )


def _relearning_table(summary: RemixSummary) -> Table:
    kinds = {"again": "taught again", "other": "others", "never_taught": "never taught"}
    rows = [
        (
            str(row["arm"]),
            *(
                ""
                if pd.isna(row[name])
                else f"{share(row[f'{name}_before'])} to {share(row[name])}"
                for name in kinds
            ),
            with_interval(row, lambda value: signed(value, points), "spill_over"),
        )
        for _, row in summary.spills.iterrows()
    ]
    return Table.of_rows(
        "Relearning",
        ("", *kinds.values(), "spill-over"),
        rows,
        note="The share of items that are right before a few items of stage A are taught again and "
        "after it, mean over seeds. Spill-over: the rise of the others beyond that of items "
        "never taught, in points, with the least and the most of seeds in brackets.",
    ).without_empty()


def _relative(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else share(value)
