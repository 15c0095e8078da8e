"""The ledger on the page: tiles with counts, a table for each paper, effects with their intervals.

Verdicts are words and marks, so that they can be read without colours. Tiles filter the rows.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from analysis.claims.choices import Unit, Verdict
from analysis.claims.evidence import LEVEL
from analysis.claims.verdicts import shown_effect
from analysis.document import Cell, Figure, Panel, Template
from analysis.ledger import by_paper, shown_p
from analysis.numbers import capital
from analysis.report.anchors import Anchor, anchor_of
from analysis.report.figures import arm_dots
from analysis.report.ledger_file import Ledger
from analysis.report.parts import Part, wide_figure
from analysis.theme import REFERENCE_COLOUR, SERIES_COLOURS
from probes.intervals import Interval

MARKS = {
    Verdict.SUPPORTED: "✓",
    Verdict.CONTRADICTED: "✗",
    Verdict.INCONCLUSIVE: "≈",
    Verdict.ANSWERED: "?",
    Verdict.NOT_TESTED: "\N{EN DASH}",
}
_COLOURS = {
    Verdict.SUPPORTED: SERIES_COLOURS[2],
    Verdict.CONTRADICTED: SERIES_COLOURS[1],
    Verdict.INCONCLUSIVE: REFERENCE_COLOUR,
    Verdict.ANSWERED: SERIES_COLOURS[0],
}
_FORMS = {Unit.SHARE: "+.1%"}


def ledger_part(ledger: Ledger | None, drawn: Collection[Anchor]) -> Part | None:
    """The part; None where there is no ledger."""
    if ledger is None:
        return None
    return Part(
        anchor=Anchor.LEDGER,
        heading="What the papers claim, and what these runs say",
        pieces=(
            f"Scale: {ledger.scale}. In each family of claims the chance of any false "
            f"\u201csupported\u201d is at most {100 * (1 - ledger.level):.3g} %, and so is that of "
            "any false \u201ccontradicted\u201d. Intervals are of each claim by itself. A tile "
            "shows the claims of its verdict alone; a claim unfolds.",
            Template(
                "verdicts",
                {
                    "marks": MARKS,
                    "counts": ledger.counts,
                    "papers": {
                        paper: [_shown(claim, drawn) for claim in claims]
                        for paper, claims in by_paper(ledger.claims).items()
                    },
                },
            ),
            *_forest(ledger),
        ),
        tables={"ledger": ledger.table()},
        findings=tuple(_findings(ledger)),
    )


def _shown(claim: Mapping[str, Any], drawn: Collection[Anchor]) -> dict[str, Any]:
    """A claim with its cells as the page shows them."""
    return {
        **claim,
        "heading": capital(claim["statement"]),
        "shown": _effect(claim),
        "p": shown_p(claim),
        "n_shown": _number(claim["n"]),
        "seeds_shown": _number(claim["seeds"]),
        "anchor": _link(claim, drawn),
    }


def _effect(claim: Mapping[str, Any]) -> Cell:
    """An effect above its interval, in which the unit is not said again."""
    main, bracket, ends = _effect_text(claim).partition(" (")
    unit = main.partition(" ")[2]
    ends = ends.replace(f" {unit}", "") if unit else ends
    return Cell(main, f"({ends}" if bracket else "")


def _effect_text(claim: Mapping[str, Any]) -> str:
    if claim["effect"] is None:
        return ""
    interval = Interval(claim["low"], claim["high"], LEVEL)
    return shown_effect(Unit(claim["unit"]), claim["effect"], interval)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def _link(claim: Mapping[str, Any], drawn: Collection[Anchor]) -> str | None:
    anchor = anchor_of(claim["claim"])
    if anchor in (Anchor.MIXES, Anchor.DEPTH) and anchor not in drawn:
        anchor = Anchor.MEMORIZATION
    return str(anchor) if anchor in drawn else None


def _forest(ledger: Ledger) -> Iterator[Figure]:
    """Effects with their intervals, a panel for each unit."""
    rows = ledger.table()
    rows = rows[rows["effect"].notna()].rename(columns={"claim": "arm", "effect": "value"})
    rows = rows.astype({"value": float, "low": float, "high": float})
    colours = {row.arm: _COLOURS[Verdict(row.verdict)] for row in rows.itertuples()}
    panels = [
        Panel(arm_dots(found, colours, "", form=_FORMS.get(Unit(str(unit)), "+.3~g")), str(unit))
        for unit, found in rows.groupby("unit", sort=False)
    ]
    if panels:
        yield wide_figure(
            "Effects with their intervals.",
            "A row for each claim that was tested, a panel for each unit; colours are those of "
            "the verdicts above. Left of the dotted line a quantity falls, right of it it rises.",
            panels,
        )


def _findings(ledger: Ledger) -> Iterator[str]:
    counts = ledger.counts
    tested = sum(number for verdict, number in counts.items() if verdict != Verdict.NOT_TESTED)
    told = [f"{counts[one]} {one}" for one in _COLOURS if one in counts]
    yield (
        f"Of {len(ledger.claims)} claims and questions, {tested} could be tested at the scale "
        f"{ledger.scale}{': ' if told else ''}{', '.join(told)}."
    )
    for verdict in (Verdict.CONTRADICTED, Verdict.SUPPORTED):
        found = [claim for claim in ledger.claims if claim["verdict"] == verdict]
        if found:
            surest = min(found, key=lambda claim: claim[_P[verdict]] or 0.0)
            yield f"{capital(verdict)} most clearly: {surest['statement']} ({_plain(surest)})."


_P = {Verdict.SUPPORTED: "p_value", Verdict.CONTRADICTED: "p_against"}


def _plain(claim: Mapping[str, Any]) -> str:
    effect, _, ends = _effect_text(claim).partition(" (")
    return f"{effect}, {ends.removesuffix(')')}; p {shown_p(claim)}"
