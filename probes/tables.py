"""Tables for people: the same rows on a terminal, in a document and on a page.

Example:
    >>> found = Table.of_rows("Sums", ("", "sum"), [("2 + 3", "5")])
    >>> markdown_table(found)[-1]
    '| 2 + 3 | 5 |'
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

OPEN_ROWS = 8
"""A page folds away tables with more rows."""
_NUMBER = 30
"""Characters that a number and its interval have at most; a terminal does not break them."""


class Where(Flag):
    """The renderings that show a table."""

    PAGE = auto()
    DOCUMENT = auto()
    TERMINAL = auto()
    FILES = PAGE | DOCUMENT
    EVERYWHERE = FILES | TERMINAL


@dataclass(frozen=True)
class Cell:
    """A value, and something smaller with it: its interval, what it was predicted to be."""

    value: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.value} {self.note}".strip()


def as_cell(cell: str | Cell) -> Cell:
    """A cell in two parts: of a text like "5.25 [4.00, 6.50]" the interval is the second."""
    if isinstance(cell, Cell):
        return cell
    value, bracket, ends = cell.partition(" [")
    return Cell(value, f"[{ends}") if bracket else Cell(cell)


@dataclass(frozen=True)
class Column:
    """A column of a table made from a data frame.

    Attributes:
        heading: what stands above it.
        show: the cell of a row.
        brief: what stands above it on a terminal; None where a terminal has no room for it.
    """

    heading: str
    show: Callable[[Any], "str | Cell"]
    brief: str | None = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts; the first column names the rows.

    Attributes:
        title: what it shows.
        header: names of the columns.
        rows: as many cells each.
        note: how to read it.
        brief: names of the columns on a terminal, None for those that are left out there; empty
            for all of `header`.
        groups: what rows belong to, where a terminal draws a line between groups.
        where: what it is shown on.
        is_open: whether a page shows all of it at once; None for tables of at most `OPEN_ROWS`.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    note: str = ""
    brief: tuple[str | None, ...] = ()
    groups: tuple[str, ...] = ()
    where: Where = Where.FILES
    is_open: bool | None = None

    @classmethod
    def of_rows(
        cls,
        title: str,
        header: Sequence[str],
        rows: Iterable[Sequence[str | Cell]],
        **settings: Any,
    ) -> "Table":
        """A table from its cells."""
        return cls(title=title, header=tuple(header), rows=tuple(map(tuple, rows)), **settings)

    @classmethod
    def of_frame(
        cls, title: str, frame: "pd.DataFrame", columns: Sequence[Column], **settings: Any
    ) -> "Table":
        """A table from a data frame, a row for each of its rows."""
        rows = [tuple(column.show(row) for column in columns) for _, row in frame.iterrows()]
        heads = tuple(column.heading for column in columns)
        brief = tuple(column.heading if column.brief == "" else column.brief for column in columns)
        return cls(title=title, header=heads, rows=tuple(rows), brief=brief, **settings)

    @property
    def is_on_page(self) -> bool:
        """Whether a page shows it."""
        return bool(self.rows) and Where.PAGE in self.where

    @property
    def folded(self) -> bool:
        """Whether a page folds it away."""
        return len(self.rows) > OPEN_ROWS if self.is_open is None else not self.is_open

    def without_empty(self) -> "Table":
        """Without columns that are empty throughout, and the same otherwise."""
        kept = [i for i in range(len(self.header)) if i == 0 or any(str(r[i]) for r in self.rows)]
        return replace(
            self,
            header=tuple(self.header[i] for i in kept),
            rows=tuple(tuple(row[i] for i in kept) for row in self.rows),
            brief=tuple(self.brief[i] for i in kept) if self.brief else (),
        )


def print_tables(
    tables: Iterable[Table], sentences: Iterable[str] = (), console: "Console | None" = None
) -> None:
    """Print tables and then sentences, a bullet each."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    for table in tables:
        console.print(_rich_table(table))
    for sentence in sentences:
        console.print(Text(f"- {sentence}"))


def _rich_table(table: Table) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table as RichTable
    from rich.text import Text

    brief = table.brief or table.header
    kept = [i for i, name in enumerate(brief) if name is not None]
    drawn = RichTable(
        title=Text(table.title), title_justify="left", box=SIMPLE, collapse_padding=True
    )
    for i in kept:
        short = all(len(str(row[i])) <= _NUMBER for row in table.rows)
        drawn.add_column(
            Text(str(brief[i])),
            justify="right" if i and short else "left",
            no_wrap=short,
            overflow="fold",
        )
    following = (*table.groups[1:], None)
    for place, row in enumerate(table.rows):
        ends = bool(table.groups) and table.groups[place] != following[place]
        drawn.add_row(*(Text(str(row[i])) for i in kept), end_section=ends)
    return drawn


def markdown_table(table: Table) -> list[str]:
    """A table as lines of Markdown, with its title as a heading."""
    note = [table.note, ""] if table.note else []
    return [
        *(f"## {table.title}", "", *note),
        _line(table.header),
        _line([":--", *["--:"] * (len(table.header) - 1)]),
        *map(_line, table.rows),
    ]


def _line(cells: Iterable[str | Cell]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
