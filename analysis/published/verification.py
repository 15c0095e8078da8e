"""Verification: do results agree with what the papers report? A table, a document and a command.

Values are compared where all conditions of the published number are met; else, or where values
differ, directions are. A number that is known to be wrong is no target.

Example:
    >>> found = verify({})
    >>> len(found), {str(one.agreement) for one in found}
    (617, {'not comparable'})
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, pairwise
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims.choices import Paper
from analysis.measurements import Table as Measurements
from analysis.numbers import MINUS
from analysis.published.results import (
    INCONSISTENCIES,
    PUBLISHED,
    Conditions,
    Measured,
    Published,
    ResultRows,
    result_rows,
)
from analysis.published.selectors import measured_of
from analysis.significance import LEVEL, Direction, ScaleError, bounds
from probes.corpus_means import Interval
from probes.shown import Table, json_text, markdown_table, print_tables


class Agreement(StrEnum):
    """How a measurement stands to a published number."""

    MATCH = "match"  # values are within the tolerance, or the published one is within the interval
    DIRECTION_ONLY = "direction only"
    """Both go the same way; values differ, or are of different things."""
    DISAGREES = "disagrees"
    """They go different ways, or values of the same thing differ and nothing else is known."""
    WITHIN_CHANCE = "within chance"  # the change measured may be chance
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A published number beside ours: how both agree, and in which `way`.

    Conditions that are not met (`unmet`) are not said in it.
    """

    published: Published
    measured: Measured | None
    agreement: Agreement
    way: str
    unmet: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Why, in words: the conditions in which both differ, and what their values say."""
        ours = {} if self.measured is None else self.measured.conditions
        theirs = self.published.conditions
        unlike = [
            f"{name} {ours.get(name, 'not said')}, published {theirs[name]}" for name in self.unmet
        ]
        return "; ".join([*unlike, self.way])


def compare(measured: Measured, published: Published) -> Comparison:
    """Whether a measurement agrees with a published number."""
    given = [n for n in (measured.value, measured.change) if n is not None and not isfinite(n)]
    if given:
        raise ValueError(f"a measured number is {given[0]}: leave out what could not be measured")
    if published.refusal:
        return not_compared(published, published.refusal)
    theirs = published.conditions
    unmet = tuple(name for name in theirs if measured.conditions.get(name) != theirs[name])
    agreement, way = _values(measured, published)
    if unmet or agreement is not Agreement.MATCH:
        agreement, direction = _direction(measured, published)
        way = direction if unmet else f"{way}; {direction}"
        has_values = not unmet and published.value is not None
        if has_values and agreement is Agreement.NOT_COMPARABLE:
            agreement = Agreement.DISAGREES
    return Comparison(
        published=published,
        measured=measured,
        agreement=agreement,
        way="; ".join([way, *_cautions(measured, published)]),
        unmet=unmet,
    )


def not_compared(published: Published, why: str) -> Comparison:
    """A number without one of ours."""
    agreement = Agreement.NOT_COMPARABLE
    return Comparison(published=published, measured=None, agreement=agreement, way=why)


def _values(measured: Measured, published: Published) -> tuple[Agreement, str]:
    """Whether values agree, and how far apart they are."""
    exact = published.value is not None
    low, high = (published.value, published.value) if exact else (published.low, published.high)
    if low is None or high is None:
        return Agreement.NOT_COMPARABLE, "no value was published"
    target = f"the published {_number(low)}"
    if low != high:
        target = f"{_number(low)} to {_number(high)}, {published.reading}"
    why = f"{_number(measured.value)} against {target}"
    if low - published.tolerance <= measured.value <= high + published.tolerance:
        return Agreement.MATCH, why
    ends = measured.interval
    if ends is None or ends.low > high or ends.high < low:
        return Agreement.DISAGREES, why
    ours = f"{_number(ends.low)} to {_number(ends.high)}"
    return Agreement.MATCH, f"{why}, which is within our interval of {ours}"


def _direction(measured: Measured, published: Published) -> tuple[Agreement, str]:
    wanted = published.direction
    if wanted is None:
        what = "has no direction" if published.change is None else "is within the tolerance"
        return Agreement.NOT_COMPARABLE, f"the published change {what}"
    base = published.change_from
    if measured.change is None:
        because = f" ({measured.unchanged})" if measured.unchanged else ""
        return Agreement.NOT_COMPARABLE, f"the change from {base} is not measured{because}"
    ends = measured.change_interval
    if measured.change == 0 or (ends is not None and ends.low <= 0 <= ends.high):
        return Agreement.WITHIN_CHANCE, "the change measured may be chance"
    ours = Direction.RISES if measured.change > 0 else Direction.FALLS
    if ours is wanted:
        return Agreement.DIRECTION_ONLY, f"both {wanted.removesuffix('s')} from {base}"
    return Agreement.DISAGREES, f"{ours} from {base}, where the published one {wanted}"


def _cautions(measured: Measured, published: Published) -> list[str]:
    cautions = []
    if measured.seeds == 1:
        has_interval = measured.change is None or measured.change_interval is not None
        cautions.append("of one run" if has_interval else "of one run, without an interval")
    if published.inconsistencies:
        known = ", ".join(one.identifier for one in published.inconsistencies)
        cautions.append(f"the source is inconsistent: {known}")
    return cautions


def _number(value: float) -> str:
    return f"{value:.6g}"


NAME = "verification"
_ENDINGS = (".md", ".csv", ".json")
_DEFINITIONS = (
    f"Ours is a mean over seeds, with a {LEVEL:.0%} interval over seeds and over items, the wider "
    "of both; changes are from what the paper compares with. Values are compared where everything "
    "that the published number was measured with is the same, else directions of change are. What "
    "the sources say against their own numbers stands beside the verdict."
)
_SETTINGS = ("recipe", "checkpoint", "first", "mix", "mix later", "replay ratio", "later")
_OTHERS = ("model", "corpus")
_OURS = ("ours", "low", "high", "change", "change_low", "change_high", "rows", "seeds")
_UNITS = {"percent": "%", "nats": " nats"}
_DIGITS = 4
_WORDS = {
    Agreement.MATCH: ("match", "match"),
    Agreement.DIRECTION_ONLY: ("direction", "hold in direction only"),
    Agreement.DISAGREES: ("disagree", "disagree"),
    Agreement.WITHIN_CHANCE: ("chance", "cannot be told from chance"),
    Agreement.NOT_COMPARABLE: ("not comparable", "are not comparable"),
}
"""The heading of the counts of each agreement, and what a sentence calls it."""


def verify(
    tables: Mapping[Measurements, pd.DataFrame],
    settings: Mapping[Measurements, Conditions] | None = None,
) -> list[Comparison]:
    """Every published number beside what results say of it."""
    rows = result_rows(tables, settings)
    return [_compared(published, rows) for published in PUBLISHED.values()]


def headline(comparisons: Sequence[Comparison]) -> str:
    """How many published numbers stand how to ours, in a sentence."""
    counts = Counter(one.agreement for one in comparisons)
    parts = [f"{counts[agreement]} {words}" for agreement, (_, words) in _WORDS.items()]
    doubted = sum(bool(one.published.inconsistencies) for one in _comparable(comparisons))
    caution = f" {doubted} of those compared are from inconsistent sources." if doubted else ""
    return f"Of {len(comparisons)} published numbers {', '.join(parts)}.{caution}"


def verification_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row for each published number, in the order of the papers; values in its unit."""
    return pd.DataFrame([_row(one) for one in comparisons])


