"""Findings of runs of continual memorization, in plain sentences, and numbers as they say them.

Every sentence follows from the tables of the summary. Up to four arms have sentences of their own;
of more, the lowest and the highest are named.
"""

from collections.abc import Iterator

import pandas as pd

from analysis.arm_report import MOST_ARMS, Summary, cells, differing, each_or_range, ranged
from analysis.depth import Depth, Spread
from analysis.numbers import (
    capital,
    share,
    signed_nats,
    signed_points,
    value_range,
    with_interval,
)
from analysis.observations import TEXT, rows_where
from analysis.remix_curves import DEPTH_KEYS, STAGES
from analysis.remix_measures import retained
from analysis.runs import Moment


def findings(summary: Summary) -> list[str]:
    """What stands out."""
    return [
        *_capped(summary),
        *_kept(summary),
        *_compared(summary),
        *_later(summary),
        *_text(summary),
        *_others(summary),
        *_relearnt(summary),
        *_gradients(summary),
        *_depths(summary),
    ]


def last_moment(summary: Summary) -> str:
    """After the last stage of the first arm."""
    return str(summary.arms[0].moments[-1])


def untaught(summary: Summary) -> list[str]:
    """Lists that no stage taught: facts that the start knew before, say."""
    names = summary["recalls"]["items"].unique()
    return [str(name) for name in names if name not in summary.arms[0].stages]


def text_rows(summary: Summary) -> pd.DataFrame:
    """Held-out text after the last stage."""
    return rows_where(summary["levels"], group=TEXT, moment=last_moment(summary))


def _capped(summary: Summary) -> Iterator[str]:
    stages = summary["stages"]
    for stage, found in rows_where(stages, status="cap reached").groupby("stage", sort=False):
        reasons = found["reason"].unique()
        example = f" ({reasons[0]})" if len(reasons) == 1 else ""
        yield (
            f"Stage {stage} ended at its cap, with its rule not fulfilled, in {len(found)} of "
            f"{(stages['stage'] == stage).sum()} runs{example}."
        )


def _kept(summary: Summary) -> Iterator[str]:
    moments = summary.arms[0].moments[1:]
    tables = {moment: retained(summary["recalls"], moment) for moment in moments}
    if len(summary.arms) > MOST_ARMS:
        for moment, table in tables.items():
            if len(table):
                values = dict(table.set_index("arm")["value"])
                yield value_range(f"The share of A that is right {moment}", values, share)
        return
    single = retained(summary["recalls"], moments[-1], seeds=True)
    seeds = single.groupby("arm")["value"].agg(["min", "max", "size"])
    texts = {moment: cells(table, ranged(share)) for moment, table in tables.items()}
    for arm in summary.names:
        parts = [f"{known[arm]} {moment}" for moment, known in texts.items() if arm in known]
        if parts:
            low, high, number = seeds.loc[arm] if arm in seeds.index else (0, 0, 0)
            spread = f" (seeds {share(low)} to {share(high)})" if number > 1 else ""
            yield (
                f"{capital(arm)}: of the items of stage A, the share that is right is "
                f"{', '.join(parts)}{spread}."
            )


def _compared(summary: Summary) -> Iterator[str]:
    rows = retained(summary["differences"], last_moment(summary))
    if len(rows):
        what = f"what is right of A {last_moment(summary)}"
        yield differing(what, rows, signed_points, over="items", beside=_over_seeds)


def _over_seeds(row: pd.Series) -> str:
    if pd.isna(row["seed_low"]):
        return ""
    beyond = not row["seed_low"] <= 0 <= row["seed_high"]
    return f" ({'' if beyond else 'not '}beyond what seeds do)"


def _later(summary: Summary) -> Iterator[str]:
    last = last_moment(summary)
    for stage in summary.arms[0].stages[1:]:
        rows = retained(summary["recalls"], last, stage)
        if len(rows) > 1:
            values = dict(rows.set_index("arm")["value"])
            yield value_range(f"The share of {stage} that is right {last}", values, share)
        elif len(rows):
            shown = with_interval(rows.iloc[0], share)
            yield f"Of the items of stage {stage}, {shown} are right {last}."


def _text(summary: Summary) -> Iterator[str]:
    for measure, rows in text_rows(summary).groupby("measure", sort=False):
        changes = rows.set_index("arm")["change"].astype(float)
        if len(changes) > 1:
            yield value_range(
                f"The change of {measure} since the start", dict(changes), signed_nats
            )
        else:
            by = signed_nats(changes.iloc[0])
            yield f"{capital(str(measure))} changed by {by} since the start."


def _others(summary: Summary) -> Iterator[str]:
    last = last_moment(summary)
    for items in untaught(summary):
        before = cells(retained(summary["recalls"], Moment.START, items), ("value", share))
        later = cells(retained(summary["recalls"], last, items), ranged(share))
        for arm in [name for name in summary.names if name in later][:MOST_ARMS]:
            was = f"{before[arm]} at the start and " if arm in before else ""
            yield f"{capital(arm)}: of {items}, {was}{later[arm]} {last} are right."


def _relearnt(summary: Summary) -> Iterator[str]:
    rows = summary["spills"]
    beyond = " beyond items never taught" * bool(rows["never_taught"].notna().any())
    yield from each_or_range(
        f"What came back{beyond} of the items of A that were not taught again, while others were,",
        rows.astype({"spill_over": float}),
        signed_points,
        lambda row: (
            f"{capital(row['arm'])}: while a few items of A were taught again, of the others "
            f"{signed_points(row['spill_over'])} came back{beyond}."
        ),
        "spill_over",
        most=1,
    )


def _gradients(summary: Summary) -> Iterator[str]:
    rows = rows_where(summary["signs"], pair="A and B", stage="B")
    if rows.empty:
        return
    counts = {name: int(rows[name].sum()) for name in ("looks", "negative", "positive", "untold")}
    unclear = f"; in {counts['untold']} the sign is not clear" * bool(counts["untold"])
    yield (
        "In stage B, a small step that learns B makes the loss on A larger in "
        f"{counts['negative']} of {counts['looks']} evaluations, smaller in {counts['positive']}"
        f"{unclear}."
    )


def _depths(summary: Summary) -> Iterator[str]:
    """What stages did to depth, over all arms and seeds, and what arms have beside their bases."""
    if summary["depth_changes"].empty:
        return
    # One row for every change, whatever the number of its tests.
    changes = summary["depth_changes"].drop_duplicates(["arm", "seed", *DEPTH_KEYS])
    for (compared, before, later), rows in changes.groupby(list(DEPTH_KEYS), sort=False):
        what = f"From {before} to {later}" if compared == STAGES else f"Against the base, {later}"
        verdicts = pd.concat([rows["depth"], rows["spread"]]).value_counts()
        numbers = {kind: verdicts.get(str(kind), 0) for kind in (*Depth, *Spread)}
        moves = (Depth.EARLIER, Depth.LATER, Spread.MORE_LAYERS, Spread.FEWER_LAYERS)
        earlier, deeper, more, fewer = (numbers[kind] for kind in moves)
        if not (earlier or deeper or more or fewer):
            yield f"{what}, no move of the answers of A in depth is shown in {len(rows)} runs."
            continue
        yield (
            f"{what}, the answers of A become readable earlier in {earlier} and later in {deeper} "
            f"of {len(rows)} runs, in more layers in {more} and in fewer in {fewer}; in the others "
            "no move is shown."
        )
