"""The ledger: what came of every claim, as a file, as a document and in a word each.

`ledger.json` holds every finding with its claim; `ledger.csv` the same as a table; `ledger.md` the
same to be read. What a verdict means is said in `analysis.claims.choices`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.claims.choices import Paper, Unit, Verdict
from analysis.claims.designs import LEVEL
from analysis.claims.judging import Finding, shown_effect
from analysis.numbers import p_text
from probes.shown import Table, json_text, markdown_table
from training.runs.records import write_whole

JSON_FILE, CSV_FILE, MARKDOWN_FILE = "ledger.json", "ledger.csv", "ledger.md"
_MEANINGS = (
    "Supported and contradicted: an effect in the direction claimed, or in the other one, beyond "
    "chance over seeds, and over passages, questions or facts where there are any. Levels hold for "
    "families of claims together, by Holm's method. Inconclusive: neither, or what the claim "
    "presupposes is not so here. Not tested: too few checkpoints, seeds or items, models of "
    "another age than it is about, or nothing to measure. A question has no expected answer; it is "
    "answered where there is an effect, whose sign is the answer."
)
_CHOICES: Mapping[str, type[StrEnum]] = {"paper": Paper, "unit": Unit, "verdict": Verdict}
_OPTIONAL = ("shown", "command", "figure", "reason")


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What came of each claim, in the order of the catalogue, and where the numbers are from.

    The level is that of verdicts: 1 less the chance of any false one in a family. `models` says of
    which size the models were and how long they were trained, a line each.
    """

    scale: str
    level: float = LEVEL
    command: str
    models: tuple[str, ...] = ()
    claims: tuple[Finding, ...]
    provenance: Mapping[str, Any]

    @property
    def tested(self) -> int:
        """How many claims could be tested."""
        return sum(one.verdict is not Verdict.NOT_TESTED for one in self.claims)

    def by_paper(self) -> dict[str, list[Finding]]:
        """Findings by the paper that makes the claim; questions together."""
        found: dict[str, list[Finding]] = {}
        for one in self.claims:
            heading = "Questions left open" if one.question else str(one.paper)
            found.setdefault(heading, []).append(one)
        return found

    def table(self) -> pd.DataFrame:
        """A row for each claim, without its doubts; each says of which models it is."""
        found = pd.DataFrame([asdict(one) for one in self.claims]).drop(columns="doubts")
        return found.assign(scale=self.scale, models="; ".join(self.models))

    def markdown(self) -> str:
        """The ledger as a document."""
        parts = [
            f"# The papers' claims, at the scale {self.scale!r}",
            *(["\n".join(f"- {line}" for line in self.models)] if self.models else []),
            f"{len(self.claims)} claims: {counts_text(self.claims)}.",
            f"    {self.command}",
            _MEANINGS,
        ]
        for heading, findings in self.by_paper().items():
            parts.append("\n".join(markdown_table(_paper_table(heading, findings))))
        parts += ["## What speaks for and against each", *map(_doubts, self.claims)]
        return "\n\n".join(parts) + "\n"


def ledger_of(
    findings: Iterable[Finding],
    *,
    scale: str,
    command: str,
    page: str,
    models: Iterable[str] = (),
    provenance: Mapping[str, Any],
) -> Ledger:
    """A ledger of findings, which link to a page of figures."""
    linked = (replace(one, figure=f"{page}{one.figure}") if one.figure else one for one in findings)
    of: Any = {"scale": scale, "command": command, "provenance": provenance}
    return Ledger(models=tuple(models), claims=tuple(linked), **of)


def write_ledger(ledger: Ledger, out: Path) -> None:
    """Write a ledger into a folder that is there, as JSON, as a table and as a document."""
    content = asdict(ledger) | {"tested": ledger.tested}
    write_whole(out / JSON_FILE, json_text(content, f"{out / JSON_FILE}", indent=2) + "\n")
    write_whole(out / CSV_FILE, ledger.table().to_csv(index=False))
    write_whole(out / MARKDOWN_FILE, ledger.markdown())


def read_ledger(path: str | Path) -> Ledger:
    """Read a ledger from its file, or from the folder that it is in.

    Raises:
        ValueError: it is no ledger, or one of another version.
    """
    file = Path(path) / JSON_FILE if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Ledger(
            scale=content["scale"],
            level=float(content["level"]),
            command=content["command"],
            models=tuple(content.get("models", ())),
            claims=tuple(map(_finding, content["claims"])),
            provenance=content.get("provenance") or {},
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        why = f"is no ledger, found no JSON ({error})"
    except KeyError as error:
        why = f"was written by another version, found no {error}"
    except (TypeError, ValueError) as error:
        why = f"was written by another version: {error}"
    raise ValueError(f"{file} {why}; make it anew with analysis.reproduce")


def verdict_counts(findings: Iterable[Finding]) -> dict[Verdict, int]:
    """How many findings have each verdict, in the order of `Verdict`, of those that any has."""
    found = Counter(one.verdict for one in findings)
    return {verdict: found[verdict] for verdict in Verdict if found[verdict]}


def counts_text(findings: Iterable[Finding]) -> str:
    """How many findings have each verdict, in words."""
    return ", ".join(f"{number} {verdict}" for verdict, number in verdict_counts(findings).items())


def shown_p(finding: Finding) -> str:
    """The p-value that a verdict is from, as text; empty where there is none."""
    return "" if finding.deciding_p is None else p_text(finding.deciding_p)


def _finding(entry: Mapping[str, Any]) -> Finding:
    """A finding as it was written; what it has beside a finding's fields is left out."""
    names = (one.name for one in fields(Finding))
    given = {name: entry[name] for name in names if name in entry or name not in _OPTIONAL}
    for name, choices in _CHOICES.items():
        given[name] = given[name] and choices(given[name])
    found = Finding(**given | {"doubts": tuple(given["doubts"])})
    if found.shown or found.effect is None or found.interval is None:
        return found
    return replace(found, shown=shown_effect(found.unit, found.effect, *found.interval[:2]))


def _paper_table(heading: str, findings: Sequence[Finding]) -> Table:
    rows = tuple(
        (
            f"{one.statement} ({one.place})",
            one.verdict,
            "; ".join(filter(None, (one.shown or one.test, one.reason))),
            shown_p(one),
            "" if one.n is None else f"{one.n}; {one.seeds} seeds",
        )
        for one in findings
    )
    header = ("", "verdict", "effect, 95 % interval", "p", "n")
    note = f"{len(findings)} claims: {counts_text(findings)}."
    return Table.of_rows(heading, header, rows, note=note)


def _doubts(finding: Finding) -> str:
    lines = [f"- **{finding.claim}**: {finding.quantity}; {finding.test}."]
    if finding.published:
        lines.append(f"  Published: {finding.published}.")
    if finding.doubts:
        lines.append(f"  Against it: {'; '.join(finding.doubts)}.")
    return "\n".join(lines)
