"""Provenance: which runs and results the page is made from, their settings, weights and versions.

What all runs of a kind share is said once; the table has what differs. Paths are shown without the
folders of the machine that runs were made on.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.arm_report import command_of, in_order
from analysis.claims.choices import Anchor
from analysis.document import Bullets, Code, Facts, Fold, Heading, Settings
from analysis.document import Part as Piece
from analysis.numbers import shown_path, shown_value
from analysis.report.material import Material
from analysis.report.parts import Part, table
from probes.results import RESULT_FILE
from training.runs.directory import read_manifest

_HASHED = {"weights": "weights_sha256", "text": "corpus_sha256"}
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
    yield Facts({"versions": in_order(map(_versions, manifests.values()))})
    yield from table(
        f"{title}: what differs",
        "Settings in which runs differ, and the first characters of the hash of the weights that "
        "they began from.",
        shown.loc[:, apart].assign(weights=weights),
    )
    yield Fold(f"{title}: what all share", [Facts(shown.loc[:, ~apart].iloc[0].to_dict())])
    yield Fold(f"{title}: commands", [Code("\n".join(map(command_of, manifests.values())))])


def _versions(manifest: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())


def _measured(title: str, paths: Sequence[Path], name: str) -> Iterator[Piece]:
    if not paths:
        return
    yield Heading(f"{title}: {len(paths)}")
    for path in paths:
        file = path / name if path.is_dir() else path
        content = json.loads(file.read_text(encoding="utf-8"))
        short = {k: v for k, v in content.items() if not isinstance(v, list | dict)}
        known = _without_folders(content.get("provenance") or short)
        shown = shown_path(str(path if path.is_dir() else path.parent))
        yield Fold(shown, [Settings(known), *_checkpoints(path)])


def _checkpoints(sweep: Path) -> Iterable[Piece]:
    """The weights of the checkpoints of a sweep, of those that it says so of."""
    cells = {}
    for file in sorted(sweep.rglob(RESULT_FILE)) if sweep.is_dir() else ():
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


def _ledger(command: str, provenance: Mapping[str, Any]) -> Iterator[Piece]:
    yield Heading("Ledger")
    yield Code(command)
    if provenance:
        yield Fold("What it was made from", [Settings(_without_folders(dict(provenance)))])
