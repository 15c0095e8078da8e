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
    >>> from analysis.published import PUBLISHED, Measured
    >>> number = PUBLISHED["kim-table-1-baseline-738k-A"]
    >>> found = compare(Measured(value=12.0, conditions={"model": "tiny"}, change=-2.0), number)
    >>> str(found.agreement)
    'direction only'
"""

from dataclasses import dataclass
from enum import StrEnum
from math import isfinite

from analysis.published.published_numbers import Published
from analysis.published.results import Measured
from analysis.statistics.tests import Direction


class Agreement(StrEnum):
    """How a measurement stands to a published number."""

    MATCH = "match"
    DIRECTION_ONLY = "direction only"
    DISAGREES = "disagrees"
    WITHIN_CHANCE = "within chance"
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
    return Comparison(
        published=published, measured=None, agreement=Agreement.NOT_COMPARABLE, way=why
    )


def _values(measured: Measured, published: Published) -> tuple[Agreement, str]:
    """Whether values agree, and how far apart they are."""
    exact = published.value is not None
    low, high = (published.value, published.value) if exact else (published.low, published.high)
    if low is None or high is None:
        return Agreement.NOT_COMPARABLE, "no value was published"
    target = f"the published {_shown(low)}"
    if low != high:
        target = f"{_shown(low)} to {_shown(high)}, {published.reading}"
    why = f"{_shown(measured.value)} against {target}"
    if low - published.tolerance <= measured.value <= high + published.tolerance:
        return Agreement.MATCH, why
    ends = measured.interval
    if ends is None or ends.low > high or ends.high < low:
        return Agreement.DISAGREES, why
    ours = f"{_shown(ends.low)} to {_shown(ends.high)}"
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
    """What has to be said of a number of one run, and of one from an inconsistent source."""
    cautions = []
    if measured.seeds == 1:
        has_interval = measured.change is None or measured.change_interval is not None
        cautions.append("of one run" if has_interval else "of one run, without an interval")
    if published.inconsistencies:
        known = ", ".join(one.identifier for one in published.inconsistencies)
        cautions.append(f"the source is inconsistent: {known}")
    return cautions


def _shown(value: float) -> str:
    return f"{value:.6g}"
