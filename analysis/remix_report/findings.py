"""Findings of runs of continual memorization, in plain sentences.

The page, the document and the terminal say them. Every sentence follows from the numbers of the
summary. Up to four arms are told one by one; of more, the lowest and the highest.
"""

from collections.abc import Iterator

import pandas as pd

from analysis.numbers import capital, nats, one_seed, share, signed, value_range, with_interval
from analysis.observations import TEXT
from analysis.remix_measures import SHARE, retained
from analysis.remix_report.depth_view import depth_findings
from analysis.remix_report.summary import RemixSummary
from analysis.remix_report.tables import moments_after, others, shares, signed_points
from analysis.runs import TOKENS

TOLD = 4
"""Arms that are told one by one."""
_LEVEL = 0.05


def findings(summary: RemixSummary) -> list[str]:
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
        *depth_findings(summary),
    ]


def _capped(summary: RemixSummary) -> Iterator[str]:
    rows = summary.stages[summary.stages["status"] == "cap reached"]
    for stage, found in rows.groupby("stage", sort=False):
        runs = len(summary.stages[summary.stages["stage"] == stage])
        reasons = dict.fromkeys(found["reason"])
        example = f" ({next(iter(reasons))})" if len(reasons) == 1 else ""
        yield (
            f"Stage {stage} ended at its cap, with its rule not fulfilled, in {len(found)} of "
            f"{runs} runs{example}."
        )


def _kept(summary: RemixSummary) -> Iterator[str]:
    tables = {moment: retained(summary.recalls, moment) for moment in moments_after(summary)}
    if len(summary.arms) > TOLD:
        for moment, table in tables.items():
            if not table.empty:
                values = {str(arm): float(value) for arm, value in table["value"].items()}
                yield value_range(f"The share of A that is right {moment}", values, share)
        return
    for arm in summary.arms:
        parts = [
            f"{with_interval(table.loc[arm.name], share)} {moment}"
            for moment, table in tables.items()
            if arm.name in table.index
        ]
        if parts:
            yield (
                f"{capital(arm.name)}: of the items of stage A, the share that is right is "
                f"{', '.join(parts)}{_seeds(summary, arm.name)}."
            )


def _seeds(summary: RemixSummary, arm: str) -> str:
    """The least and the most of single seeds after the last stage."""
    rows = summary.recalls
    rows = rows[(rows["arm"] == arm) & (rows["items"] == "A") & (rows["measure"] == SHARE)]
    rows = rows[(rows["moment"] == summary.last_moment) & (rows["match"] == TOKENS)]
    single = rows[rows["seed"].notna()]["value"]
    if len(single) < 2:
        return ""
    return f" (seeds {share(single.min())} to {share(single.max())})"


def _compared(summary: RemixSummary) -> Iterator[str]:
    rows = retained(summary.differences, summary.last_moment)
    if rows.empty:
        return
    differ = rows[rows["p_holm"] < _LEVEL]
    each = "; ".join(
        f"{arm} by {with_interval(row, signed_points, 'effect')}{_over_seeds(row)}"
        for arm, row in differ.iterrows()
    )
    yield (
        f"In what is right of A {summary.last_moment}, {len(differ)} of {len(rows)} arms differ "
        f"from their base beyond chance over items{one_seed(rows['seeds'])} (Holm, "
        f"{share(_LEVEL)})"
        f"{': ' if each else ''}{each}."
    )


def _over_seeds(row: pd.Series) -> str:
    if pd.isna(row["seed_low"]):
        return ""
    if row["seed_low"] <= 0 <= row["seed_high"]:
        return " (not beyond what seeds do)"
    return " (beyond what seeds do)"


def _later(summary: RemixSummary) -> Iterator[str]:
    for stage in summary.arms[0].stages[1:]:
        table = retained(summary.recalls, summary.last_moment, stage)
        values = {str(arm): float(value) for arm, value in table["value"].items()}
        if len(values) > 1:
            yield value_range(
                f"The share of {stage} that is right {summary.last_moment}", values, share
            )
        elif values:
            shown = with_interval(table.iloc[0], share)
            yield f"Of the items of stage {stage}, {shown} are right {summary.last_moment}."


def _text(summary: RemixSummary) -> Iterator[str]:
    rows = summary.levels[
        (summary.levels["group"] == TEXT) & (summary.levels["moment"] == summary.last_moment)
    ]
    for measure, found in rows.groupby("measure", sort=False):
        values = dict(zip(found["arm"], found["change"].astype(float), strict=True))
        if len(values) > 1:
            yield value_range(
                f"The change of {measure} since the start",
                values,
                lambda value: signed(value, nats),
            )
        else:
            (change,) = values.values()
            yield f"{capital(str(measure))} changed by {signed(change, nats)} since the start."


def _others(summary: RemixSummary) -> Iterator[str]:
    for items in others(summary):
        before = shares(summary, items, "start", interval=False)
        later = shares(summary, items, summary.last_moment)
        for arm in [one.name for one in summary.arms if one.name in later][:TOLD]:
            was = f"{before[arm]} at the start and " if arm in before else ""
            yield f"{capital(arm)}: of {items}, {was}{later[arm]} {summary.last_moment} are right."


def _relearnt(summary: RemixSummary) -> Iterator[str]:
    rows = summary.spills
    values = dict(zip(rows["arm"], rows["spill_over"].astype(float), strict=True))
    beyond = " beyond items never taught" * bool(rows["never_taught"].notna().any())
    if len(values) > 1:
        yield value_range(
            f"What came back{beyond} of the items of A that were not taught again, while others "
            "were,",
            values,
            signed_points,
        )
    for arm, gain in values.items() if len(values) == 1 else ():
        yield (
            f"{capital(arm)}: while a few items of A were taught again, of the others "
            f"{signed_points(gain)} came back{beyond}."
        )


def _gradients(summary: RemixSummary) -> Iterator[str]:
    rows = summary.signs
    rows = rows[(rows["pair"] == "A and B") & (rows["stage"] == "B")]
    if rows.empty:
        return
    counts = {name: int(rows[name].sum()) for name in ("looks", "negative", "positive", "untold")}
    untold = f"; in {counts['untold']} the sign cannot be told" * bool(counts["untold"])
    yield (
        "In stage B, a small step that learns B makes the loss on A larger in "
        f"{counts['negative']} of {counts['looks']} looks, smaller in {counts['positive']}{untold}."
    )
