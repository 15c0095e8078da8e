"""Depth on the page: where the items of stage A are readable, before and after every stage."""

from collections.abc import Iterator, Mapping

import pandas as pd
import plotly.graph_objects as go

from analysis.arm_figures import dots_by_arm
from analysis.document import Figure, Panel, Section, titled
from analysis.remix_report.summary import RemixSummary
from probes.tables import Table

_MEASURES = (
    ("share_found", "share readable at some layer", ".1%"),
    ("mean_first_layer", "mean first layer", ".2f"),
    ("effective_layers", "effective number of first layers", ".2f"),
)


def depth_section(
    summary: RemixSummary, colours: dict[str, str], tables: Mapping[str, Table]
) -> Iterator[Section]:
    """The section; nothing where depth was not asked for.

    Args:
        summary: of the runs.
        colours: of the arms.
        tables: by their titles.
    """
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
