"""Records: a number that a paper reports, with what has to agree for another to be compared to it.

Example:
    >>> from analysis.published import published_named
    >>> one = published_named("kim-table-1-baseline-738k-A")
    >>> one.value, one.change, str(one.direction)
    (18.8, -6.4, 'falls')
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeAlias

from analysis.claims.choices import Paper
from analysis.statistics.results import Direction

_DIGITS = 6
Cell: TypeAlias = tuple[str, str]
"""Row and column of a number."""


class Reading(StrEnum):
    """How a number was come by."""

    PRINTED = "printed"
    TICKS = "read off an axis"
    """Only the range that the axis of a figure shows is known."""
    WORDS = "words"
    """Only which way something goes is known."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published number.

    Attributes:
        identifier: of it.
        paper: that reports it.
        place: table or figure.
        measure: what it is of.
        unit: of the value: percent, nats, correlation.
        reading: how it was come by.
        conditions: what has to agree for values to be compared: model, data, metric, settings.
        value: the number; None where there is a range or a direction only.
        low: end of a range.
        high: other end.
        tolerance: largest difference of numbers that are the same for all that matters.
        change: value less what it is compared with there; None where that is nothing.
        change_from: what that is, in words.
        base: identifier of what it is compared with; empty where that is no published number.
        told: which way it goes, where there is no `change`.
    """

    identifier: str
    paper: Paper
    place: str
    measure: str
    unit: str
    reading: Reading = Reading.PRINTED
    conditions: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float = 0.0
    change: float | None = None
    change_from: str = ""
    base: str = ""
    told: Direction | None = None

    @property
    def direction(self) -> Direction | None:
        """Which way it goes; None where the change is within the tolerance, or not known."""
        if self.change is None:
            return self.told
        if abs(self.change) <= self.tolerance:
            return None
        return Direction.RISES if self.change > 0 else Direction.FALLS


def against(published: Published, base: Published, words: str) -> Published:
    """A number that is compared with another one."""
    assert published.value is not None
    assert base.value is not None
    change = round(published.value - base.value, _DIGITS)
    return replace(published, change=change, change_from=words, base=base.identifier, told=None)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of numbers, as it is printed.

    Attributes:
        prefix: of the identifiers.
        paper: that it is in.
        place: in the paper.
        measure: that it is of.
        unit: of its numbers.
        tolerance: of its numbers.
        row_name: what a row is a setting of.
        column_name: what a column is a setting of.
        columns: settings of columns.
        rows: numbers by row, in the order of columns, with spaces between.
        conditions: of all of it.
        from_row: row that others are compared with.
        from_column: column that others are compared with.
        beside: in `from_row`, columns that are compared with other columns of the row.
    """

    prefix: str
    paper: Paper
    place: str
    measure: str
    unit: str
    tolerance: float
    row_name: str
    column_name: str
    columns: tuple[str, ...]
    rows: Mapping[str, str]
    conditions: Mapping[str, str]
    from_row: str | None = None
    from_column: str | None = None
    beside: Mapping[str, str] = field(default_factory=dict)

    def numbers(self) -> dict[Cell, float]:
        """Values by row and column."""
        found: dict[Cell, float] = {}
        for row, printed in self.rows.items():
            values = printed.split()
            assert len(values) == len(self.columns), f"{self.prefix} {row}"
            found |= {
                (row, column): float(value)
                for column, value in zip(self.columns, values, strict=True)
            }
        return found

    def records(self) -> Iterator[Published]:
        """Each number."""
        numbers = self.numbers()
        for cell, value in numbers.items():
            base, words = self._compared_with(cell)
            yield Published(
                identifier=self._identifier(cell),
                paper=self.paper,
                place=self.place,
                measure=self.measure,
                unit=self.unit,
                conditions={**self.conditions, self.row_name: cell[0], self.column_name: cell[1]},
                value=value,
                tolerance=self.tolerance,
                change=None if base is None else round(value - numbers[base], _DIGITS),
                change_from=words,
                base="" if base is None else self._identifier(base),
            )

    def _identifier(self, cell: Cell) -> str:
        return f"{self.prefix}-{cell[0]}-{cell[1]}-{self.measure}".replace(" ", "-")

    def _compared_with(self, cell: Cell) -> tuple[Cell | None, str]:
        """The cell that another is compared with, and what it is in words."""
        row, column = cell
        base = (self.from_row or row, self.from_column or column)
        if base != cell:
            names = [f"{self.row_name} {base[0]}"] if self.from_row else []
            names += [f"{self.column_name} {base[1]}"] if self.from_column else []
            return base, ", ".join(names)
        if column in self.beside:
            return (row, self.beside[column]), f"{self.column_name} {self.beside[column]}"
        return None, ""
