"""Published numbers: what the papers report, and what has to agree for another to be compared.

`numbers.csv` has a row for each number, in the order of the papers; its columns after
`inconsistencies` are the conditions under which the number was measured. `inconsistencies.csv` says
which numbers do not go together, by arithmetic on the numbers themselves or by the released code;
some are no targets at all.

- Kim et al., ICLR 2025: Tables 1 and 2, footnote 11, Figures 2, 3 and 5 to 9, B.4.2. K is there the
  sum of a target's log-probabilities over the length of the padded row, about a twelfth of the mean
  over its tokens; A is its change over its size. Of a figure the ticks of its axis are known.
- Chang et al., NeurIPS 2024: sections 4.1 to 4.4, of which a summary without numbers is at hand.
- Chen et al., 2024: Tables 1 to 6 and section 5. Table 1 is the rows "none" of Table 2.

Example:
    >>> one = PUBLISHED["kim-table-1-baseline-738k-A"]
    >>> one.value, one.change, str(one.direction)
    (18.8, -6.4, 'falls')
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import dropwhile
from pathlib import Path

from analysis.claims.choices import Paper
from analysis.statistics.tests import Direction

_DIGITS = 6
_LAST_FIELD = "inconsistencies"


class Reading(StrEnum):
    """How a number was come by."""

    PRINTED = "printed"
    TICKS = "read off an axis"
    """Only the range that the axis of a figure shows is known."""
    WORDS = "words"
    """Only which way something goes is known."""


@dataclass(frozen=True)
class Inconsistency:
    """Numbers that do not go together; with `no_target` they should not be compared with at all."""

    identifier: str
    says: str
    no_target: bool


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published number.

    Attributes:
        conditions: what has to agree for values to be compared: model, data, metric, settings.
        value: the number; None where there is a range (low, high) or a direction only.
        tolerance: largest difference of numbers that are the same for all that matters.
        change: value less what it is compared with there; None where that is no published number.
        change_from: what that is, in words.
        base: identifier of what it is compared with; empty where that is no published number.
        goes: which way it goes, where there is no `change`.
        inconsistencies: what is known against it.
    """

    identifier: str
    paper: Paper
    place: str
    measure: str
    unit: str
    reading: Reading
    conditions: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float = 0.0
    change: float | None = None
    change_from: str = ""
    base: str = ""
    goes: Direction | None = None
    inconsistencies: tuple[Inconsistency, ...] = ()

    @property
    def direction(self) -> Direction | None:
        """Which way it goes; None where the change is within the tolerance, or not known."""
        if self.change is None:
            return self.goes
        if abs(self.change) <= self.tolerance:
            return None
        return Direction.RISES if self.change > 0 else Direction.FALLS

    @property
    def refusal(self) -> str:
        """Why nothing should be compared with it; empty where something may be."""
        wrong = [one.says for one in self.inconsistencies if one.no_target]
        return f"the published number is no target: {wrong[0]}" if wrong else ""


def _rows(name: str) -> dict[str, dict[str, str]]:
    """The rows of a file by their first column."""
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


def _numbers() -> Iterator[Published]:
    rows = _rows("numbers.csv")
    for name, row in rows.items():
        _, *conditions = dropwhile(lambda column: column != _LAST_FIELD, row)
        value, low, high = (
            float(row[end]) if row[end] else None for end in ("value", "low", "high")
        )
        base = rows[row["base"]]["value"] if row["base"] else None
        yield Published(
            identifier=name,
            paper=Paper(row["paper"]),
            place=row["place"],
            measure=row["measure"],
            unit=row["unit"],
            reading=Reading(row["reading"]),
            conditions={one: row[one] for one in conditions if row[one]},
            value=value,
            low=low,
            high=high,
            tolerance=float(row["tolerance"] or 0),
            change=None if base is None else round(float(row["value"]) - float(base), _DIGITS),
            change_from=row["change_from"],
            base=row["base"],
            goes=Direction(row["goes"]) if row["goes"] else None,
            inconsistencies=tuple(
                INCONSISTENCIES[one] for one in row[_LAST_FIELD].split("; ") if one
            ),
        )


INCONSISTENCIES: Mapping[str, Inconsistency] = {
    name: Inconsistency(name, row["says"], row["no_target"] == "yes")
    for name, row in _rows("inconsistencies.csv").items()
}
"""All that are known, by their identifiers."""
PUBLISHED: Mapping[str, Published] = {one.identifier: one for one in _numbers()}
"""Every number by its identifier, in the order of the papers."""
