"""Page: one self-contained HTML file of text, tables and interactive figures.

plotly.js, the style sheet and the script are written into the page once; it asks the network for
nothing. Every piece takes plain text and escapes it; only what is already `Html` is left alone,
so that a model called `<script>` stays text. `page.css` and `page.js` lie beside this module.

Example:
    >>> body = [section("Findings", paragraph("2 < 3"))]
    >>> "2 &lt; 3" in page("Arithmetic", body)
    True
"""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


@dataclass(frozen=True)
class Panel:
    """One plot of a figure."""

    plot: go.Figure
    heading: str | None = None


@dataclass(frozen=True)
class Cell:
    """A table cell: a value, and something smaller beneath it."""

    value: str
    note: str | None = None


def escape(value: object) -> Html:
    """Anything as markup that shows it; `Html` as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def element(tag: str, *children: object, **attributes: str | None) -> Html:
    """An HTML element."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{given}>{joined(children)}</{tag}>")


def joined(pieces: Iterable[object]) -> Html:
    """Pieces one after the other."""
    return Html("".join(escape(piece) for piece in pieces))


def paragraph(*children: object) -> Html:
    """A paragraph."""
    return element("p", *children)


def section(heading: str, *children: object) -> Html:
    """A part of the page with a heading."""
    return element("section", element("h2", heading), *children)


def whole(text: str) -> Html:
    """Text that is not broken between lines unless it is longer than a line."""
    return element("span", text, class_="whole")


def bullets(items: Iterable[object], class_: str | None = None) -> Html:
    """A list; of findings with `class_="findings"`."""
    return element("ul", *(element("li", item) for item in items), class_=class_)


def details(summary: str, *children: object) -> Html:
    """Something that is folded away until a reader asks for it."""
    return element("details", element("summary", summary), *children)


def definitions(pairs: Mapping[str, object]) -> Html:
    """Names and values, as a definition list."""
    return element(
        "dl", *(piece for name, value in pairs.items() for piece in _definition(name, value))
    )


def _definition(name: str, value: object) -> tuple[Html, Html]:
    return element("dt", name), element("dd", value)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, caption: str | None = None
) -> Html:
    """A table; the first column names the rows, the others hold numbers."""
    head = element("tr", *(element("th", name, scope="col") for name in header))
    body = (
        element("tr", element("th", _cell(row[0]), scope="row"), *_data_cells(row[1:]))
        for row in rows
    )
    caption_element = element("caption", caption) if caption else Html()
    grid = element("table", caption_element, element("thead", head), element("tbody", *body))
    # A reader with a keyboard scrolls a wide table only where it can have the focus.
    return element("div", grid, class_="scroll", tabindex="0", role="group", aria_label=caption)


def _data_cells(cells: Sequence[str | Cell]) -> list[Html]:
    return [element("td", _cell(cell)) for cell in cells]


def _cell(cell: str | Cell) -> Html:
    if not isinstance(cell, Cell):
        return escape(cell)
    note = element("small", cell.note) if cell.note else Html()
    return joined([cell.value, note])


def figure(title: str, caption: object, panels: Sequence[Panel]) -> Html:
    """A numbered figure of one or more plots, side by side where the window is wide enough."""
    plots = element("div", *(_panel(panel, title) for panel in panels), class_="panels")
    heading = element("b", title)
    return element("figure", plots, element("figcaption", heading, " ", caption))


def _panel(panel: Panel, title: str) -> Html:
    # In JSON "<" can be written as an escape, and then no content can end the script element;
    # plotly happens to do so too, but does not promise it.
    data = Html(panel.plot.to_json().replace("<", "\\u003c"))
    heading = element("h3", panel.heading) if panel.heading else Html()
    height = f"height:{panel.plot.layout.height or 420}px"
    name = f"{title}: {panel.heading}" if panel.heading else title
    return element(
        "div",
        heading,
        element("div", class_="plot", style=height, role="img", aria_label=name),
        element("script", data, type="application/json"),
        class_="panel",
    )


def page(
    title: str,
    body: Iterable[Html],
    *,
    heading: object | None = None,
    kicker: str = "mnemoscope",
    deck: object = "",
) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    header = element(
        "header",
        element("p", kicker, class_="kicker"),
        element("h1", title if heading is None else heading),
        element("p", deck, class_="deck"),
    )
    head = joined(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            # Browsers ask a server for /favicon.ico unless a page says that it has none.
            Html('<link rel="icon" href="data:,">'),
            element("title", title),
            element("style", Html(_beside("page.css"))),
        ]
    )
    toggle = element("button", "Dark", id="theme", type="button", aria_label="dark colours")
    main = element("main", toggle, header, *body, _footer())
    scripts = [element("script", Html(text)) for text in (get_plotlyjs(), _beside("page.js"))]
    document = element("html", element("head", head), element("body", main, *scripts), lang="en")
    return f"<!doctype html>\n{document}\n"


def _footer() -> Html:
    from importlib.metadata import version

    return element("footer", f"Made by mnemoscope {version('mnemoscope')}. This page is one file.")


def _beside(name: str) -> str:
    return Path(__file__).with_name("templates").joinpath(name).read_text(encoding="utf-8")


def as_json(value: object) -> Html:
    """A value, indented, as preformatted text."""
    return element("pre", json.dumps(value, indent=2, ensure_ascii=False, default=str))
