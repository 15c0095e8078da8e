"""Records: a number that a paper reports, with what has to agree for another to be compared to it.

Example:
    >>> from analysis.published import published_named
    >>> one = published_named("kim-table-1-baseline-738k-A")
    >>> one.value, one.change, str(one.direction)
    (18.8, -6.4, 'falls')
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from analysis.claims.choices import Paper
from analysis.statistics.choices import Direction

_DIGITS = 6


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
    told: Direction | None = None

    @property
    def direction(self) -> Direction | None:
        """Which way it goes; None where the change is within the tolerance, or not known."""
        if self.change is None:
            return self.told
        if abs(self.change) <= self.tolerance:
            return None
        return Direction.RISES if self.change > 0 else Direction.FALLS


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

    def numbers(self) -> dict[tuple[str, str], float]:
        """Values by row and column."""
        found: dict[tuple[str, str], float] = {}
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
        for (row, column), value in numbers.items():
            base = (self.from_row or row, self.from_column or column)
            change = None
            if base != (row, column):
                change = round(value - numbers[base], _DIGITS)
            words = ", ".join(
                f"{name} {at}"
                for name, at, wanted in (
                    (self.row_name, base[0], self.from_row),
                    (self.column_name, base[1], self.from_column),
                )
                if wanted
            )
            yield Published(
                identifier=f"{self.prefix}-{row}-{column}-{self.measure}".replace(" ", "-"),
                paper=self.paper,
                place=self.place,
                measure=self.measure,
                unit=self.unit,
                conditions={**self.conditions, self.row_name: row, self.column_name: column},
                value=value,
                tolerance=self.tolerance,
                change=change,
                change_from="" if change is None else words,
            )
