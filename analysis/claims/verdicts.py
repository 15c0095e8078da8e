"""Verdicts: which claims do some measurements support, and which do they contradict?

Each claim is tested on the rows of its table, one-sided towards what it says and one-sided against
it. Claims of a family are tested together: p-values are adjusted by Holm's method over all of the
family that there are enough data for, on each side, so that the chance of any false "supported" in
a family is at most the level, and so is that of any false "contradicted". A question without an
expected answer is tested two-sided, and "answered" where there is an effect. Intervals are
two-sided, and of each claim by itself.

Example:
    >>> from analysis.claims import claim_named
    >>> judge([claim_named("entropy-falls")], {})[0].verdict
    <Verdict.NOT_TESTED: 'not tested at this scale'>
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.claims.choices import Unit, Verdict
from analysis.claims.claim import Claim
from analysis.claims.evidence import LEVEL, Evidence
from analysis.claims.measurements import Table, checked
from analysis.claims.selection import rows_with
from analysis.numbers import capital, nats, p_text, points, signed
from analysis.statistics.results import Direction
from analysis.statistics.tests import ScaleError, check_finite, holm
from probes.intervals import Interval

_SHOWN = {
    Unit.NATS: lambda value: f"{nats(value)} nats",
    Unit.SHARE: points,
    Unit.CORRELATION: nats,
    Unit.LAYERS: lambda value: f"{nats(value, 2)} layers",
    Unit.SLOPE: lambda value: f"{nats(value)} a decade",
    Unit.AIC: lambda value: f"{nats(value, 1)} AIC",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What measurements say about a claim; numbers are None where it is not tested.

    Attributes:
        claim: its identifier.
        verdict: the word.
        effect: in the unit of the claim.
        interval: of the effect, by itself.
        p_value: towards what is claimed (either way, of a question), Holm's over the family.
        p_against: the other way, likewise; None of a question.
        n: what it rests on: items, checkpoints or seeds.
        seeds: how many.
        test: what was done; of what is not tested, why not.
        family: claims that were adjusted together.
        sentence: all of it, in one.
    """

    claim: str
    verdict: Verdict
    effect: float | None
    interval: Interval | None
    p_value: float | None
    p_against: float | None
    n: int | None
    seeds: int | None
    test: str
    family: str
    sentence: str


def judge(
    claims: Sequence[Claim], tables: Mapping[Table, pd.DataFrame], *, level: float = LEVEL
) -> list[Finding]:
    """What measurements say about claims."""
    if not 0.5 < level < 1:
        raise ValueError(f"level is {level}: give a value between 0.5 and 1, such as 0.95")
    names = [claim.identifier for claim in claims]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the claim {twice!r} was given {names.count(twice)} times; give it once")
    ready = {table: checked(table, frame, finite=False) for table, frame in tables.items()}
    found = {claim.identifier: _evidence(claim, ready) for claim in claims}
    adjusted: dict[str, tuple[float, float]] = {}
    for family in dict.fromkeys(claim.family for claim in claims):
        members = [claim for claim in claims if claim.family == family]
        adjusted |= _adjusted(members, found)
    return [
        _finding(claim, found[claim.identifier], adjusted.get(claim.identifier), 1 - level)
        for claim in claims
    ]


def shown_effect(unit: Unit, effect: float, interval: Interval) -> str:
    """An effect with its interval, as text."""
    show = _SHOWN[unit]
    ends = " to ".join(signed(end, show) for end in interval[:2])
    return f"{signed(effect, show)} ({ends})"


