"""Tables of a report that stand behind the others: seed by seed, free answers, stages, levels.

Example:
    >>> [table.title for table in detail_tables(summary)]                    # doctest: +SKIP
"""

from collections.abc import Iterator

import pandas as pd

from analysis.ckl_report.levels import RECALLED, guessing
from analysis.remix_report.chains import TOKENS
from analysis.remix_report.depth_texts import depth_text_tables
from analysis.remix_report.levels import NEURONS, TASKS
from analysis.remix_report.mechanism_tables import mechanism_tables
from analysis.remix_report.recalls import SHARE
from analysis.remix_report.summary import RemixSummary
from analysis.report_texts import guessed, nats, points, share, with_interval
from analysis.theme import count
from probes.tables import Table


def detail_tables(summary: RemixSummary) -> Iterator[Table]:
    """The tables."""
    yield _seed_table(summary)
    yield _free_table(summary)
    yield _stage_table(summary)
    yield _level_table(summary)
    yield from mechanism_tables(summary)
    yield from depth_text_tables(summary)


def _seed_table(summary: RemixSummary) -> Table:
    rows = summary.recalls[
        (summary.recalls["measure"] == SHARE) & (summary.recalls["match"] == TOKENS)
    ]
    rows = rows[(rows["items"] == "A") & (rows["moment"] == summary.last_moment)]
    single = rows[rows["seed"].notna()].set_index(["arm", "seed"])["value"]
    means = rows[rows["seed"].isna()].set_index("arm")
    seeds = sorted({seed for arm in summary.arms for seed in arm.seeds})
    cells = [
        (
            arm.name,
            *(share(single[arm.name, s]) if (arm.name, s) in single.index else "" for s in seeds),
            share(means["value"][arm.name]),
            "" if pd.isna(means["deviation"][arm.name]) else points(means["deviation"][arm.name]),
        )
        for arm in summary.arms
        if arm.name in means.index
    ]
    return Table.of_rows(
        f"A, {summary.last_moment}, seed by seed",
        ("", *(f"seed {seed}" for seed in seeds), "mean", "deviation"),
        cells,
        note="The share of the items of stage A that are right. The deviation is between seeds.",
    ).without_empty()


def _free_table(summary: RemixSummary) -> Table:
    """What counts as right, side by side."""
    rows = summary.recalls[(summary.recalls["measure"] == SHARE) & summary.recalls["seed"].isna()]
    rows = rows[rows["moment"] == summary.last_moment]
    matches = list(dict.fromkeys(rows["match"]))
    if len(matches) < 2:
        return Table.of_rows("", ("",), (), note="")
    values = rows.set_index(["arm", "items", "match"])
    keys = dict.fromkeys(zip(rows["arm"], rows["items"], strict=True))
    cells = [
        (
            f"{arm}: {items}",
            *(
                with_interval(values.loc[(arm, items, match)], share)
                if (arm, items, match) in values.index
                else ""
                for match in matches
            ),
        )
        for arm, items in keys
    ]
    return Table.of_rows(
        "What counts as right",
        ("", *matches),
        cells,
        note=f"The share of items that are right {summary.last_moment}: \u201ctokens\u201d is "
        f"the most probable token at every place of the answer, given the right ones "
        "before; the others compare the answer that the model gives by itself.",
    )


def _stage_table(summary: RemixSummary) -> Table:
    grouped = summary.stages.groupby(["arm", "stage"], sort=False)
    rows = [
        (
            f"{arm}: {stage}",
            ", ".join(
                f"{status} ({number})" if len(found) > 1 else status
                for status, number in found["status"].value_counts().items()
            ),
            _range(found["steps"]),
            _range(found["trained_tokens"]),
            "yes" if found["shared"].all() else "",
        )
        for (arm, stage), found in grouped
    ]
    return Table.of_rows(
        "How stages ended",
        ("", "status", "updates", "trained tokens", "shared"),
        rows,
        note="Updates and trained tokens of single runs, from the least to the most. A stage whose "
        "rule was not fulfilled ended at its cap. Shared stages were run once for several "
        "arms.",
    ).without_empty()


def _range(values: pd.Series) -> str:
    low, high = count(int(values.min())), count(int(values.max()))
    return low if low == high else f"{low} to {high}"


def _level_table(summary: RemixSummary) -> Table:
    levels = summary.levels
    there = dict.fromkeys(zip(levels["measure"], levels["moment"], strict=True))
    measures = dict.fromkeys(levels["measure"])
    columns = [(m, moment) for m in measures for moment in summary.arms[0].moments]
    columns = [column for column in columns if column in there]
    values = levels.set_index(["arm", "measure", "moment"])["value"]
    groups = dict(zip(levels["measure"], levels["group"], strict=True))
    tables = (
        stage.run.task_scores
        for arm in summary.arms
        for chain in arm.chains
        for stage in chain.stages.values()
    )
    chance = guessed(guessing(tables)) if RECALLED in measures else ""
    rows = [
        (
            arm.name,
            *(_level(values.get((arm.name, *column)), groups[column[0]]) for column in columns),
        )
        for arm in summary.arms
        if columns
    ]
    return Table.of_rows(
        "Text, tasks and entropies",
        ("", *map(", ".join, columns)),
        rows,
        note="Means over seeds. Entropies in nats, summed over layers; next-token entropy a mean "
        f"over positions; dormant neurons a mean over layers{'; ' * bool(chance)}{chance}.",
    )


def _level(value: float | None, group: str) -> str:
    if value is None or pd.isna(value):
        return ""
    return share(value) if group in (NEURONS, TASKS) else nats(value)
