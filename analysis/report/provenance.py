"""Provenance: which runs and results the page is made from, their settings, weights and versions.

What all runs of a kind share is said once; the table has what differs. Paths are shown without the
folders of the machine that runs were made on.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.arm_report import command_of, in_order
from analysis.claims.choices import Anchor
from analysis.document import Bullets, Code, Facts, Fold, Heading, Settings
from analysis.document import Part as Piece
from analysis.numbers import shown_path, shown_value
from analysis.report.material import Material
from analysis.report.parts import Part, text_table
from probes.results import RESULT_FILE
from training.runs.directory import read_manifest

_HASHED = ("weights_sha256", "corpus_sha256")
_HASH = 12
"""Characters of a hash that are shown."""
_KINDS = {
    "pretraining_runs": "Pretraining runs",
    "ckl_runs": "Runs of continual knowledge learning",
    "remix_runs": "Runs of continual memorization",
}
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
    for kind, title in _KINDS.items():
        pieces += _runs(title, getattr(results, kind))
    for kind, (title, name) in _MEASURED.items():
        pieces += _measured(title, getattr(results, kind), name)
    if material.ledger is not None:
        pieces += _ledger(material.ledger.command, material.ledger.provenance)
    if results.unfinished:
        names = sorted(shown_path(str(path)) for path in results.unfinished)
        pieces += ["Not over, and left out:", Bullets(names)]
    return Part(anchor=Anchor.PROVENANCE, heading="Provenance", pieces=tuple(pieces))


def differing(configurations: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What configurations share, and the names of settings in which some differ."""
    names = list(dict.fromkeys(name for one in configurations for name in one))
    apart = [
        name
        for name in names
        if any(one.get(name) != configurations[0].get(name) for one in configurations)
    ]
    return {n: configurations[0].get(n) for n in names if n not in apart}, apart


def _runs(title: str, folders: Sequence[Path]) -> Iterator[Piece]:
    if not folders:
        return
    manifests = {shown_path(str(path)): read_manifest(path) for path in folders}
    shared, apart = differing([one["configuration"] for one in manifests.values()])
    rows = [
        [
            name,
            *(_setting(one["configuration"].get(setting)) for setting in apart),
            str(one["inputs"].get("start_sha256", ""))[:_HASH],
        ]
        for name, one in manifests.items()
    ]
    yield Heading(f"{title}: {len(manifests)}")
    yield Facts({"versions": in_order(map(_versions, manifests.values()))})
    yield from text_table(
        f"{title}: what differs",
        "Settings in which runs differ, and the first characters of the hash of the weights that "
        "they began from.",
        ["", *(name.replace("_", " ") for name in apart), "weights"],
        rows,
    )
    yield Fold(
        f"{title}: what all share",
        [Facts({name.replace("_", " "): _setting(value) for name, value in shared.items()})],
    )
    lines = "\n".join(map(command_of, manifests.values()))
    yield Fold(f"{title}: commands", [Code(lines)])


def _versions(manifest: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())


def _setting(value: Any) -> str:
    return "" if value is None else shown_value(value)


def _measured(title: str, paths: Sequence[Path], name: str) -> Iterator[Piece]:
    if not paths:
        return
    yield Heading(f"{title}: {len(paths)}")
    for path in paths:
        file = path / name if path.is_dir() else path
        content = json.loads(file.read_text(encoding="utf-8"))
        told = content.get("provenance") or {k: v for k, v in content.items() if _is_short(v)}
        shown = shown_path(str(path if path.is_dir() else path.parent))
        yield Fold(shown, [Settings(_without_folders(told)), *_checkpoints(path)])


def _checkpoints(sweep: Path) -> Iterable[Piece]:
    """The weights of the checkpoints of a sweep, of those that it says so of."""
    rows = []
    for file in sorted(sweep.rglob(RESULT_FILE)) if sweep.is_dir() else ():
        if file.parent != sweep:
            told = json.loads(file.read_text(encoding="utf-8")).get("provenance", {})
            name = str(file.parent.relative_to(sweep))
            rows.append([name, *(str(told.get(key) or "")[:_HASH] for key in _HASHED)])
    return text_table(
        "Checkpoints", "Hashes of weights and texts.", ["", "weights", "text"], rows, is_open=True
    )


def _is_short(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _without_folders(value: Any) -> Any:
    """Plain values whose paths are cut to their last name."""
    if isinstance(value, dict):
        return {name: _without_folders(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_folders(inner) for inner in value]
    return shown_path(value) if isinstance(value, str) else value


def _ledger(command: str, provenance: Mapping[str, Any]) -> Iterator[Piece]:
    yield Heading("Ledger")
    yield Code(command)
    if provenance:
        yield Fold("What it was made from", [Settings(_without_folders(dict(provenance)))])
