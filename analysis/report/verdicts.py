"""The ledger on the page: tiles with counts, a table for each paper, effects with their intervals.

Verdicts are words and marks, so that they can be read without colours. Tiles filter the rows.
"""

from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

from analysis.claims.catalogue import CLAIMS
from analysis.claims.choices import Anchor, Unit, Verdict
from analysis.claims.judging import Finding
from analysis.claims.ledger import Ledger, shown_p, verdict_counts
from analysis.document import Cell, Figure, Template
from analysis.numbers import capital
from analysis.report.parts import Part, dot_panels, figure
from analysis.theme import REFERENCE_COLOUR, SERIES_COLOURS

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
_FORMS = dict.fromkeys(map(str, Unit), "+.3~g") | {str(Unit.SHARE): "+.1%"}


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
                    "counts": verdict_counts(ledger.claims),
                    "papers": {
                        paper: [_row(one, drawn) for one in findings]
                        for paper, findings in ledger.by_paper().items()
                    },
                },
            ),
            *_forest(ledger),
        ),
        tables={"ledger": ledger.table().drop(columns=["shown", "command", "figure"])},
        findings=tuple(_findings(ledger)),
    )


def _row(one: Finding, drawn: Collection[Anchor]) -> dict[str, Any]:
    """A claim with its cells as the page shows them."""
    # An effect stands above its interval, in which the unit is not said again.
    main, bracket, ends = one.shown.partition(" (")
    unit = main.partition(" ")[2]
    ends = ends.replace(f" {unit}", "") if unit else ends
    anchor = CLAIMS[one.claim].figure
    if anchor in (Anchor.MIXES, Anchor.DEPTH) and anchor not in drawn:
        anchor = Anchor.MEMORIZATION
    return {
        **asdict(one),
        "heading": capital(one.statement),
        "shown": Cell(main, f"({ends}" if bracket else ""),
        "p": shown_p(one),
        "n_shown": "" if one.n is None else f"{one.n:,}",
        "seeds_shown": "" if one.seeds is None else f"{one.seeds:,}",
        "anchor": str(anchor) if anchor in drawn else None,
    }


def _forest(ledger: Ledger) -> list[Figure]:
    """Effects with their intervals, a panel for each unit."""
    rows = ledger.table()
    rows = rows[rows["effect"].notna()].rename(columns={"claim": "arm", "effect": "value"})
    rows = rows.astype({"value": float, "low": float, "high": float})
    colours = {row.arm: _COLOURS[Verdict(row.verdict)] for row in rows.itertuples()}
    return figure(
        "Effects with their intervals.",
        "A row for each claim that was tested, a panel for each unit; colours are those of the "
        "verdicts above. Left of the dotted line a quantity falls, right of it it rises.",
        dot_panels(rows.assign(panel=rows["unit"].map(str)), colours, form=_FORMS),
        is_wide=True,
    )


def _findings(ledger: Ledger) -> Iterator[str]:
    counts = verdict_counts(ledger.claims)
    verdicts = [f"{counts[one]} {one}" for one in _COLOURS if one in counts]
    yield (
        f"Of {len(ledger.claims)} claims and questions, {ledger.tested} could be tested at the "
        f"scale {ledger.scale}{': ' if verdicts else ''}{', '.join(verdicts)}."
    )
    for verdict in (Verdict.CONTRADICTED, Verdict.SUPPORTED):
        found = [one for one in ledger.claims if one.verdict is verdict]
        if found:
            surest = min(found, key=lambda one: one.deciding_p or 0.0)
            effect, _, ends = surest.shown.partition(" (")
            numbers = f"{effect}, {ends.removesuffix(')')}; p {shown_p(surest)}"
            yield f"{capital(verdict)} most clearly: {surest.statement} ({numbers})."
