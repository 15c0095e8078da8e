"""Judging: which claims do some measurements support, and which do they contradict?

Each claim is tested one-sided towards what it says and one-sided against it; on each side p-values
are adjusted by Holm's method over a family of claims. A question without an expected answer is
tested two-sided, and "answered" where there is an effect. Intervals are two-sided, and of each
claim by itself. A claim that presupposes another one is inconclusive where that one is not
supported by the same measurements, and not tested where that one is not.

Example:
    >>> from analysis.claims import claim_named
    >>> judge([claim_named("entropy-falls")], {})[0].verdict
    <Verdict.NOT_TESTED: 'not tested at this scale'>
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.claims.catalogue import Claim, presupposed
from analysis.claims.choices import Paper, Unit, Verdict
from analysis.claims.designs import LEVEL, Evidence, arms_of
from analysis.claims.selection import Pretrained, rows_with
from analysis.measurements import AMOUNTS, COLUMNS, NONE, Table, checked
from analysis.numbers import capital, nats, p_text, points, signed
from analysis.significance import Direction, ScaleError, check_finite, holm
from probes.corpus_means import Interval

_UNITS = {
    Unit.NATS: lambda value: f"{nats(value)} nats",
    Unit.SHARE: points,
    Unit.CORRELATION: nats,
    Unit.LAYERS: lambda value: f"{nats(value, 2)} layers",
    Unit.SLOPE: lambda value: f"{nats(value)} a decade",
    Unit.AIC: lambda value: f"{nats(value, 1)} AIC",
}
_SHARED = (
    *("statement", "paper", "place", "quantity", "unit", "published", "doubts", "family"),
    "command",
)
"""What a finding has from its claim."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What measurements say about a claim, as it is written, read and drawn.

    Numbers are None where it is not tested. What is not said here is the claim's own.

    Attributes:
        claim: its identifier.
        question: whether no answer is expected.
        shown: the effect with its interval, as text.
        effect: in the unit of the claim, with `low` and `high`, the ends of its 95 % interval.
        p_value: towards what is claimed (either way, of a question), Holm's over the family.
        p_against: the other way, likewise; None of a question.
        n: what it rests on: items, checkpoints or seeds.
        test: what was done; of what is not tested, why not.
        reason: why it is inconclusive whatever its p-values; empty where they decide.
        figure: a link to where it is drawn; None where it is not tested.
    """

    claim: str
    statement: str
    paper: Paper | None
    place: str
    quantity: str
    unit: Unit
    published: str
    doubts: tuple[str, ...]
    question: bool
    verdict: Verdict
    shown: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_against: float | None = None
    n: int | None = None
    seeds: int | None = None
    test: str
    reason: str = ""
    family: str
    sentence: str
    command: str = ""
    figure: str | None = None

    @property
    def interval(self) -> Interval | None:
        """The interval of the effect, over seeds and items."""
        if self.low is None or self.high is None:
            return None
        return Interval(self.low, self.high, LEVEL)

    @property
    def deciding_p(self) -> float | None:
        """The p-value that the verdict is from."""
        return self.p_against if self.verdict is Verdict.CONTRADICTED else self.p_value


def judge(
    claims: Sequence[Claim],
    tables: Mapping[Table, pd.DataFrame],
    pretrained: Pretrained | None = None,
) -> list[Finding]:
    """What measurements say about claims.

    Args:
        claims: whole families, since p-values hold for those judged together.
        tables: of measurements (`analysis.measurements`); those that are missing, or are
            too few, leave claims untested.
        pretrained: the model that the checkpoints are of, by which claims about an age of
            pretraining choose theirs; None for checkpoints that are of the age of every claim.

    Raises:
        ValueError: a table is not one or has a row twice, or a claim is there twice. Data that
            allow no test leave their claim untested, with the reason.
    """
    names = [claim.identifier for claim in claims]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the claim {twice!r} was given {names.count(twice)} times; give it once")
    ready = {table: checked(table, frame, finite=False) for table, frame in tables.items()}
    asked, claims = len(claims), [*claims, *presupposed(claims)]
    found = {claim.identifier: _evidence(claim, ready, pretrained) for claim in claims}
    adjusted: dict[str, tuple[float, float]] = {}
    for family in dict.fromkeys(claim.family for claim in claims):
        sides = {
            claim.identifier: _sides(claim, evidence)
            for claim in claims
            if claim.family == family and isinstance(evidence := found[claim.identifier], Evidence)
        }
        p_for, p_against = (holm([pair[side] for pair in sides.values()]) for side in (0, 1))
        adjusted |= dict(zip(sides, zip(p_for, p_against, strict=True), strict=True))
    findings = {
        claim.identifier: _finding(claim, found[claim.identifier], adjusted.get(claim.identifier))
        for claim in claims
    }
    return [
        _with_amounts(claim, _with_what_it_presupposes(claim, findings), ready)
        for claim in claims[:asked]
    ]


def shown_effect(unit: Unit, effect: float, low: float, high: float) -> str:
    """An effect with the ends of its interval, as text."""
    shown, *ends = (signed(each, _UNITS[unit]) for each in (effect, low, high))
    return f"{shown} ({' to '.join(ends)})"


def _evidence(
    claim: Claim, tables: Mapping[Table, pd.DataFrame], pretrained: Pretrained | None
) -> Evidence | str:
    """What the test found, or why there is none."""
    if claim.table not in tables:
        return f"no table {claim.table.value!r}"
    try:
        rows = tables[claim.table]
        if claim.age is not None and pretrained is not None:
            rows = claim.age.rows(rows, pretrained)
        rows = rows_with(rows, claim.where)
        if rows.empty:
            return "no rows with the settings that it is about"
        check_finite(rows["value"].to_numpy(), "the rows that it is about")
        towards = claim.expected or Direction.RISES
        try:
            return claim.design.evidence(rows.drop(columns=[*claim.unequal]), claim.table, towards)
        except ScaleError as error:
            amounts = AMOUNTS[claim.table]
            if {*amounts} == {*claim.unequal}:
                raise
            try:
                claim.design.evidence(rows.drop(columns=[*amounts]), claim.table, towards)
            except ScaleError:
                raise error from None
            unequal = " or ".join(COLUMNS[claim.table][name] for name in amounts)
            return f"not compared, since arms have unequal numbers of {unequal}"
    except ScaleError as error:
        return str(error).removeprefix(f"{Verdict.NOT_TESTED}: ")
    except ValueError as error:
        raise ValueError(f"{claim.identifier}: {error}") from error


def _with_amounts(claim: Claim, finding: Finding, tables: Mapping[Table, pd.DataFrame]) -> Finding:
    """A finding with how much each arm was trained among its doubts, where that is not equal."""
    if finding.verdict is Verdict.NOT_TESTED:
        return finding
    rows = rows_with(tables[claim.table], claim.where)
    said = []
    for name in claim.unequal:
        arms = {arm.name: rows_with(rows, arm.settings)[name] for arm in arms_of(claim.design)}
        numbers = {arm: {int(n) for n in found if n != NONE} for arm, found in arms.items()}
        if len(set().union(*numbers.values())) > 1:
            ends = {
                arm: sorted({min(n, default=0), max(n, default=0)}) for arm, n in numbers.items()
            }
            each = (f"{' to '.join(f'{n:,}' for n in of)} ({arm})" for arm, of in ends.items())
            said.append(f"unequal numbers of {COLUMNS[claim.table][name]}: {', '.join(each)}")
    return replace(finding, doubts=(*finding.doubts, *said))


def _sides(claim: Claim, evidence: Evidence) -> tuple[float, float]:
    """p-values for and against; of a question, of an effect either way, and none against."""
    if claim.is_question:
        return min(1.0, 2 * min(evidence.p_for, evidence.p_against)), 1.0
    return evidence.p_for, evidence.p_against


def _untested(claim: Claim, why: str) -> Finding:
    return Finding(
        claim=claim.identifier,
        question=claim.is_question,
        verdict=Verdict.NOT_TESTED,
        test=why,
        sentence=f"{capital(Verdict.NOT_TESTED)}: {claim.statement} ({why}).",
        **{name: getattr(claim, name) for name in _SHARED},
    )


def _finding(claim: Claim, found: Evidence | str, p_values: tuple[float, float] | None) -> Finding:
    if isinstance(found, str):
        return _untested(claim, found)
    assert p_values is not None
    verdict = _verdict(claim, p_values)
    low, high = found.interval[:2]
    shown = shown_effect(claim.unit, found.effect, low, high)
    p = p_text(p_values[verdict is Verdict.CONTRADICTED])
    return replace(
        _untested(claim, found.test),
        verdict=verdict,
        shown=shown,
        effect=found.effect,
        low=low,
        high=high,
        p_value=p_values[0],
        p_against=None if claim.is_question else p_values[1],
        n=found.n,
        seeds=found.seeds,
        sentence=f"{capital(verdict)}: {claim.statement} ({claim.quantity}: "
        f"{shown.removesuffix(')').replace(' (', ', ')}; p {p} by Holm's method among claims on "
        f"{claim.family}; n {found.n}, {found.seeds} seeds).",
        figure=f"#{claim.figure}",
    )


def _with_what_it_presupposes(claim: Claim, findings: Mapping[str, Finding]) -> Finding:
    """A finding, and what becomes of it without what its claim presupposes."""
    own = findings[claim.identifier]
    if claim.presupposes is None or own.verdict is Verdict.NOT_TESTED:
        return own
    other = findings[claim.presupposes.claim]
    if other.verdict is Verdict.SUPPORTED:
        return own
    if other.verdict is Verdict.NOT_TESTED:
        return _untested(claim, f"presupposes that {other.statement}: {other.test}")
    reason = f"{claim.presupposes.otherwise}: {other.shown}, {other.verdict}"
    sentence = f"{capital(Verdict.INCONCLUSIVE)}: {claim.statement}; {reason}"
    return replace(
        own,
        verdict=Verdict.INCONCLUSIVE,
        reason=reason,
        sentence=f"{sentence} ({own.sentence.partition(' (')[2]}",
    )


def _verdict(claim: Claim, p_values: tuple[float, float]) -> Verdict:
    p_for, p_against = p_values
    if p_for < 1 - LEVEL:
        return Verdict.ANSWERED if claim.is_question else Verdict.SUPPORTED
    return Verdict.CONTRADICTED if p_against < 1 - LEVEL else Verdict.INCONCLUSIVE
