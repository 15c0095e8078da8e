"""How results are shown and compared: in one line, as tables, as JSON, and less one another.

In a line, tensors are shown by their shapes and long lists by their lengths. A `Table` has the same
rows on a terminal, in a document and on a page. JSON refuses NaN and infinities, and says where
they are; None is for a value that is rightly absent (`finite_or_none`).
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from enum import Flag, auto
from html import escape
from importlib.metadata import entry_points
from itertools import islice
from math import isfinite
from numbers import Integral, Real
from textwrap import fill
from typing import TYPE_CHECKING, Any, ClassVar

from probes.refusals import NoSuchName

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console


_LINE, _VALUE, _LISTED, _ROWS = 240, 60, 4, 10
"""Characters of a line and of a value in it; members of a list that are named; rows of a table."""


class Shown:
    """Shows itself in a line, and in a notebook as that line above a small table."""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        # A dataclass makes one of its own, with every number, where its class has none.
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Shown.__repr__  # type: ignore[method-assign]

    _instead: ClassVar[Mapping[str, str]] = {}  # what to use for names that others would have here

    if not TYPE_CHECKING:  # or any name would pass

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):
                # A property that refuses says why.
                return object.__getattribute__(self, name)
            raise NoSuchName(name=name, obj=self)

    def _facts(self) -> Mapping[str, Any]:
        """Names and values to show; what it is about stands under the empty name."""
        if type(self).__dict__.get("__dataclass_fields__") is None:
            return {}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}  # type: ignore[arg-type]

    def _preview(self) -> Any:
        """A data frame to show beneath; None for none."""
        return None

    def __repr__(self) -> str:
        about, facts = self._briefly()
        line = ""
        for name, value in facts.items():
            more = f"{', ' if line else ''}{name} {value}"
            if len(line) + len(more) > _LINE - len(about):
                line += ", \N{HORIZONTAL ELLIPSIS}"
                break
            line += more
        return f"{type(self).__name__}({': '.join(filter(None, (about, line)))})"

    def _repr_html_(self) -> str:
        about, facts = self._briefly()
        more = [("\N{HORIZONTAL ELLIPSIS}", f"{len(facts):,} in all")] * (len(facts) > _ROWS)
        rows = (
            f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>"
            for name, text in [*islice(facts.items(), _ROWS), *more]
        )
        table = f"<table>{''.join(rows)}</table>"
        frame = self._preview()
        form = {"max_rows": _ROWS, "max_cols": _ROWS, "border": 0, "float_format": "{:.4g}".format}
        below = "" if frame is None else frame.to_html(**form)
        return f"<div><b>{type(self).__name__}</b> {escape(about)}{table}{below}</div>"

    def _briefly(self) -> tuple[str, dict[str, str]]:
        facts = {name: brief(value) for name, value in self._facts().items() if value is not None}
        return facts.pop("", ""), {name: text for name, text in facts.items() if text}


class Result(Shown, ABC):
    """Something measured, with a table and a picture of it."""

    @abstractmethod
    def to_dataframe(self) -> Any:
        """The numbers as a tidy pandas DataFrame."""

    def plot(self) -> Any:
        """The interactive picture of it, a `plotly` Figure with a title.

        Whoever registers an entry point draws it, as `analysis` does.

        Raises:
            ValueError: it holds nothing to draw, or nothing here draws such results.
        """
        return self._drawn()

    def _drawn(self, **settings: Any) -> Any:
        for registered in entry_points(group="mnemoscope.figures", name="results"):
            try:
                draw = registered.load()
            except (ImportError, AttributeError) as error:
                raise ValueError(
                    f"{registered.value} draws this result and cannot be imported ({error}); run "
                    "where no other package of its name comes first"
                ) from error
            return draw(self, **settings)
        raise ValueError("nothing here draws results; install mnemoscope again")

    def _preview(self) -> Any:
        return self.to_dataframe()


def frame_of(columns: Mapping[str, Any]) -> Any:
    """A pandas DataFrame of columns, which may be tensors."""
    import pandas as pd

    return pd.DataFrame(
        {name: v.tolist() if hasattr(v, "tolist") else v for name, v in columns.items()}
    )


def brief(value: Any) -> str:
    """A value in a few characters; a tensor or a table is its shape."""
    if isinstance(value, bool | str):
        return _cut(str(value))
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return f"{float(value):.4g}"
    if hasattr(value, "low") and hasattr(value, "high"):
        return f"{value.low:.5g} to {value.high:.5g}"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return brief(value.item()) if shape == () else str(list(shape))
    if isinstance(value, Mapping | Set | tuple | list):
        simple = all(isinstance(one, str | Real) for one in value)
        if len(value) > _LISTED or not simple or isinstance(value, Mapping):
            return f"{len(value):,} items" if len(value) else ""
        return _cut(" ".join(map(brief, value)))
    text = str(value)
    # What says more of itself than there is room for is named by its kind.
    return text if len(text) <= _VALUE and "\n" not in text else type(value).__name__


def _cut(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= _VALUE else f"{shown[: _VALUE - 1]}\N{HORIZONTAL ELLIPSIS}"


OPEN_ROWS = 8  # a page folds away tables with more rows
_NUMBER = 30  # characters that a number and its interval have at most
_PADDING = 2  # characters between columns


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


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of texts; the first column names the rows."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    note: str = ""  # how to read it
    brief: tuple[str | None, ...] = ()
    """Names of the columns on a terminal, None for those that are left out; empty for `header`."""
    groups: tuple[str, ...] = ()  # what rows belong to: a terminal draws a line between groups
    where: Where = Where.FILES
    is_open: bool | None = None  # on a page; None for tables of at most `OPEN_ROWS`

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
        console.print(_rich_table(table, console.width))
    for sentence in sentences:
        console.print(Text(f"- {sentence}"))


def _rich_table(table: Table, width: int) -> Any:
    from rich.box import SIMPLE
    from rich.table import Table as RichTable
    from rich.text import Text

    brief = table.brief or table.header
    kept = [i for i, name in enumerate(brief) if name is not None]
    drawn = RichTable(
        title=Text(table.title), title_justify="left", box=SIMPLE, collapse_padding=True
    )
    columns = [[str(brief[i]), *(str(row[i]) for row in table.rows)] for i in kept]
    shown = _narrowed(columns, width)
    for place, (heading, *_) in enumerate(shown):
        short = all(len(cell) <= _NUMBER for cell in columns[place][1:])
        drawn.add_column(
            Text(heading),
            justify="right" if place and short else "left",
            no_wrap=short,
            overflow="fold",
        )
    following = (*table.groups[1:], None)
    for place, row in enumerate(zip(*(cells for _, *cells in shown), strict=True)):
        ends = bool(table.groups) and table.groups[place] != following[place]
        drawn.add_row(*map(Text, row), end_section=ends)
    return drawn


def _narrowed(columns: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Columns, headings first, with the breaks that make numbers fit: of headings, of intervals."""

    def taken(sizes: Iterable[int]) -> int:
        return sum(size + _PADDING for size in sizes) + _PADDING

    whole = [max(map(len, column)) for column in columns]
    words = [
        max(len(word) for text in column for word in text.split() or "-") for column in columns
    ]
    numbers = [max((len(cell) for cell in column[1:]), default=0) for column in columns]
    sizes = whole
    if taken(min(size, _NUMBER) for size in sizes) > width:
        sizes = [max(pair) for pair in zip(numbers, words, strict=True)]
    if taken(min(size, _NUMBER) for size in sizes) > width:
        sizes = words
    return [
        list(column)
        if size > _NUMBER
        else [fill(text, max(size, 1), break_long_words=False) for text in column]
        for column, size in zip(columns, sizes, strict=True)
    ]


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


