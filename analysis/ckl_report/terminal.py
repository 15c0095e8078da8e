"""Runs of continual knowledge learning on a terminal: A and F of every arm, then the findings.

Example:
    >>> print_summary(summary)                                               # doctest: +SKIP
"""

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.ckl_report.arms import Moment
from analysis.ckl_report.findings import findings
from analysis.ckl_report.forgetting import ALL_TASKS
from analysis.ckl_report.scores import ALL_KINDS, MET
from analysis.ckl_report.summary import CklSummary
from analysis.ckl_report.tables import acquired_text, forgotten_text, means_over_seeds
from analysis.item_tables import HELD_OUT
from analysis.report_texts import nats


def print_summary(summary: CklSummary, console: Console | None = None) -> None:
    """Print the table and the findings.

    Args:
        summary: of the runs.
        console: where to; None for the standard output.
    """
    console = console or Console()
    console.print(_table(summary))
    for sentence in findings(summary):
        console.print(Text(f"- {sentence}"))


def _table(summary: CklSummary) -> Table:
    """A row for each arm; columns that would be empty throughout are left out."""
    columns = {
        "\nK, start": _starts(summary),
        "A of passages met,\nlast injection": _acquired(summary),
        "\nA, end": _acquired(summary, moment=Moment.END, interval=False),
        "held out,\nlast inj.": _acquired(summary, exposure=HELD_OUT, interval=False),
        "\nF, end": _forgotten(summary),
    }
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    title = Text("K in nats, A and F")
    table = Table(title=title, title_justify="left", box=SIMPLE, collapse_padding=True)
    table.add_column("\narm")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for arm, *cells in zip(summary.arms, *columns.values(), strict=True):
        table.add_row(Text(arm.name), *map(Text, cells))
    return table


def _starts(summary: CklSummary) -> list[str]:
    k = means_over_seeds(summary.knowledge, exposure=MET, kind=ALL_KINDS, moment=Moment.START)
    scores = k.set_index("arm")["score"]
    return [nats(scores[arm.name]) for arm in summary.arms]


def _acquired(
    summary: CklSummary,
    *,
    moment: str = Moment.INJECTED,
    exposure: str = MET,
    interval: bool = True,
) -> list[str]:
    return [
        acquired_text(summary, arm, moment, exposure=exposure, interval=interval)
        for arm in summary.arms
    ]


def _forgotten(summary: CklSummary) -> list[str]:
    f = means_over_seeds(summary.forgotten, task=ALL_TASKS, moment=Moment.END)
    f = f[f["against"] == Moment.START].set_index("arm")
    return [forgotten_text(f.loc[arm.name]) if arm.name in f.index else "" for arm in summary.arms]
