"""A sweep: the same measurement on every checkpoint of a run, resumable checkpoint by checkpoint.

The next checkpoint loads while one is measured, and a corpus is tokenised once for all that share a
tokenizer. Each finished checkpoint is a folder of results that appears at once; a sweep that was
stopped, at whatever moment, repeats none of them. They are loaded all the same, before anything is
measured, since a result is finished only if its weights and texts are those of now.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.checkpoints import Checkpoint
from analysis.origin import origin_in, refuse_another
from probes.cli import output_folder
from probes.json_text import json_text
from probes.results import RESULT_FILE, EntropyResult, load_result

MANIFEST = "sweep.json"
Origin = Mapping[str, str | None]
"""What a result belongs to (`analysis.origin`)."""


@dataclass(frozen=True)
class Measured:
    """What one checkpoint gave, over every corpus."""

    checkpoint: Checkpoint
    results: list[EntropyResult]


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Start a sweep in a folder, or go on with the one that is there."""
    manifest = out / MANIFEST
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
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} exists and holds no sweep; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    partial = out / f"{MANIFEST}.partial"
    partial.write_text(json_text(settings, f"{manifest}", indent=2) + "\n", encoding="utf-8")
    partial.rename(manifest)


def sweep(
    todo: Sequence[Checkpoint],
    folders: Sequence[str],
    out: Path,
    load: Callable[[Checkpoint], Any],
    measure: Callable[[Checkpoint, Any], list[EntropyResult]],
    origins: Callable[[Any], Sequence[Origin]],
    *,
    writes: bool = True,
) -> list[Measured]:
    """Measure every checkpoint that has no results yet."""
    done = [c for c in todo if _is_done(out / c.slug, folders)]
    waiting = [c for c in todo if c not in done]
    found: dict[Checkpoint, list[EntropyResult]] = {}
    for checkpoint, model in _loaded_ahead([*done, *waiting], load):
        folder = out / checkpoint.slug
        if checkpoint in done:
            places = [folder / name for name in folders]
            found[checkpoint] = list(map(_unchanged, places, origins(model)))
            continue
        found[checkpoint] = measure(checkpoint, model)
        if writes:
            with output_folder(folder) as partial:
                for result, name in zip(found[checkpoint], folders, strict=True):
                    result.save(partial / name)
    return [Measured(checkpoint, found[checkpoint]) for checkpoint in todo]


def _unchanged(folder: Path, origin: Origin) -> EntropyResult:
    """A finished result, refused if it belongs to something else."""
    kept = load_result(folder)
    refuse_another(folder, origin_in(kept.provenance), origin)
    return kept


def _is_done(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / name / RESULT_FILE).is_file() for name in names)


def _loaded_ahead(
    todo: Sequence[Checkpoint], load: Callable[[Checkpoint], Any]
) -> Iterator[tuple[Checkpoint, Any]]:
    """Each checkpoint with its model; the next one loads while the caller uses this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(load, todo[0]) if todo else None
        for place, checkpoint in enumerate(todo):
            assert coming is not None
            model = coming.result()
            following = todo[place + 1 : place + 2]
            coming = pool.submit(load, following[0]) if following else None
            yield checkpoint, model
            # Not before the caller is done with it: two models at a time, never three.
            del model