def findings_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table."""
    rows = []
    for one in findings:
        low, high = (None, None) if one.interval is None else one.interval[:2]
        rows.append(
            (
                *(one.claim, str(one.verdict), one.effect, low, high, one.p_value, one.p_against),
                *(one.n, one.seeds, one.test, one.family, one.sentence),
            )
        )
    columns = ["claim", "verdict", "effect", "low", "high", "p_value", "p_against", "n", "seeds"]
    table = pd.DataFrame(rows, columns=[*columns, "test", "family", "sentence"])
    numbers = dict.fromkeys(columns[2:7], float)
    return table.astype({**numbers, "n": "Int64", "seeds": "Int64"})


def _evidence(claim: Claim, tables: Mapping[Table, pd.DataFrame]) -> Evidence | str:
    """What the test found, or why there is none."""
    if claim.table not in tables:
        return f"no table {claim.table.value!r}"
    try:
        rows = rows_with(tables[claim.table], claim.where)
        if rows.empty:
            return "no rows with the settings that it is about"
        check_finite(rows["value"].to_numpy(), "the rows that it is about")
        return claim.design.evidence(rows, claim.table, claim.expected or Direction.RISES)
    except ScaleError as error:
        return str(error).removeprefix(f"{Verdict.NOT_TESTED}: ")
    except ValueError as error:
        raise ValueError(f"{claim.identifier}: {error}") from error


def _adjusted(
    members: Sequence[Claim], found: Mapping[str, Evidence | str]
) -> dict[str, tuple[float, float]]:
    """p-values of a family for and against, of those of its claims that were tested."""
    tested = [
        (claim, evidence)
        for claim in members
        if isinstance(evidence := found[claim.identifier], Evidence)
    ]
    sides = [_sides(claim, evidence) for claim, evidence in tested]
    p_for, p_against = (holm([pair[place] for pair in sides]) for place in (0, 1))
    return {
        claim.identifier: pair
        for (claim, _), pair in zip(tested, zip(p_for, p_against, strict=True), strict=True)
    }


def _sides(claim: Claim, evidence: Evidence) -> tuple[float, float]:
    """p-values for and against; of a question, of an effect either way, and none against."""
    if claim.is_question:
        return min(1.0, 2 * min(evidence.p_for, evidence.p_against)), 1.0
    return evidence.p_for, evidence.p_against


def _finding(
    claim: Claim, found: Evidence | str, p_values: tuple[float, float] | None, alpha: float
) -> Finding:
    if isinstance(found, str):
        return Finding(
            claim=claim.identifier,
            verdict=Verdict.NOT_TESTED,
            **dict.fromkeys(("effect", "interval", "p_value", "p_against", "n", "seeds")),
            test=found,
            family=claim.family,
            sentence=f"{capital(Verdict.NOT_TESTED)}: {claim.statement} ({found}).",
        )
    assert p_values is not None
    verdict = _verdict(claim, p_values, alpha)
    return Finding(
        claim=claim.identifier,
        verdict=verdict,
        effect=found.effect,
        interval=found.interval,
        p_value=p_values[0],
        p_against=None if claim.is_question else p_values[1],
        n=found.n,
        seeds=found.seeds,
        test=found.test,
        family=claim.family,
        sentence=_sentence(claim, found, verdict, p_values),
    )


def _verdict(claim: Claim, p_values: tuple[float, float], alpha: float) -> Verdict:
    p_for, p_against = p_values
    if p_for < alpha:
        return Verdict.ANSWERED if claim.is_question else Verdict.SUPPORTED
    return Verdict.CONTRADICTED if p_against < alpha else Verdict.INCONCLUSIVE


def _sentence(
    claim: Claim, found: Evidence, verdict: Verdict, p_values: tuple[float, float]
) -> str:
    show = _SHOWN[claim.unit]
    ends = " to ".join(signed(end, show) for end in found.interval[:2])
    p = p_values[1] if verdict is Verdict.CONTRADICTED else p_values[0]
    return (
        f"{capital(verdict)}: {claim.statement} ({claim.quantity}: {signed(found.effect, show)}, "
        f"{ends}; p {p_text(p)} by Holm's method among claims on {claim.family}; n "
        f"{found.n}, {found.seeds} seeds)."
    )
