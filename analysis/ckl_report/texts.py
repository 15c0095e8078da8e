"""Texts of a report: numbers as its tables and sentences show them.

Example:
    >>> row = pd.Series({"value": -0.0512, "low": -0.0703, "high": 0.0104})
    >>> with_interval(row, share)
    '−5.1% [−7.0%, 1.0%]'
    >>> signed(0.25, nats), p_text(0.0004), steps_text(12345.6)
    ('+0.250', '< 0.001', '12,346')
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import theme

MINUS = "\N{MINUS SIGN}"
NOT_TESTED = "not tested"
POINTS = " points"
"""Of percent, after a difference of shares."""


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


def with_interval(row: pd.Series, show: Callable[[float], str], value: str = "value") -> str:
    """A number with its interval, where it has one."""
    shown = show(row[value])
    if pd.isna(row["low"]):
        return shown
    ends = (show(row[name]).removesuffix(POINTS) for name in ("low", "high"))
    return f"{shown} [{', '.join(ends)}]"


def signed(value: float, show: Callable[[float], str]) -> str:
    """A difference with its sign."""
    text = show(abs(value))
    # What rounds to nothing has no sign.
    if not any(digit in text for digit in "123456789"):
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def nats(value: float, digits: int = 3) -> str:
    """A number of nats, or of bits."""
    return theme.nats(round(value, digits) + 0.0, digits).replace("-", MINUS)


def share(value: float) -> str:
    """A share as a percentage."""
    return theme.percent(round(value, 4) + 0.0).replace("-", MINUS)


def nats_or_none(value: float | None) -> str:
    """A number of nats; empty for none."""
    return "" if value is None or pd.isna(value) else nats(value)


def shown_by(measure: str) -> Callable[[float], str]:
    """How numbers of a measure are shown: those that are shares in percent."""
    return share if measure.startswith(("facts recalled", "dormant", "P,")) else nats


def p_text(value: float) -> str:
    """A p-value."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def steps_text(value: float) -> str:
    """A number of steps, which may be beyond all numbers."""
    if value == float("inf"):
        return "none"
    return theme.count(value) if value < 1e6 else f"{value:.0e}"


def signed_by(measure: str) -> Callable[[float], str]:
    """How differences of a measure are shown: those of shares in percentage points."""
    show = _points if shown_by(measure) is share else nats
    return lambda value: signed(value, show)


def _points(value: float) -> str:
    return f"{theme.nats(100 * value, 1)}{POINTS}"


def capital(text: str) -> str:
    """A text as a sentence begins."""
    return text[:1].upper() + text[1:]


def value_range(
    what: str, values: Mapping[str, float], show: Callable[[float], str], *, of: str = "arms"
) -> str:
    """A sentence about the least and the most of several numbers.

    Args:
        what: they are of.
        values: by name.
        show: a number as text.
        of: what the names are names of.
    """
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return (
        f"{what} runs from {show(values[low])} ({low}) to {show(values[high])} ({high}), over "
        f"{len(values)} {of}."
    )


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
