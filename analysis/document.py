"""Documents as data: a report's parts, as terminal text, Markdown or a page (`templates/`).

A command makes one `Report` of findings and sections and hands it over: `print_report`, `markdown`,
`html`. The page is one file that asks the network for nothing; its template escapes everything.

Example:
    >>> found = Table.of_rows("Sums", ("", "sum"), [("2 + 3", "5")])
    >>> report = Report(title="Arithmetic", sections=[Section("Numbers", [found, "2 < 3"])])
    >>> "| 2 + 3 | 5 |" in markdown(report), "2 &lt; 3" in html(report)
    (True, True)
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.numbers import texts
from probes.shown import Cell, Table, Where, as_cell, json_text, markdown_table, print_tables

if TYPE_CHECKING:
    import jinja2
    import pandas as pd
    import plotly.graph_objects as go
    from rich.console import Console

    from probes.results import Provenance

__all__ = ["Cell", "Table", "Where", "markdown_table"]

_IN_A_ROW = 3  # panels, where the window is wide enough
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Panel:
    """One plot of a figure."""

    plot: "go.Figure"
    heading: str | None = None

    @property
    def height(self) -> int:
        """Pixels."""
        return self.plot.layout.height or 420

    @property
    def data(self) -> str:
        """JSON for a script element."""
        return _unclosing(self.plot.to_json())


@dataclass(frozen=True)
class Figure:
    """A numbered figure of one or more plots, side by side where the window is wide enough."""

    title: str  # what it shows, in a few words; set before the caption
    caption: str  # how to read it
    panels: Sequence[Panel]  # the plots
    anchor: str | None = None  # the target of links to it
    # whether its plots need room for long names, and stand two in a row at most
    is_wide: bool = False


@dataclass(frozen=True)
class Paragraph:
    """A paragraph that begins with what it is about; one without is a plain string."""

    lead: str
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: Mapping[str, object]


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command, or several in lines of their own."""

    text: str


