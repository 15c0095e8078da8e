"""The page of any set of results: its head, the ledger, what was measured, and its provenance.

Verdicts are words and marks, so that they can be read without colours; tiles filter the claims.
What all runs of a kind share is said once; the table has what differs. Paths are shown without the
folders of the machine that runs were made on.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.arm_report import command_of, in_order
from analysis.claims.catalogue import CLAIMS
from analysis.claims.choices import Anchor, Unit, Verdict
from analysis.claims.judging import Finding
from analysis.claims.ledger import Ledger, shown_p, verdict_counts
from analysis.document import (
    Bullets,
    Cell,
    Code,
    Facts,
    Figure,
    Fold,
    Heading,
    Report,
    Settings,
    Template,
    figure,
    html,
)
from analysis.document import Part as Piece
from analysis.figures import REFERENCE_COLOUR, SERIES_COLOURS
from analysis.numbers import capital, shown_path, shown_value
from analysis.report.knowledge import encounters_part, resuscitation_part
from analysis.report.measured_models import pretraining_part, readable_part, updates_part
from analysis.report.memorization import memorization_part
from analysis.report.parts import Material, Part, dot_panels, table
from probes.cli import output_folder, progress
from probes.results import RESULT_FILE
from training.runs.directory import read_manifest

TITLE = "How language models acquire, store and forget facts"
MOST_FINDINGS = 8  # at the head of the page
MEASURED: Mapping[str, Callable[[Material], Part | None]] = {
    "pretraining": pretraining_part,
    "encounters": encounters_part,
    "resuscitation": resuscitation_part,
    "memorization": memorization_part,
    "updates": updates_part,
    "lenses and edits": readable_part,
}
"""What parts are made of measurements, in their order."""
_KINDS = {
    "pretraining_runs": ("pretraining", "Pretraining runs"),
    "ckl_runs": ("continual knowledge learning", "Runs of continual knowledge learning"),
    "remix_runs": ("continual memorization", "Runs of continual memorization"),
}
"""Kinds of runs, what a sentence calls them, and their headings."""


def write_page(material: Material, out: Path, *, command: str, title: str) -> None:
    """Write a page, and the tables behind its figures as CSV into a folder beside it."""
    report, tables = page_report(material, title, command)
    with output_folder(out.with_name(f"{out.stem}-tables")) as folder:
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
    out.write_text(html(report), encoding="utf-8")


def page_report(
    material: Material, title: str, command: str
) -> tuple[Report, dict[str, pd.DataFrame]]:
    """Everything that results say, and the tables behind the figures."""
    parts: list[Part] = []
    with progress("parts of the page", len(MEASURED)) as advance:
        for make in MEASURED.values():
            parts += filter(None, [make(material)])
            advance(1)
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
        for name, (what, _) in _KINDS.items()
        if (found := getattr(results, name))
    ]
    others = sum(len(getattr(results, name)) for name in _MEASURED)
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
            *([Bullets(list(map(capital, ledger.models)))] if ledger.models else []),
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
                        paper: [_claim_row(one, drawn) for one in findings]
                        for paper, findings in ledger.by_paper().items()
                    },
                },
            ),
            *_forest(ledger),
        ),
        tables={"ledger": ledger.table().drop(columns=["shown", "command", "figure"])},
        findings=tuple(_ledger_findings(ledger)),
    )


def _claim_row(one: Finding, drawn: Collection[Anchor]) -> dict[str, Any]:
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


def _ledger_findings(ledger: Ledger) -> Iterator[str]:
    counts = verdict_counts(ledger.claims)
    verdicts = [f"{counts[one]} {one}" for one in _COLOURS if one in counts]
    yield (
        f"Of {len(ledger.claims)} claims and questions, {ledger.tested} could be tested at the "
        f"scale {ledger.scale}{': ' if verdicts else ''}{', '.join(verdicts)}."
    )
    if ledger.models:
        yield f"{capital(ledger.models[0])}."
    for verdict in (Verdict.CONTRADICTED, Verdict.SUPPORTED):
        found = [one for one in ledger.claims if one.verdict is verdict]
        if found:
            surest = min(found, key=lambda one: one.deciding_p or 0.0)
            effect, _, ends = surest.shown.partition(" (")
            numbers = f"{effect}, {ends.removesuffix(')')}; p {shown_p(surest)}"
            yield f"{capital(verdict)} most clearly: {surest.statement} ({numbers})."


_HASHED = {"weights": "weights_sha256", "text": "corpus_sha256"}
_HASH = 12  # characters of a hash that are shown
_MEASURED = {
    "entropy_results": ("Entropies of single models", "entropy.json"),
    "lens_results": ("Lenses", "lens.json"),
    "edit_sweeps": ("Sweeps of edits", "edits.json"),
    "updates": ("Memory updates", "updates.json"),
    "entropy_sweeps": ("Entropies over pretraining", "sweep.json"),
}


def provenance_part(material: Material, command: str) -> Part:
    """The part, which every page has."""
    results = material.results
    pieces: list[Piece] = [Code(command)]
    for kind, (_, title) in _KINDS.items():
        pieces += _runs(title, getattr(results, kind))
    for kind, (title, name) in _MEASURED.items():
        pieces += _measured(title, getattr(results, kind), name)
    if material.ledger is not None:
        pieces += _ledger_provenance(material.ledger)
    if results.unfinished:
        names = sorted(shown_path(str(path)) for path in results.unfinished)
        pieces += ["Not over, and left out:", Bullets(names)]
    return Part(anchor=Anchor.PROVENANCE, heading="Provenance", pieces=tuple(pieces))


def _runs(title: str, folders: Sequence[Path]) -> Iterator[Piece]:
    if not folders:
        return
    manifests = {shown_path(str(path)): read_manifest(path) for path in folders}
    configurations = {name: one["configuration"] for name, one in manifests.items()}
    settings = pd.DataFrame.from_dict(configurations, orient="index", dtype=object)
    shown = settings.map(shown_value).where(settings.notna(), "")
    shown = shown.rename(columns=lambda name: name.replace("_", " "))
    apart = shown.nunique() > 1
    weights = [str(one["inputs"].get("start_sha256", ""))[:_HASH] for one in manifests.values()]
    yield Heading(f"{title}: {len(manifests)}")
    versions = [one["versions"].items() for one in manifests.values()]
    each = (", ".join(f"{name} {version}" for name, version in found) for found in versions)
    yield Facts({"versions": in_order(each)})
    yield from table(
        f"{title}: what differs",
        "Settings in which runs differ, and the first characters of the hash of the weights that "
        "they began from.",
        shown.loc[:, apart].assign(weights=weights),
    )
    yield Fold(f"{title}: what all share", [Facts(shown.loc[:, ~apart].iloc[0].to_dict())])
    yield Fold(f"{title}: commands", [Code("\n".join(map(command_of, manifests.values())))])


def _measured(title: str, paths: Sequence[Path], name: str) -> Iterator[Piece]:
    if not paths:
        return
    yield Heading(f"{title}: {len(paths)}")
    for path in paths:
        content = json.loads((path / name).read_text(encoding="utf-8"))
        short = {k: v for k, v in content.items() if not isinstance(v, list | dict)}
        known = _without_folders(content.get("provenance") or short)
        yield Fold(shown_path(str(path)), [Settings(known), *_checkpoints(path)])


def _checkpoints(sweep: Path) -> Iterable[Piece]:
    """The weights of the checkpoints of a sweep, of those that it says so of."""
    cells = {}
    for file in sorted(sweep.rglob(RESULT_FILE)):
        if file.parent != sweep:
            known = json.loads(file.read_text(encoding="utf-8")).get("provenance", {})
            hashes = {name: str(known.get(key) or "")[:_HASH] for name, key in _HASHED.items()}
            cells[str(file.parent.relative_to(sweep))] = hashes
    found = pd.DataFrame.from_dict(cells, orient="index")
    return table("Checkpoints", "Hashes of weights and texts.", found, is_open=True)


def _without_folders(value: Any) -> Any:
    """Plain values whose paths are cut to their last name."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return shown_path(value) if isinstance(value, str) else value


def _ledger_provenance(ledger: Ledger) -> Iterator[Piece]:
    yield Heading("Ledger")
    yield Code(ledger.command)
    if known := dict(ledger.provenance):
        yield Fold("What it was made from", [Settings(_without_folders(known))])
