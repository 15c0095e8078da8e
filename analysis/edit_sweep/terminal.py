"""An edit sweep on a terminal: a table of entropies and losses, then the findings.

Example:
    >>> print_sweep(sweep, findings(sweep))                                  # doctest: +SKIP
"""

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.edit_sweep.measurements import EditSweep
from analysis.edit_sweep.tables import HEADER, text_rows
from analysis.theme import shorten

_COLUMNS = {
    "knowledge, predicted": "knowledge,\npredicted",
    "knowledge, after": "knowledge,\nmeasured",
    "contribution, after": "contri-\nbution",
    "attention, after": "\nattention",
    "held-out perplexity, after": "held-out\nperplexity",
}
"""What a terminal has room for; the rest is in the files."""


def print_sweep(sweep: EditSweep, findings: Sequence[str], console: Console | None = None) -> None:
    """Print the table and the findings.

    Args:
        sweep: the measurements.
        findings: sentences.
        console: where to; None for the standard output.
    """
    console = console or Console()
    model = shorten(sweep.result.provenance.model, 36)
    title = f"{model}: entropies after each edit, in nats"
    table = Table(title=Text(title), title_justify="left", box=SIMPLE, collapse_padding=True)
    table.add_column("\nedit, ratio, factor", no_wrap=True)
    for name in _COLUMNS.values():
        table.add_column(Text(name), justify="right")
    places = [HEADER.index(name) for name in _COLUMNS]
    rows = (sweep.unedited, *sweep.rows)
    kinds = [None, *(row.setting.site or "temperature" for row in sweep.rows), None]
    for place, (row, texts) in enumerate(zip(rows, text_rows(sweep), strict=True)):
        # The two numbers speak for themselves under that heading.
        edit = row.setting.label.replace(", ratio", "").replace(", factor", "")
        cells = ["", "refused"] if row.refused else [texts[column] for column in places]
        table.add_row(Text(edit), *map(Text, cells), end_section=kinds[place] != kinds[place + 1])
    console.print(table)
    for sentence in findings:
        console.print(Text(f"- {sentence}"))
