"""Verification texts: how results stand to published numbers, for a terminal and a document.

First a sentence with the counts, then a line for each published table or figure with what keeps
most of its numbers from being compared, then a table of the numbers that were.

Example:
    >>> from analysis.published.measured import verify
    >>> print(verification_markdown(verify({})).splitlines()[2][:33])
    Of 617 published numbers 0 match,
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from analysis.numbers import MINUS
from analysis.published.comparing import Agreement
from analysis.published.inconsistencies import INCONSISTENCIES
from analysis.published.measured import Comparison
from analysis.published.records import Published
from analysis.published.verification import cell_of, headline
from analysis.statistics.bootstrap import LEVEL
from probes.intervals import Interval
from probes.tables import Table, markdown_table, print_tables

if TYPE_CHECKING:
    from rich.console import Console

TITLE = "Results beside published numbers"
_COUNTED = {
    Agreement.MATCH: "match",
    Agreement.DIRECTION_ONLY: "direction",
    Agreement.DISAGREES: "disagree",
    Agreement.WITHIN_CHANCE: "chance",
    Agreement.NOT_COMPARABLE: "not comparable",
}
_DEFINITIONS = (
    f"Ours is a mean over seeds, with a {LEVEL:.0%} interval over seeds and over items, the wider "
    "of both; changes are from what the paper compares with. Values are compared where everything "
    "that the published number was measured with is the same, else directions of change are. What "
    "the sources say against their own numbers stands beside the verdict."
)
_UNITS = {"percent": "%", "nats": " nats"}
_DIGITS = 4


def verification_markdown(comparisons: Sequence[Comparison]) -> str:
    """The document."""
    lines = [f"# {TITLE}", "", headline(comparisons), "", _DEFINITIONS]
    for table in text_tables(comparisons):
        lines += ["", *markdown_table(table)]
    doubts = dict.fromkeys(name for one in _told(comparisons) for name in one.inconsistencies)
    if doubts:
        lines += ["", "## Inconsistencies of the sources", ""]
        lines += [
            f"- {one.identifier}: {one.says}" for one in INCONSISTENCIES if one.identifier in doubts
        ]
    return "\n".join(lines) + "\n"


def print_verification(comparisons: Sequence[Comparison], console: "Console | None" = None) -> None:
    """Print the tables, and how many numbers agree."""
    print_tables(text_tables(comparisons), [headline(comparisons)], console)


def text_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """The counts by published table, and a table of what was compared in each."""
    by_paper = groupby(_told(comparisons), key=lambda one: str(one.published.paper))
    compared = [_compared(paper, list(group)) for paper, group in by_paper]
    return [_counts(list(_by_place(comparisons))), *compared]


def _told(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [one for one in comparisons if one.agreement is not Agreement.NOT_COMPARABLE]


def _by_place(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, list[Comparison]]]:
    def place(one: Comparison) -> str:
        return f"{one.published.paper}, {one.published.place}"

    for name, group in groupby(comparisons, key=place):
        yield name, list(group)


def _counts(found: Sequence[tuple[str, Sequence[Comparison]]]) -> Table:
    rows = []
    for place, group in found:
        counts = Counter(one.agreement for one in group)
        rows.append(
            (place, *(str(counts[each] or "") for each in _COUNTED), _most_frequent_reason(group))
        )
    header = ("source", *_COUNTED.values(), "mostly since")
    note = "How many numbers of each table or figure stand how to ours."
    return Table.of_rows("Counts", header, rows, note=note).without_empty()


def _most_frequent_reason(group: Sequence[Comparison]) -> str:
    left_out = Counter(one.way for one in group if one.agreement is Agreement.NOT_COMPARABLE)
    return left_out.most_common(1)[0][0] if left_out else ""


def _compared(paper: str, told: Sequence[Comparison]) -> Table:
    unmet = dict.fromkeys(name for one in told for name in one.unmet)
    note = f"Not all as published: {', '.join(unmet)}." if unmet else "Measured as published."
    header = ("source", "number", "published", "ours", "verdict", "why")
    rows = []
    for place, group in _by_place(told):
        # A place is named once, so that its numbers stand together.
        named = [place.removeprefix(f"{paper}, "), *[""] * len(told)]
        rows += [(name, *_cells(one)) for name, one in zip(named, group, strict=False)]
    return Table.of_rows(paper, header, rows, note=note)


def _cells(one: Comparison) -> tuple[str, ...]:
    published, measured = one.published, one.measured
    assert measured is not None
    unit = _UNITS.get(published.unit, "")
    ours = _with_ends(measured.value, measured.interval, unit)
    if measured.change is not None and measured.change != measured.value:
        ours = f"{ours}; change {_with_ends(measured.change, measured.change_interval)}"
    return (
        cell_of(published),
        f"{_published(published, unit)}{_published_change(published)}",
        ours,
        str(one.agreement),
        f"{one.way} ({measured.rows})" if measured.rows else one.way,
    )


def _published(published: Published, unit: str) -> str:
    if published.value is not None:
        return f"{_shown(published.value)}{unit}"
    if published.low is None or published.high is None:
        return "words only"
    return f"{_shown(published.low)} to {_shown(published.high)}{unit}"


def _published_change(published: Published) -> str:
    if published.change is not None:
        return f"; change {_shown(published.change)}"
    return "" if published.direction is None else f"; {published.direction}"


def _with_ends(value: float, interval: Interval | None, unit: str = "") -> str:
    if interval is None:
        return f"{_shown(value)}{unit}"
    return f"{_shown(value)}{unit} [{_shown(interval.low)}, {_shown(interval.high)}]"


def _shown(value: float) -> str:
    return f"{value:.{_DIGITS}g}".replace("-", MINUS)