def verify_command(paths: Sequence[Path], out: Path | None) -> None:
    """Compare results with the published numbers, print it, and write it where that is wanted."""
    from analysis.published.results import settings_of_results
    from analysis.result_folders import find_results, tables_of

    if out is not None:
        _refuse(out)
    results = find_results(paths)
    comparisons = verify(tables_of(results), settings_of_results(results))
    print_tables(text_tables(comparisons), [headline(comparisons)])
    if out is not None:
        write_verification(comparisons, out)


def write_verification(comparisons: Sequence[Comparison], out: Path) -> None:
    """Write the document, the table, and both as data."""
    from analysis.arm_report import plain_records

    table = verification_table(comparisons)
    content: Mapping[str, Any] = {
        "headline": headline(comparisons),
        "level": LEVEL,
        "counts": {str(each): int((table["verdict"] == each).sum()) for each in Agreement},
        "numbers": plain_records(table),
    }
    texts = (
        verification_markdown(comparisons),
        table.to_csv(index=False),
        json_text(content, NAME, indent=1) + "\n",
    )
    out.mkdir(parents=True, exist_ok=True)
    for ending, text in zip(_ENDINGS, texts, strict=True):
        (out / f"{NAME}{ending}").write_text(text, encoding="utf-8")
    print(f"document: {out / NAME}.md")


def verification_markdown(comparisons: Sequence[Comparison]) -> str:
    """The document."""
    lines = ["# Results beside published numbers", "", headline(comparisons), "", _DEFINITIONS]
    for table in text_tables(comparisons):
        lines += ["", *markdown_table(table)]
    known = {each for one in _comparable(comparisons) for each in one.published.inconsistencies}
    if known:
        lines += ["", "## Inconsistencies of the sources", ""]
        of_ours = (one for one in INCONSISTENCIES.values() if one in known)
        lines += [f"- {one.identifier}: {one.says}" for one in of_ours]
    return "\n".join(lines) + "\n"


def text_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """The counts by published table, and for each paper a table of what was compared."""
    by_paper = groupby(_comparable(comparisons), key=lambda one: str(one.published.paper))
    compared = [_paper_table(paper, list(group)) for paper, group in by_paper]
    return [_counts(comparisons), *compared]