def json_text(content: Any, what: str, **style: Any) -> str:
    """Content as JSON in the style of `json.dumps`; a number that is not finite is refused."""
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, **style)
    except ValueError as error:
        if (found := next(_not_finite(content), None)) is None:
            raise
        place, value = found
        raise ValueError(
            f"{what} is not written: {place or 'it'} is {value}, which is no number"
        ) from error


def finite_or_none(value: Any) -> Any:
    """The same with None for what has no number, such as a share of nothing, at any depth."""
    if isinstance(value, dict):
        return {name: finite_or_none(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _not_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    elif isinstance(value, float) and not isfinite(value):
        yield place, value
    for name, inner in pairs:
        yield from _not_finite(inner, f"{place}.{name}" if place else str(name))


@dataclass(frozen=True, eq=False)
class Difference(Result):
    """Two results of one kind, and the second less the first.

    Attributes:
        first: one of them.
        second: the other.
        names: what tells them apart.
        numbers: a row for every number that both have: what it is of, `first`, `second` and
            `difference`.
    """

    first: Any
    second: Any
    names: tuple[str, str]
    numbers: "pd.DataFrame"

    def to_dataframe(self) -> Any:
        """A row for every number that both have, with `first`, `second` and `difference`."""
        return self.numbers

    def _facts(self) -> dict[str, Any]:
        return {"": f"{self.names[1]} less {self.names[0]}", "numbers": len(self.numbers)}


def paired(first: "pd.DataFrame", second: "pd.DataFrame", what: str) -> "pd.DataFrame":
    """Two tidy tables as one: their `value` as `first` and `second`, and the `difference`."""
    keys = [name for name in first.columns if name != "value"]
    both = first.merge(second, on=keys, suffixes=("_first", "_second"))
    if both.empty:
        raise ValueError(f"the two {what} have no number in common; measure the same of both")
    both = both.rename(columns={"value_first": "first", "value_second": "second"})
    return both.assign(difference=both["second"] - both["first"])


def require_same(what: str, both: Iterable[Any], advice: str) -> None:
    """Refuse two results that differ in what they must share."""
    first, second = both
    if first != second:
        raise ValueError(f"the two differ in {what}: {first} and {second}; {advice}")


def require_kind(first: Any, second: Any) -> None:
    """Refuse to compare a result with something else."""
    if type(first) is not type(second):
        kinds = (type(one).__name__ for one in (first, second))
        raise ValueError("{} cannot be compared with {}; give another of its kind".format(*kinds))
