"""Depth in words: where the items of stage A are readable, and whether that moved.

Example:
    >>> depth_findings(summary)                                              # doctest: +SKIP
    ['From start to after A, answers lie earlier in 2 of 3 runs and in more layers in 3 ...']
"""

from collections.abc import Iterator

import pandas as pd

from analysis.fact_depth import Depth, Spread
from analysis.remix_report.depths import STAGES
from analysis.remix_report.summary import RemixSummary
from analysis.report_texts import share
from analysis.theme import nats
from probes.tables import Table

_TESTS = {
    "found": "readable",
    "first_layer": "first layer",
    "effective_layers": "effective layers",
    "rank_area": "rank area",
}


def depth_text_tables(summary: RemixSummary) -> Iterator[Table]:
    """The tables; none where depth was not asked for."""
    if summary.depths.empty:
        return
    yield _level_table(summary)
    yield _change_table(summary)


def depth_findings(summary: RemixSummary) -> Iterator[str]:
    """What stages did to depth, over all arms and seeds, and what arms have beside their bases."""
    if summary.depth_changes.empty:
        return
    for (compared, before, after), rows in _changes(summary).groupby(
        ["compared", "before", "after"], sort=False
    ):
        what = f"From {before} to {after}" if compared == STAGES else f"Against the base, {after}"
        if (rows["depth"] == str(Depth.NOT_SHOWN)).all() and (
            rows["spread"] == str(Spread.NOT_SHOWN)
        ).all():
            yield f"{what}, no move of the answers of A in depth is shown in {len(rows)} runs."
            continue
        yield (
            f"{what}, the answers of A become readable earlier in "
            f"{_count(rows['depth'], Depth.EARLIER)} and later in "
            f"{_count(rows['depth'], Depth.LATER)} of {len(rows)} runs, in more layers in "
            f"{_count(rows['spread'], Spread.MORE_LAYERS)} and in fewer in "
            f"{_count(rows['spread'], Spread.FEWER_LAYERS)}; in the others no move is shown."
        )


def _changes(summary: RemixSummary) -> pd.DataFrame:
    """One row for every change, whatever the number of its tests."""
    keys = ["arm", "seed", "compared", "before", "after"]
    return summary.depth_changes.drop_duplicates(keys)


def _count(values: pd.Series, wanted: str) -> int:
    return int((values == str(wanted)).sum())


def _level_table(summary: RemixSummary) -> Table:
    grouped = summary.depths.groupby(["arm", "checkpoint"], sort=False)
    rows = [
        (
            f"{arm}: {moment}",
            share(found["share_found"].mean()),
            _number(found["mean_first_layer"].mean()),
            _number(found["effective_layers"].mean()),
            share(found["rank_area"].mean()),
        )
        for (arm, moment), found in grouped
    ]
    return Table.of_rows(
        "Where answers become readable",
        ("", "readable", "first layer", "effective layers", "rank area"),
        rows,
        note="By the lens: the share of answers whose first token is among the ten top tokens at "
        "some layer; of these the mean first layer, and the effective number of layers that "
        "first layers lie in; and the rank area, over all answers. Means over seeds. Arms "
        "whose edits are hooks are left out.",
    )


def _change_table(summary: RemixSummary) -> Table:
    rows = []
    keys = ["arm", "compared", "before", "after"]
    for (arm, _, before, after), found in summary.depth_changes.groupby(keys, sort=False):
        effects = found.groupby("test")["effect"].mean()
        runs = found.drop_duplicates("seed")
        rows.append(
            (
                f"{arm}: {before} to {after}",
                *(_number(effects.get(name), sign=True) for name in _TESTS),
                ", ".join(runs["depth"].astype(str)),
                ", ".join(runs["spread"].astype(str)),
            )
        )
    return Table.of_rows(
        "Whether answers moved",
        ("", *_TESTS.values(), "depth", "spread"),
        rows,
        note="Changes, mean over seeds: in the share that is readable, in layers (of answers "
        "readable before and after), in the effective number of these layers, in rank area. "
        "The verdicts are those of single seeds, with p-values adjusted over the four tests.",
    )


def _number(value: float | None, *, sign: bool = False) -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{value:+.2f}" if sign else nats(value)
