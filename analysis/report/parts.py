"""Parts of the page: a section, the tables behind its figures, and sentences for the page's head.

What there are no results for has no part.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.claims.choices import Anchor
from analysis.document import Figure, Panel, Section, Table
from analysis.document import Part as Piece

_IN_A_ROW = 3
"""Panels, where the window is wide enough."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page.

    Attributes:
        anchor: where links to it lead.
        heading: what it is about.
        pieces: what stands in it, in order.
        tables: what its figures show, by the names of their files.
        findings: sentences for the head of the page.
        anchors: of figures in it.
    """

    anchor: Anchor
    heading: str
    pieces: tuple[Piece, ...]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    anchors: tuple[Anchor, ...] = ()

    @property
    def section(self) -> Section:
        """The part as a section of a report."""
        return Section(self.heading, self.pieces, anchor=str(self.anchor))


def even_figure(
    title: str, caption: str, panels: Sequence[Panel], anchor: Anchor | None = None
) -> Figure:
    """A figure whose last row is not left with a single panel beside an empty place."""
    wide = len(panels) > 1 and len(panels) % _IN_A_ROW == 1
    return Figure(title, caption, panels, anchor=anchor, is_wide=wide)


def wide_figure(
    title: str, caption: str, panels: Sequence[Panel], anchor: Anchor | None = None
) -> Figure:
    """A figure of panels with a row for each arm, which need room for their names."""
    return Figure(title, caption, panels, anchor=anchor, is_wide=True)


def text_table(
    title: str,
    note: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    is_open: bool | None = None,
) -> list[Table]:
    """A table of a part, if it has rows."""
    found = Table.of_rows(title, header, rows, note=note, is_open=is_open)
    return [found] if found.rows else []
