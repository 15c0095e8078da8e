"""Tables of a report for people: the same rows in a document, on a page and on a terminal.

Shares in percent, log-probabilities in nats. A number in brackets is an interval over items.
"""

from collections.abc import Iterator

import pandas as pd

from analysis.arms import RemixArm
from analysis.numbers import (
    guessed,
    nats,
    nats_or_none,
    p_text,
    points,
    share,
    signed,
    with_interval,
)
from analysis.observations import NEURONS, RECALLED, TASKS, TEXT, guessing
from analysis.remix_measures import SHARE, retained
from analysis.remix_report.depth_view import depth_text_tables
from analysis.remix_report.summary import RemixSummary
from analysis.runs import TOKENS, Moment, after
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
        for chain in arm.runs
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
        for moment in (Moment.START, last):
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
