"""Parts: what a page is put together from, and where links lead.

A part is a section with what stands in it, the tables behind its figures, and a few sentences about
it for the head of the page. What there are no results for has no part.

Example:
    >>> part = Part(anchor=Anchor.UPDATES, heading="Updates", pieces=())
    >>> part_section(part)
    '<section id="updates"><h2>Updates</h2></section>'
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.page import Html, Panel, element, figure
from analysis.report.anchors import Anchor
from analysis.text_tables import TextTable, drawn_tables

_IN_A_ROW = 3
"""Panels, where the window is wide enough."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page.

    Attributes:
        anchor: where it is.
        heading: of it.
        pieces: what stands in it, in order.
        tables: what its figures show, by the names of their files.
        findings: sentences for the head of the page.
        anchors: of figures in it.
    """

    anchor: Anchor
    heading: str
    pieces: tuple[Html, ...]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    anchors: tuple[Anchor, ...] = ()


def part_section(part: Part) -> Html:
    """A part as markup."""
    return element("section", element("h2", part.heading), *part.pieces, id=str(part.anchor))


def contents(parts: Iterable[Part]) -> Html:
    """Links to all parts."""
    links = (element("a", part.heading, href=f"#{part.anchor}") for part in parts)
    items = element("ul", *(element("li", link) for link in links), class_="contents")
    return element("nav", items, aria_label="contents")


def figure_at(anchor: Anchor, drawn: Html) -> Html:
    """A figure that links lead to."""
    return element("div", drawn, id=str(anchor))


def even_figure(title: str, caption: str, panels: Sequence[Panel]) -> Html:
    """A figure whose last row is not left with a single panel beside an empty place."""
    wide = len(panels) > 1 and len(panels) % _IN_A_ROW == 1
    return (wide_figure if wide else figure)(title, caption, panels)


def wide_figure(title: str, caption: str, panels: Sequence[Panel]) -> Html:
    """A figure of panels with a row for each arm, which need room for their names."""
    return element("div", figure(title, caption, panels), class_="wide")


def text_table(
    title: str,
    note: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    is_open: bool = False,
) -> Iterable[Html]:
    """A table as pieces of a part; a long one folded away, unless it is to be open."""
    table = TextTable(title, note, tuple(header), tuple(map(tuple, rows)))
    if not table.rows:
        return ()
    if is_open:
        return drawn_tables({title: table}, title, open_rows=len(table.rows))
    return drawn_tables({title: table}, title)
