"""The ledger on the page: tiles with counts, a table for each paper, effects with their intervals.

Verdicts are words and marks, so that they can be read without colours. Tiles filter the rows.

Example:
    >>> verdict_word(Verdict.SUPPORTED)
    '<span class="verdict" data-tone="supported">✓ supported</span>'
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from analysis.claims.choices import Unit, Verdict
from analysis.claims.evidence import LEVEL
from analysis.claims.verdicts import shown_effect
from analysis.ledger import by_paper, shown_p
from analysis.page import (
    Html,
    Panel,
    bullets,
    definitions,
    element,
    escape,
    joined,
    paragraph,
)
from analysis.report.anchors import Anchor, anchor_of
from analysis.report.figures import arm_dots
from analysis.report.ledger_file import Ledger
from analysis.report.parts import Part, wide_figure
from analysis.report_texts import capital
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
_HEADER = ("claim", "verdict", "effect", "p", "n", "seeds", "place, and what was published", "")
_TEXTS = ("verdict", "place, and what was published")
"""Columns of words."""


def ledger_part(ledger: Ledger | None, drawn: Collection[Anchor]) -> Part | None:
    """The part; None where there is no ledger.

    Args:
        ledger: the claims.
        drawn: where links can lead.
    """
    if ledger is None:
        return None
    return Part(
        anchor=Anchor.LEDGER,
        heading="What the papers claim, and what these runs say",
        pieces=(
            paragraph(
                f"Scale: {ledger.scale}. In each family of claims the chance of any false "
                f"\u201csupported\u201d is at most {100 * (1 - ledger.level):.3g} %, and so is "
                "that of any false \u201ccontradicted\u201d. Intervals are of each claim by "
                "itself. A tile shows the claims of its verdict alone; a claim unfolds."
            ),
            _tiles(ledger),
            *(
                _paper_table(paper, claims, drawn)
                for paper, claims in by_paper(ledger.claims).items()
            ),
            *_forest(ledger),
        ),
        tables={"ledger": ledger.table()},
        findings=tuple(_findings(ledger)),
    )


def verdict_word(verdict: str) -> Html:
    """A verdict as a word with its mark and colour."""
    text = f"{MARKS[Verdict(verdict)]} {verdict}"
    return element("span", text, class_="verdict", data_tone=str(verdict))


def _tiles(ledger: Ledger) -> Html:
    tiles = (
        element(
            "button",
            element("b", str(number)),
            f"{MARKS[verdict]} {verdict}",
            type="button",
            data_filter=str(verdict),
            data_tone=str(verdict),
            aria_pressed="false",
        )
        for verdict, number in ledger.counts.items()
    )
    return element("div", *tiles, class_="tiles", role="group", aria_label="filter by verdict")


def _paper_table(
    paper: str, claims: Sequence[Mapping[str, Any]], drawn: Collection[Anchor]
) -> Html:
    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_="text" if name in _TEXTS else None)
            for name in _HEADER
        ),
    )
    bodies = (_claim_rows(claim, drawn) for claim in claims)
    number = f"{len(claims)} claim{'s' if len(claims) > 1 else ''}"
    title = element("caption", f"{paper}: {number}")
    grid = element("table", title, element("thead", head), *bodies, class_="unfolding")
    return element("div", grid, class_="scroll", tabindex="0", role="group", aria_label=paper)


def _claim_rows(claim: Mapping[str, Any], drawn: Collection[Anchor]) -> Html:
    more = f"claim-{claim['claim']}"
    fold = element(
        "button",
        capital(claim["statement"]),
        type="button",
        class_="fold",
        aria_expanded="false",
        aria_controls=more,
    )
    cells = (
        element("td", verdict_word(claim["verdict"]), class_="text"),
        element("td", _effect(claim)),
        element("td", shown_p(claim)),
        element("td", _number(claim["n"])),
        element("td", _number(claim["seeds"])),
        element("td", claim["place"], *_published(claim), class_="text"),
        element("td", _link(claim, drawn)),
    )
    row = element("tr", element("th", fold, scope="row"), *cells)
    told = element("td", element("div", *_told(claim)), colspan=str(len(_HEADER)))
    # `element` leaves out attributes that are None; an empty one is what HTML calls true.
    folded = element("tr", told, id=more, class_="more", hidden="")
    return element("tbody", row, folded, data_row=str(claim["verdict"]), id=str(claim["claim"]))


def _told(claim: Mapping[str, Any]) -> Iterator[Html]:
    """What a row unfolds to."""
    yield paragraph(claim["sentence"])
    yield definitions(
        {
            "quantity": f"{claim['quantity']} ({claim['unit']})",
            "test": claim["test"],
            "family": claim["family"],
            "published": claim["published"] or "no number",
            **({"command": element("code", claim["command"])} if claim.get("command") else {}),
        }
    )
    if claim["doubts"]:
        yield paragraph("Doubts of the sources themselves, their code or later work:")
        yield bullets(claim["doubts"])


def _published(claim: Mapping[str, Any]) -> list[Html]:
    return [element("small", claim["published"])] if claim["published"] else []


def _effect(claim: Mapping[str, Any]) -> Html:
    """An effect above its interval, in which the unit is not said again."""
    main, bracket, ends = _effect_text(claim).partition(" (")
    unit = main.partition(" ")[2]
    ends = ends.replace(f" {unit}", "") if unit else ends
    return joined([main, element("small", f"({ends}")]) if bracket else escape(main)


def _effect_text(claim: Mapping[str, Any]) -> str:
    if claim["effect"] is None:
        return ""
    interval = Interval(claim["low"], claim["high"], LEVEL)
    return shown_effect(Unit(claim["unit"]), claim["effect"], interval)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}"


def _link(claim: Mapping[str, Any], drawn: Collection[Anchor]) -> Html:
    anchor = anchor_of(claim["claim"])
    if anchor in (Anchor.MIXES, Anchor.DEPTH) and anchor not in drawn:
        anchor = Anchor.MEMORIZATION
    if anchor is None or anchor not in drawn:
        return Html()
    return element("a", "figure", href=f"#{anchor}", aria_label=f"figure on {claim['claim']}")


def _forest(ledger: Ledger) -> Iterator[Html]:
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
