"""The page of any set of results: findings, then a part for each thing that was measured."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.document import Report, html
from analysis.report.encounters import encounters_part
from analysis.report.material import Material
from analysis.report.memorization import memorization_part
from analysis.report.parts import Part
from analysis.report.pretraining import pretraining_part, updates_part
from analysis.report.provenance import provenance_part
from analysis.report.readable import readable_part
from analysis.report.resuscitation import resuscitation_part
from analysis.report.verdicts import ledger_part
from probes.cli import output_folder, progress

TITLE = "How language models acquire, store and forget facts"
MOST_FINDINGS = 8
"""At the head of the page."""
MEASURED: Mapping[str, Callable[[Material], Part | None]] = {
    "pretraining": pretraining_part,
    "encounters": encounters_part,
    "resuscitation": resuscitation_part,
    "memorization": memorization_part,
    "updates": updates_part,
    "lenses and edits": readable_part,
}
"""What parts are made of measurements, in their order."""
_OF_MODELS = ("entropy_sweeps", "entropy_results", "lens_results", "edit_sweeps", "updates")
_COUNTED = {
    "pretraining_runs": "pretraining",
    "ckl_runs": "continual knowledge learning",
    "remix_runs": "continual memorization",
}


def write_page(material: Material, out: Path, *, command: str, title: str) -> None:
    """Write a page, and the tables behind its figures as CSV into a folder beside it."""
    with progress("parts of the page", len(MEASURED)) as advance:
        report, tables = page_report(material, title, command, on_part=advance)
    with output_folder(out.with_name(f"{out.stem}-tables")) as folder:
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
    out.write_text(html(report), encoding="utf-8")


def page_report(
    material: Material,
    title: str,
    command: str,
    *,
    on_part: Callable[[int], None] | None = None,
) -> tuple[Report, dict[str, pd.DataFrame]]:
    """Everything that results say, and the tables behind the figures."""
    parts = []
    for make in MEASURED.values():
        found = make(material)
        parts += [found] if found is not None else []
        if on_part is not None:
            on_part(1)
    drawn = {anchor for part in parts for anchor in (part.anchor, *part.anchors)}
    ledger = ledger_part(material.ledger, drawn)
    parts = [*([ledger] if ledger else []), *parts, provenance_part(material, command)]
    report = Report(
        title=title,
        kicker="mnemoscope \u00b7 report",
        deck=deck(material),
        findings=_findings(parts),
        sections=[part.section for part in parts],
        has_contents=True,
    )
    tables = {name: table for part in parts for name, table in part.tables.items()}
    return report, {name: table for name, table in tables.items() if len(table)}


def deck(material: Material) -> str:
    """What the results are, in a sentence."""
    results = material.results
    counts = [
        f"{len(found)} run{'s' if len(found) > 1 else ''} of {what}"
        for name, what in _COUNTED.items()
        if (found := getattr(results, name))
    ]
    others = sum(len(getattr(results, name)) for name in _OF_MODELS)
    counts += [f"{others} measurement{'s' if others > 1 else ''} of models"] if others else []
    counts += [f"{len(results.unfinished)} not over"] if results.unfinished else []
    return f"{'; '.join(counts)}." if counts else "A ledger of claims."


def _findings(parts: Sequence[Part]) -> list[str]:
    """Sentences of all parts, every part's first ones before further ones."""
    most = max((len(part.findings) for part in parts), default=0)
    ranked = [
        (place, order, sentence)
        for order, part in enumerate(parts)
        for place, sentence in enumerate(part.findings)
        if place < most
    ]
    # The ledger's sentences come first, and all of them.
    chosen = sorted(ranked, key=lambda one: (one[1] > 0 and one[0], one[1]))[:MOST_FINDINGS]
    return [sentence for _, _, sentence in sorted(chosen, key=lambda one: (one[1], one[0]))]
