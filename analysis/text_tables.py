"""Text tables: tables for people, the same rows in a document, on a page and on a terminal.

Example:
    >>> found = TextTable("Sums", "In whole numbers.", ("", "sum"), (("2 + 3", "5"),))
    >>> markdown_lines(found)[-1]
    '| 2 + 3 | 5 |'
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from analysis.page import Cell, Html, details, element, paragraph, table

_OPEN_ROWS = 8
"""Tables of more rows are folded away."""


@dataclass(frozen=True)
class TextTable:
    """A table of texts; the first column names the rows.

    Attributes:
        title: what it shows.
        note: how to read it.
        header: of its columns.
        rows: their cells.
    """

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def without_empty(table: TextTable) -> TextTable:
    """A table without columns that are empty throughout."""
    kept: Sequence[int] = [
        place
        for place in range(len(table.header))
        if place == 0 or any(row[place] for row in table.rows)
    ]
    return TextTable(
        table.title,
        table.note,
        tuple(table.header[place] for place in kept),
        tuple(tuple(row[place] for place in kept) for row in table.rows),
    )


def markdown_lines(table: TextTable) -> list[str]:
    """A table as a part of a Markdown document, with its title as a heading."""
    return [
        *(f"## {table.title}", "", table.note, ""),
        _line(table.header),
        _line([":--", *["--:"] * (len(table.header) - 1)]),
        *map(_line, table.rows),
    ]


def drawn_tables(
    tables: Mapping[str, TextTable], *beginnings: str, open_rows: int = _OPEN_ROWS
) -> Iterator[Html]:
    """The tables whose titles begin so, as pieces of a page; long ones folded away."""
    for beginning in beginnings:
        for title, found in tables.items():
            if title.startswith(beginning):
                drawn = table(
                    [_whole_words(name) for name in found.header],
                    [[_whole_words(row[0]), *map(_cell, row[1:])] for row in found.rows],
                    caption=title,
                )
                note = paragraph(found.note)
                if len(found.rows) > open_rows:
                    yield details(f"{title} ({len(found.rows)} rows)", note, drawn)
                else:
                    yield from (note, drawn)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def _whole_words(text: str) -> Html:
    """Text that is broken between words only; a wide table is scrolled instead."""
    return Html(" ".join(map(_unbroken, text.split())))


def _cell(text: str) -> str | Cell:
    number, bracket, ends = text.partition(" [")
    return Cell(_unbroken(number), _unbroken(f"[{ends}")) if bracket else _unbroken(number)


def _unbroken(text: str) -> Html:
    return element("span", text, style="white-space:nowrap")
