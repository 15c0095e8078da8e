"""The ledger: what came of every claim, as a file, as a document and in a word each.

`ledger.json` holds every claim with its verdict, effect, interval, p-values, numbers of items and
seeds, its test, what was published and what speaks against it; `ledger.csv` the same as a table;
`ledger.md` the same to be read. What a verdict means is said in `analysis.claims.choices`.

Example:
    >>> counts_text({Verdict.SUPPORTED: 2, Verdict.INCONCLUSIVE: 1})
    '2 supported, 1 inconclusive'
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.claims.catalogue import CLAIMS
from analysis.claims.choices import Verdict
from analysis.claims.claim import Claim
from analysis.claims.evidence import LEVEL
from analysis.claims.verdicts import Finding, shown_effect
from analysis.numbers import p_text
from analysis.report.anchors import anchor_of
from probes.json_text import json_text
from probes.tables import Table, markdown_table
from training.runs.durable_files import write_whole

JSON_FILE, CSV_FILE, MARKDOWN_FILE = "ledger.json", "ledger.csv", "ledger.md"
_NOT_IN_THE_TABLE = ("doubts",)
_MEANINGS = (
    "Supported and contradicted: an effect in the direction claimed, or in the other one, beyond "
    "chance over seeds, and over passages, questions or facts where there are any. Levels hold for "
    "families of claims together, by Holm's method. Inconclusive: neither. Not tested: too few "
    "checkpoints, seeds or items, or nothing to measure. A question has no expected answer; it is "
    "answered where there is an effect, whose sign is the answer."
)


def ledger_of(
    findings: Sequence[Finding],
    *,
    scale: str,
    command: str,
    page: str,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Findings with their claims, as JSON takes them."""
    claims = [_entry(CLAIMS[finding.claim], finding, page) for finding in findings]
    tested = sum(entry["verdict"] != Verdict.NOT_TESTED for entry in claims)
    return {
        "scale": scale,
        "level": LEVEL,
        "command": command,
        "tested": tested,
        "claims": claims,
        "provenance": dict(provenance),
    }


def write_ledger(ledger: Mapping[str, Any], out: Path) -> None:
    """Write a ledger into a folder, as JSON, as a table and as a document."""
    import pandas as pd

    text = json_text(ledger, f"{out / JSON_FILE}", indent=2) + "\n"
    write_whole(out / JSON_FILE, text)
    rows = pd.DataFrame(ledger["claims"]).drop(columns=list(_NOT_IN_THE_TABLE))
    write_whole(out / CSV_FILE, rows.to_csv(index=False))
    write_whole(out / MARKDOWN_FILE, ledger_markdown(ledger))


def verdict_counts(entries: Iterable[Mapping[str, Any]]) -> dict[Verdict, int]:
    """How many claims have each verdict, in the order of `Verdict`; those
    that none has left out.
    """
    found = Counter(entry["verdict"] for entry in entries)
    return {verdict: found[verdict] for verdict in Verdict if found[verdict]}


def counts_text(counts: Mapping[Verdict, int]) -> str:
    """Counts of verdicts, in words."""
    return ", ".join(f"{number} {verdict}" for verdict, number in counts.items())


def ledger_markdown(ledger: Mapping[str, Any]) -> str:
    """A ledger as a document."""
    claims = ledger["claims"]
    parts = [
        f"# The papers' claims, at the scale {ledger['scale']!r}",
        f"{len(claims)} claims: {counts_text(verdict_counts(claims))}.",
        f"    {ledger['command']}",
        _MEANINGS,
    ]
    for heading, entries in by_paper(claims).items():
        parts.append("\n".join(markdown_table(_table(heading, entries))))
    parts += ["## What speaks for and against each", *map(_doubts, claims)]
    return "\n\n".join(parts) + "\n"


def _entry(claim: Claim, finding: Finding, page: str) -> dict[str, Any]:
    low, high = (None, None) if finding.interval is None else finding.interval[:2]
    shown = ""
    if finding.effect is not None and finding.interval is not None:
        shown = shown_effect(claim.unit, finding.effect, finding.interval)
    return {
        "claim": claim.identifier,
        "statement": claim.statement,
        "paper": None if claim.paper is None else str(claim.paper),
        "place": claim.place,
        "quantity": claim.quantity,
        "unit": str(claim.unit),
        "published": claim.value,
        "doubts": list(claim.doubts),
        "question": claim.is_question,
        "verdict": str(finding.verdict),
        "shown": shown,
        "effect": finding.effect,
        "low": low,
        "high": high,
        "p_value": finding.p_value,
        "p_against": finding.p_against,
        "n": finding.n,
        "seeds": finding.seeds,
        "test": finding.test,
        "family": finding.family,
        "sentence": finding.sentence,
        "command": claim.command,
        "figure": None if finding.effect is None else f"{page}#{anchor_of(claim.identifier)}",
    }


def by_paper(entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Claims by the paper that makes them; questions together."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        heading = "Questions left open" if entry["question"] else str(entry["paper"])
        found.setdefault(heading, []).append(entry)
    return found


def _table(heading: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            f"{entry['statement']} ({entry['place']})",
            entry["verdict"],
            entry["shown"] or entry["test"],
            shown_p(entry),
            "" if entry["n"] is None else f"{entry['n']}; {entry['seeds']} seeds",
        )
        for entry in entries
    )
    counted = counts_text(verdict_counts(entries))
    header = ("", "verdict", "effect, 95 % interval", "p", "n")
    return Table.of_rows(heading, header, rows, note=f"{len(entries)} claims: {counted}.")


def shown_p(entry: Mapping[str, Any]) -> str:
    """The p-value that a verdict is from, as text; empty where there is none."""
    against = entry["verdict"] == Verdict.CONTRADICTED
    value = entry["p_against"] if against else entry["p_value"]
    return "" if value is None else p_text(value)


def _doubts(entry: Mapping[str, Any]) -> str:
    told = [f"- **{entry['claim']}**: {entry['quantity']}; {entry['test']}."]
    if entry["published"]:
        told.append(f"  Published: {entry['published']}.")
    if entry["doubts"]:
        told.append(f"  Against it: {'; '.join(entry['doubts'])}.")
    return "\n".join(told)
