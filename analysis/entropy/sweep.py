"""A sweep: the same measurement on every checkpoint of a run, resumable checkpoint by checkpoint.

The next checkpoint loads while one is measured, and a corpus is tokenised once for all that share a
tokenizer. Each finished checkpoint is a folder of results that appears at once; a sweep that was
stopped, at whatever moment, repeats none of them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.checkpoints import Checkpoint
from probes.output_folder import output_folder
from probes.result_files import RESULT_FILE, load_result
from probes.results import EntropyResult

MANIFEST = "sweep.json"


@dataclass(frozen=True)
class Measured:
    """What one checkpoint gave, over every corpus."""

    checkpoint: Checkpoint
    results: list[EntropyResult]


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Start a sweep in a folder, or go on with the one that is there.

    Args:
        out: the folder.
        settings: everything that a result depends on, except for the checkpoint.

    Raises:
        ValueError: the folder holds a sweep with other settings, or something else.
    """
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
    partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    partial.rename(manifest)


def sweep(
    todo: Sequence[Checkpoint],
    folders: Sequence[str],
    out: Path,
    load: Callable[[Checkpoint], Any],
    measure: Callable[[Checkpoint, Any], list[EntropyResult]],
    *,
    writes: bool = True,
) -> list[Measured]:
    """Measure every checkpoint that has no results yet.

    Args:
        todo: the checkpoints, in order.
        folders: where the result of each corpus goes inside a checkpoint's folder.
        out: the folder of the sweep, one folder per checkpoint.
        load: makes the model of a checkpoint.
        measure: one result per corpus.
        writes: whether this process writes results.

    Returns:
        All of them, measured now or before, in order.
    """
    waiting = [c for c in todo if not _is_done(out / c.slug, folders)]
    fresh: dict[Checkpoint, list[EntropyResult]] = {}
    for checkpoint, model in _loaded_ahead(waiting, load):
        fresh[checkpoint] = measure(checkpoint, model)
        if writes:
            with output_folder(out / checkpoint.slug) as partial:
                for result, name in zip(fresh[checkpoint], folders, strict=True):
                    result.save(partial / name)
    return [
        Measured(c, fresh[c] if c in fresh else [load_result(out / c.slug / f) for f in folders])
        for c in todo
    ]


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
