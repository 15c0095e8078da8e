"""The folder of a sweep that goes on where it stopped, and what the results in it belong to.

A folder binds whoever goes on in it to its settings, and every result that is kept to the weights,
texts and versions that it was measured with.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from analysis.checkpoints import MANIFEST
from probes.cli import refuse_existing
from probes.hooked_model import HookedModel
from probes.results import Provenance, provenance_of
from probes.shown import json_text

_SHOWN = 12
"""Digits of a hash in a message."""

Origin: TypeAlias = Mapping[str, str | None]
"""What a result belongs to: hashes of weights and texts, type, device and versions."""


def plain_settings(arguments: Any, without: Collection[str]) -> dict[str, Any]:
    """The arguments of a command that its results depend on, as JSON has them."""
    kept = {name: value for name, value in asdict(arguments).items() if name not in without}
    return json.loads(json.dumps(kept, default=str))


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Start a sweep in a folder, or go on with the one that is there."""
    manifest = out / MANIFEST
    refuse_foreign(out)
    if manifest.is_file():
        before = json.loads(manifest.read_text(encoding="utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        # A sweep that failed before its first result binds nobody to its settings.
        if changed and any(path.is_dir() for path in out.glob("[!.]*")):
            name = changed[0]
            raise ValueError(
                f"--out {out} holds a sweep with {name} {before.get(name)!r}, not "
                f"{settings[name]!r}; give another folder, or the same settings to go on"
            )
        if not changed:
            return
    out.mkdir(parents=True, exist_ok=True)
    write_whole(manifest, settings)


def refuse_foreign(out: Path) -> None:
    """Refuse a folder that no sweep can be written to, or that holds something else."""
    if (out / MANIFEST).is_file():
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and holds no sweep; give another folder")
    refuse_existing(out, overwrite=False, known=())


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json_text(content, f"{path}", indent=2) + "\n", encoding="utf-8")
    partial.rename(path)


def origin_of(model: HookedModel, **texts: str | None) -> dict[str, str | None]:
    """What a result that is measured now would belong to."""
    return _origin(provenance_of(model, {}, documents=0, rows=0, tokens=0), texts)


def origin_in(kept: Provenance) -> dict[str, str | None]:
    """What a kept result belongs to that was measured on one corpus."""
    return _origin(kept, {"corpus": kept.corpus_sha256})


def _origin(known: Provenance, texts: Origin) -> dict[str, str | None]:
    hardware = {"weights": known.weights_sha256, "dtype": known.dtype, "device": known.device}
    return {**hardware, **texts, **known.versions}


def refuse_another(path: Path, before: Origin, now: Origin) -> None:
    """Refuse a kept result that belongs to something else."""
    for name in {**now, **before}:
        if (then := before.get(name)) != (today := now.get(name)):
            raise ValueError(
                f"{path} was measured with {name.replace('_', ' ')} {str(then)[:_SHOWN]}, now it "
                f"is {str(today)[:_SHOWN]}; give another --out, or remove it to measure again"
            )
