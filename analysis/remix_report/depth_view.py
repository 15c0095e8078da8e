"""Where in depth answers are readable, as tables, findings and a section."""

from collections.abc import Iterator, Mapping

import pandas as pd
import plotly.graph_objects as go

from analysis.arm_figures import dots_by_arm
from analysis.depth import Depth, Spread
from analysis.document import Figure, Panel, Section, titled
from analysis.numbers import share
from analysis.remix_curves import STAGES
from analysis.remix_report.summary import RemixSummary
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


_MEASURES = (
    ("share_found", "share readable at some layer", ".1%"),
    ("mean_first_layer", "mean first layer", ".2f"),
    ("effective_layers", "effective number of first layers", ".2f"),
)


def depth_section(
    summary: RemixSummary, colours: dict[str, str], tables: Mapping[str, Table]
) -> Iterator[Section]:
    """The section; nothing where depth was not asked for."""
    if summary.depths.empty:
        return
    yield Section(
        "Where in depth",
        [
            Figure(
                "Where the answers of stage A become readable.",
                "Full dots: after the last stage, mean over seeds; faint dots: single seeds; "
                "open dots: after stage A. An answer is readable where its first token is among "
                "the ten top tokens of the lens; first layers are of answers that are.",
                [
                    Panel(_panel(summary, colours, measure, form), title)
                    for measure, title, form in _MEASURES
                    if summary.depths[measure].notna().any()
                ],
            ),
            *titled(tables, "Where answers", "Whether answers"),
        ],
    )


def _panel(summary: RemixSummary, colours: dict[str, str], measure: str, form: str) -> go.Figure:
    depths = summary.depths.rename(columns={measure: "value"})
    last = depths[(depths["checkpoint"] == summary.last_moment) & depths["value"].notna()]
    first = depths[depths["checkpoint"] == summary.arms[0].moments[1]]
    return dots_by_arm(
        _means(last),
        colours,
        "",
        seeds=last,
        controls=_means(first),
        control_name=summary.arms[0].moments[1],
        form=form,
    )


def _means(table: pd.DataFrame) -> pd.DataFrame:
    means = table.groupby("arm", sort=False, as_index=False)["value"].mean().dropna()
    return means.assign(low=float("nan"), high=float("nan"))