def _compared(published: Published, rows: ResultRows) -> Comparison:
    if published.refusal:
        return not_compared(published, published.refusal)
    try:
        measured = measured_of(published, PUBLISHED.get(published.base), rows)
    except ScaleError as error:
        return not_compared(published, str(error))
    return compare(measured, published)


def _comparable(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [one for one in comparisons if one.agreement is not Agreement.NOT_COMPARABLE]


def _refuse(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder, which need not exist")
    taken = [out / f"{NAME}{ending}" for ending in _ENDINGS if (out / f"{NAME}{ending}").exists()]
    if taken and len(taken) < len(_ENDINGS):
        raise ValueError(f"--out {out} holds a {taken[0].name} of another origin; give another one")


def _cell(published: Published) -> str:
    """Which number of its table or figure a published number is, in words."""
    conditions = published.conditions
    words = [conditions[name] for name in _SETTINGS if name in conditions]
    shown = ", ".join(words or [conditions[name] for name in _OTHERS if name in conditions])
    if published.paper is Paper.CONTINUAL_MEMORIZATION:
        return shown
    return f"{published.measure}: {shown}"


def _row(one: Comparison) -> dict[str, Any]:
    published = one.published
    return {
        "paper": str(published.paper),
        "place": published.place,
        "cell": _cell(published),
        "number": published.identifier,
        "unit": published.unit,
        "published": published.value,
        "published_low": published.low,
        "published_high": published.high,
        "published_change": published.change,
        "published_direction": None if published.direction is None else str(published.direction),
        "compared_with": published.change_from or None,
        **_ours(one.measured),
        "verdict": str(one.agreement),
        "why": one.why,
        "differs_in": ", ".join(one.unmet),
        "inconsistencies": ", ".join(each.identifier for each in published.inconsistencies),
    }


def _ours(measured: Measured | None) -> dict[str, Any]:
    if measured is None:
        return dict.fromkeys(_OURS)
    ours = (measured.value, *bounds(measured.interval))
    moved = (measured.change, *bounds(measured.change_interval))
    return dict(zip(_OURS, (*ours, *moved, measured.rows, measured.seeds), strict=True))


def _counts(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    by_place = groupby(comparisons, key=lambda one: f"{one.published.paper}, {one.published.place}")
    for place, group in ((place, list(group)) for place, group in by_place):
        counts = Counter(one.agreement for one in group)
        left_out = Counter(one.way for one in group if one.agreement is Agreement.NOT_COMPARABLE)
        reason = left_out.most_common(1)[0][0] if left_out else ""
        rows.append((place, *(str(counts[each] or "") for each in _WORDS), reason))
    header = ("source", *(heading for heading, _ in _WORDS.values()), "mostly since")
    note = "How many numbers of each table or figure stand how to ours."
    return Table.of_rows("Counts", header, rows, note=note).without_empty()


def _paper_table(paper: str, compared: Sequence[Comparison]) -> Table:
    unmet = dict.fromkeys(name for one in compared for name in one.unmet)
    note = f"Not all as published: {', '.join(unmet)}." if unmet else "Measured as published."
    header = ("source", "number", "published", "ours", "verdict", "why")
    # A place is named once, so that its numbers stand together.
    places = ["", *(one.published.place for one in compared)]
    named = [place if place != before else "" for before, place in pairwise(places)]
    rows = [(name, *_cells(one)) for name, one in zip(named, compared, strict=True)]
    return Table.of_rows(paper, header, rows, note=note)


def _cells(one: Comparison) -> tuple[str, ...]:
    published, measured = one.published, one.measured
    assert measured is not None
    unit = _UNITS.get(published.unit, "")
    ours = _with_ends(measured.value, measured.interval, unit)
    if measured.change is not None and measured.change != measured.value:
        ours = f"{ours}; change {_with_ends(measured.change, measured.change_interval)}"
    return (
        _cell(published),
        _published(published, unit),
        ours,
        str(one.agreement),
        f"{one.way} ({measured.rows})" if measured.rows else one.way,
    )


def _published(published: Published, unit: str) -> str:
    shown = "words only"
    if published.value is not None:
        shown = f"{_shown(published.value)}{unit}"
    elif published.low is not None and published.high is not None:
        shown = f"{_shown(published.low)} to {_shown(published.high)}{unit}"
    if published.change is not None:
        return f"{shown}; change {_shown(published.change)}"
    return shown if published.direction is None else f"{shown}; {published.direction}"


def _with_ends(value: float, interval: Interval | None, unit: str = "") -> str:
    ends = f" [{_shown(interval.low)}, {_shown(interval.high)}]" if interval else ""
    return f"{_shown(value)}{unit}{ends}"


def _shown(value: float) -> str:
    return f"{value:.{_DIGITS}g}".replace("-", MINUS)