@dataclass(frozen=True)
class Settings:
    """Plain values, as indented JSON."""

    value: object

    @property
    def text(self) -> str:
        return json.dumps(self.value, indent=2, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Fold:
    """Parts that are folded away until a reader asks for them."""

    summary: str
    parts: "Sequence[Part]"


@dataclass(frozen=True)
class Switches:
    """Buttons that take series out of all figures of their section, and put them back.

    A trace says in `meta["keys"]` what it stands for. Groups with a single key are left out.
    """

    # the colour of every key, by group; None where it has none
    groups: Mapping[str, Mapping[str, str | None]]
    off: Sequence[str] = ()  # keys that are switched off at first


@dataclass(frozen=True)
class Template:
    """A part with a template of its own, `templates/NAME.html.j2`."""

    name: str  # the template's name
    values: Mapping[str, Any] = field(default_factory=dict)  # what it is filled with


_Text = str | Paragraph | Bullets | Facts | Heading | Code | Settings
Part = _Text | Table | Figure | Fold | Switches | Template


@dataclass(frozen=True)
class Section:
    """A part of a report with a heading."""

    heading: str  # what it is about
    parts: Sequence[Part]  # what stands in it, in order
    anchor: str | None = None  # the target of links to it


def origin_fold(name: str, provenance: "Provenance") -> Fold:
    """The provenance of a result, folded away under its name."""
    origin = asdict(provenance)
    configuration = Settings(origin.pop("configuration"))
    versions = ", ".join(f"{n} {v}" for n, v in origin.pop("versions").items())
    known = {key.replace("_", " "): v for key, v in origin.items() if v is not None}
    return Fold(name, [Facts({**known, "versions": versions}), configuration])


def figure(
    title: str,
    caption: str,
    panels: Iterable[Panel],
    *,
    anchor: str | None = None,
    is_wide: bool | None = None,
) -> list[Figure]:
    """A figure, if it has panels; wide where its last row would be a single one of three."""
    found = list(panels)
    wide = len(found) > 1 and len(found) % _IN_A_ROW == 1 if is_wide is None else is_wide
    return [Figure(title, caption, found, anchor=anchor, is_wide=wide)] if found else []


def table_of(
    title: str, frame: "pd.DataFrame", columns: Mapping[str, str], note: str = "", **settings: Any
) -> Table:
    """A table with a row for each row of a frame; columns are texts (`say`) by their headings."""
    rows = zip(*(texts(frame, text) for text in columns.values()), strict=True)
    return Table.of_rows(title, tuple(columns), rows, note=note, **settings).without_empty()


def titled(tables: Mapping[str, Table], *beginnings: str) -> list[Table]:
    """The tables whose titles begin so, in the order of the beginnings."""
    return [table for one in beginnings for title, table in tables.items() if title.startswith(one)]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a command has to say."""

    title: str  # also the title of the browser's tab
    sections: Sequence[Section]  # its parts
    # above the page, pieces that are kept whole between lines; empty for the title
    heading: Sequence[str] = ()
    kicker: str = "mnemoscope"  # what kind of report it is, in small letters above the heading
    deck: str = ""  # what it is about, in a sentence
    findings: Sequence[str] = ()  # what was found, in sentences
    definitions: Sequence[str | Paragraph] = ()  # how numbers are defined
    command: str = ""  # what made it
    # what it was made from, in words, by name
    provenance: Mapping[str, str] = field(default_factory=dict)
    # commands that make the runs behind it, by what the runs are called
    runs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    has_contents: bool = False  # whether a page begins with links to its sections
    # what a terminal says after the findings; a page has it where it belongs
    notes: Sequence[str] = ()

    def tables(self, where: Where) -> Iterator[Table]:
        """The tables that have rows and are shown somewhere, in order."""
        for section in self.sections:
            yield from _tables(section.parts, where)


def _tables(parts: "Sequence[Part]", where: Where) -> Iterator[Table]:
    for part in parts:
        if isinstance(part, Table) and part.rows and part.where & where:
            yield part
        elif isinstance(part, Fold):
            yield from _tables(part.parts, where)


def save_report(
    report: Report,
    out: Path,
    name: str,
    *,
    content: Mapping[str, Any],
    tables: "Mapping[str, pd.DataFrame]",
) -> None:
    """Write a report into a folder as JSON, CSV, Markdown and a page, and print it."""
    for each, table in tables.items():
        (out / each).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / f"{each}.csv", index=False)
    numbers = json_text(content, f"{out / name}.json", indent=1) + "\n"
    # The numbers last: a folder that has them is a result.
    for ending, text in ((".md", markdown(report)), (".html", html(report)), (".json", numbers)):
        (out / f"{name}{ending}").write_text(text, encoding="utf-8")
    print_report(report)
    # Not through rich, which would break a long path between lines.
    print(f"page: {out / name}.html")


def print_report(report: Report, console: "Console | None" = None) -> None:
    """Print the tables that a terminal has room for, and the findings."""
    said = [*report.findings, *(f"Note: {note}" for note in report.notes)]
    print_tables(report.tables(Where.TERMINAL), said, console)


def markdown(report: Report) -> str:
    """The report as a Markdown document that can be kept with results."""
    lines = [f"# {report.title}", ""]
    lines += [report.deck, ""] if report.deck else []
    lines += [f"    {report.command}", ""] if report.command else []
    lines += [f"- {name}: {words}" for name, words in report.provenance.items()]
    if report.findings:
        lines += ["", "What was found:", "", *(f"- {sentence}" for sentence in report.findings)]
    if report.definitions:
        lines += ["", "How it is defined:", ""]
    for one in report.definitions:
        lines.append(f"- {one if isinstance(one, str) else f'**{one.lead}**{one.text}'}")
    for table in report.tables(Where.DOCUMENT):
        lines += ["", *markdown_table(table)]
    if report.runs:
        lines += ["", "## The runs", "", "Each with `--out` and a folder of its own.", ""]
    for name, commands in report.runs.items():
        lines += [f"{name}:", "", *(f"    {one}" for one in commands), ""]
    return "\n".join(lines).rstrip() + "\n"


def html(report: Report) -> str:
    """The report as one self-contained page."""
    from importlib.metadata import version

    from plotly.offline import get_plotlyjs

    template = _environment().get_template("document.html.j2")
    return template.render(report=report, plotly=get_plotlyjs(), version=version("mnemoscope"))


def _unclosing(text: str) -> str:
    """JSON in which "<" is an escape, so that no text in it can end the script element."""
    return text.replace("<", "\\u003c")


@cache
def _environment() -> "jinja2.Environment":
    import jinja2
    from markupsafe import Markup

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    filters: dict[str, Callable[[Any], Any]] = {
        "cell": as_cell,
        "kind": lambda part: type(part).__name__.lower(),
        # Plain values as JSON for a script element, and a file beside the templates.
        "script": lambda value: Markup(_unclosing(json_text(value, "the page"))),
        "text": lambda name: Markup((_TEMPLATES / name).read_text(encoding="utf-8")),
    }
    found.filters |= filters
    return found
