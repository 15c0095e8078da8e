"""Memory updates on a terminal: a table of correlations, then the findings.

Example:
    >>> print_updates(update_table(checkpoints))                             # doctest: +SKIP
"""

import pandas as pd
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.memory_updates.tables import findings, summary_table


def print_updates(table: pd.DataFrame, console: Console | None = None) -> None:
    """Print a row for each checkpoint, and the findings.

    Args:
        table: `update_table`.
        console: where to; None for the standard output.
    """
    console = console or Console()
    summary = summary_table(table)
    first, *measures = summary.header
    shown = Table(
        title=Text(f"{summary.title}, mean over layers"), title_justify="left", box=SIMPLE
    )
    shown.add_column(first)
    for name in measures:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in summary.rows:
        shown.add_row(*map(Text, row))
    console.print(shown)
    for sentence in findings(table):
        console.print(Text(f"- {sentence}"))
