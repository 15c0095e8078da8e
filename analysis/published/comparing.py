"""Comparing: does a measurement agree with a published number?

Values are compared where all conditions of the published number are met; else, or where values
differ, directions are: of the change from what the paper compares with. A number that is known to
be wrong is no target.

| agreement | what it says |
|---|---|
| match | the values are within the tolerance, or the published one is within the interval |
| direction only | both go the same way; values differ, or are of different things |
| disagrees | they go different ways, or values of the same thing differ and nothing else is known |
| within chance | the change measured may be chance |
| not comparable | nothing can be said, and why |

Example:
    >>> from analysis.published import published_named
    >>> number = published_named("kim-table-1-baseline-738k-A")
    >>> found = compare(Measured(value=12.0, conditions={"model": "tiny"}, change=-2.0), number)
    >>> str(found.agreement)
    'direction only'
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite

from analysis.published.inconsistencies import inconsistencies_of
from analysis.published.records import Published
from analysis.statistics.results import Direction
from probes.intervals import Interval


class Agreement(StrEnum):
    """How a measurement stands to a published number."""

    MATCH = "match"
    DIRECTION_ONLY = "direction only"
    DISAGREES = "disagrees"
    WITHIN_CHANCE = "within chance"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of what a paper reports, in the unit of the published number.

    Attributes:
        value: the number.
        conditions: what was measured how, by the names of the published conditions.
        interval: of the value.
        change: from what the paper compares with; None where that was not measured.
        change_interval: of the change.
        unchanged: why there is no change, in words.
        rows: which results it is of, in words.
        seeds: how many runs it is a mean over.
    """

    value: float
    conditions: Mapping[str, str] = field(default_factory=dict)
    interval: Interval | None = None
    change: float | None = None
    change_interval: Interval | None = None
    unchanged: str = ""
    rows: str = ""
    seeds: int = 0


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How a measurement stands to a published number.

    Attributes:
        agreement: in a word.
        why: in words.
        cautions: what is known against the published number.
        unmet: names of the conditions that are not met.
        way: why, but for these.
    """

    agreement: Agreement
    why: str
    cautions: tuple[str, ...]
    unmet: tuple[str, ...] = ()
    way: str


def compare(measured: Measured, published: Published) -> Compared:
    """Whether a measurement agrees with a published number."""
    given = [n for n in (measured.value, measured.change) if n is not None and not isfinite(n)]
    if given:
        raise ValueError(f"a measured number is {given[0]}: leave out what could not be measured")
    cautions = tuple(one.says for one in inconsistencies_of(published.identifier))
    if refused := no_target(published):
        return Compared(
            agreement=Agreement.NOT_COMPARABLE, why=refused, cautions=cautions, way=refused
        )
    unmet, apart = unmet_conditions(measured, published), _apart(measured, published)
    if not unmet and not apart:
        covered = _only_covered(measured, published)
        why = f"{_shown(measured.value)} against {_target(published)}{covered}"
        return Compared(agreement=Agreement.MATCH, why=why, cautions=cautions, way=why)
    agreement, way = _direction(measured, published)
    if not unmet and published.value is not None and agreement is Agreement.NOT_COMPARABLE:
        agreement = Agreement.DISAGREES
    unlike = "; ".join(
        f"{name} {measured.conditions.get(name, 'not said')}, published {wanted}"
        for name, wanted in unmet.items()
    )
    return Compared(
        agreement=agreement,
        why=f"{unlike or apart}; {way}",
        cautions=cautions,
        unmet=tuple(unmet),
        way=way if unmet else f"{apart}; {way}",
    )


def no_target(published: Published) -> str:
    """Why nothing should be compared with a published number; empty where something may be."""
    wrong = [one.says for one in inconsistencies_of(published.identifier) if one.no_target]
    return f"the published number is no target: {wrong[0]}" if wrong else ""


def unmet_conditions(measured: Measured, published: Published) -> Mapping[str, str]:
    """Conditions of a published number that a measurement does not meet, as published."""
    return {
        name: wanted
        for name, wanted in published.conditions.items()
        if measured.conditions.get(name) != wanted
    }


def _apart(measured: Measured, published: Published) -> str:
    low, high = _ends(published)
    if low is None or high is None:
        return "no value was published"
    ends = measured.interval
    covered = ends is not None and ends.low <= high and ends.high >= low
    if _reached(measured, published) or covered:
        return ""
    return f"{_shown(measured.value)} against {_target(published)}"


def _reached(measured: Measured, published: Published) -> bool:
    """Whether the value itself is as published."""
    low, high = _ends(published)
    assert low is not None
    assert high is not None
    return low - published.tolerance <= measured.value <= high + published.tolerance


def _only_covered(measured: Measured, published: Published) -> str:
    """What a match rests on where the value itself is another one."""
    if measured.interval is None or _reached(measured, published):
        return ""
    low, high = map(_shown, measured.interval[:2])
    return f", which is within our interval of {low} to {high}"


def _direction(measured: Measured, published: Published) -> tuple[Agreement, str]:
    wanted = published.direction
    if wanted is None:
        what = "has no direction" if published.change is None else "is within the tolerance"
        return Agreement.NOT_COMPARABLE, f"the published change {what}"
    if measured.change is None:
        missing = f"the change from {published.change_from} is not measured"
        because = f" ({measured.unchanged})" if measured.unchanged else ""
        return Agreement.NOT_COMPARABLE, missing + because
    ends = measured.change_interval
    if measured.change == 0 or (ends is not None and ends.low <= 0 <= ends.high):
        return Agreement.WITHIN_CHANCE, "the change measured may be chance"
    ours = Direction.RISES if measured.change > 0 else Direction.FALLS
    if ours is wanted:
        return Agreement.DIRECTION_ONLY, f"both {_both(wanted)} from {published.change_from}"
    return (
        Agreement.DISAGREES,
        f"{ours} from {published.change_from}, where the published one {wanted}",
    )


def _both(direction: Direction) -> str:
    return direction.removesuffix("s")


def _ends(published: Published) -> tuple[float | None, float | None]:
    if published.value is not None:
        return published.value, published.value
    return published.low, published.high


def _target(published: Published) -> str:
    low, high = _ends(published)
    assert low is not None
    assert high is not None
    if low == high:
        return f"the published {_shown(low)}"
    return f"{_shown(low)} to {_shown(high)}, {published.reading}"


def _shown(value: float) -> str:
    return f"{value:.6g}"
