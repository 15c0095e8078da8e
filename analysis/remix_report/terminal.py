"""Runs of continual memorization on a terminal: what every arm kept, then the findings.

Example:
    >>> print_summary(summary)                                               # doctest: +SKIP
"""

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.remix_report.findings import findings
from analysis.remix_report.recalls import retained
from analysis.remix_report.summary import RemixSummary
from analysis.remix_report.tables import moments_after, shares, signed_points
from analysis.report_texts import p_text


def print_summary(summary: RemixSummary, console: Console | None = None) -> None:
    """Print the table and the findings.

    Args:
        summary: of the runs.
        console: where to; None for the standard output.
    """
    console = console or Console()
    console.print(_table(summary))
    for sentence in findings(summary):
        console.print(Text(f"- {sentence}"))


def _table(summary: RemixSummary) -> Table:
    """A row for each arm; columns that would be empty throughout are left out."""
    columns = {heading: cells for heading, cells in _columns(summary).items() if cells}
    title = Text("Share of items that are right, mean over seeds")
    table = Table(title=title, title_justify="left", box=SIMPLE, collapse_padding=True)
    table.add_column("\narm")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in summary.arms:
        table.add_row(
            Text(arm.name), *(Text(cells.get(arm.name, "")) for cells in columns.values())
        )
    return table


def _columns(summary: RemixSummary) -> dict[str, dict[str, str]]:
    last = summary.last_moment
    *earlier, final = moments_after(summary)
    differences = retained(summary.differences, last)
    found = {f"A,\n{moment}": shares(summary, "A", moment, interval=False) for moment in earlier}
    found[f"A,\n{final}"] = shares(summary, "A", final)
    found["against\nthe base"] = {
        str(arm): signed_points(row["effect"]) for arm, row in differences.iterrows()
    }
    found["p,\nHolm"] = {str(arm): p_text(row["p_holm"]) for arm, row in differences.iterrows()}
    for stage in summary.arms[0].stages[1:]:
        found[f"{stage},\n{last}"] = shares(summary, stage, last, interval=False)
    return found
