"""Checkpoints of a run: whole or not there, this run's or refused, and no more of them than needed.

A checkpoint is a Hugging Face folder (weights, configuration, tokenizer) in which training keeps,
beside them, `training_state/` and `training_state.json`. The latter is written last; it names the
run, and the size of every file, so that one which was cut short or comes from elsewhere is noticed.
Older checkpoints lose both: they are what a trajectory needs, and cannot be trained on from.

Example:
    >>> checkpoint_name(160)
    'step-000160'
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.runs.durable_files import sync_folder, sync_tree, write_whole

STATE_FILE = "training_state.json"
STATE_FOLDER = "training_state"
FORMAT = 1


@dataclass(frozen=True)
class CheckpointFound:
    """A whole checkpoint of this run, with the state that training goes on from."""

    path: Path
    step: int
    records_bytes: int
    """Length of the records when it was made."""
    state: Mapping[str, Any]
    """What training has put beside the weights, as JSON."""


def checkpoint_name(step: int) -> str:
    """What the folder of a checkpoint is called."""
    return f"step-{step:06d}"


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """The folders of all checkpoints, by step."""
    found = [path for path in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=_step_of)


def seal(
    partial: Path, final: Path, *, run: str, records_bytes: int, planned: bool, state: Any
) -> None:
    """Complete a checkpoint that was written under a temporary name, and give it its own.

    Args:
        partial: the folder it was written to.
        final: what it is to be called; must be beside it.
        run: what tells this run from others.
        records_bytes: length of the records.
        planned: whether it stays when a newer one is there.
        state: of training, as JSON takes it.
    """
    header = {
        "format": FORMAT,
        "run": run,
        "step": _step_of(final),
        "records_bytes": records_bytes,
        "planned": planned,
        "files": _sizes(partial),
        "state": state,
    }
    write_whole(partial / STATE_FILE, json.dumps(header, indent=1) + "\n")
    sync_tree(partial)
    partial.rename(final)
    sync_folder(final.parent)


def read_checkpoint(folder: Path, *, run: str | None = None) -> CheckpointFound:
    """A checkpoint to go on from.

    Args:
        folder: of the checkpoint.
        run: what tells the run from others; None for whichever has written it.

    Raises:
        ValueError: it is not whole, or another run's.
    """
    path = folder / STATE_FILE
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        written_by, files = header["run"], header["files"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} has no readable {STATE_FILE} ({type(error).__name__}), so training cannot "
            "go on from it; restore it, or begin again in another directory"
        ) from error
    if header["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {header['format']}, and this version reads {FORMAT}; go on with "
            "the version that wrote it"
        )
    if run is not None and written_by != run:
        raise ValueError(
            f"{folder} comes from another run, with another configuration or other inputs; take "
            "it out of this directory"
        )
    _refuse_incomplete(folder, files)
    return CheckpointFound(folder, header["step"], header["records_bytes"], header["state"])


def prune(checkpoints: Path, keep_states: int) -> None:
    """Take away what newer checkpoints have made needless.

    The newest few keep their training state, the other planned ones their weights. What was not
    planned goes when there is something newer. Can be killed at any moment, and done again.

    Args:
        checkpoints: the folder of all checkpoints.
        keep_states: how many keep their training state; at least 1.
    """
    assert keep_states >= 1
    kept = 0
    for place, folder in enumerate(reversed(checkpoint_folders(checkpoints))):
        if place and not _is_planned(folder):
            _remove_folder(folder)
        elif kept >= keep_states:
            # Without its header it is no checkpoint to go on from, so that goes first.
            (folder / STATE_FILE).unlink(missing_ok=True)
            shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)
        else:
            kept += 1


def remove_partial(checkpoints: Path) -> None:
    """Remove what a killed process has left half-written, or half-removed."""
    for path in checkpoints.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _is_planned(folder: Path) -> bool:
    path = folder / STATE_FILE
    return not path.is_file() or bool(json.loads(path.read_text(encoding="utf-8"))["planned"])


def _remove_folder(folder: Path) -> None:
    """Rename it first: whoever looks must not take what is left of it for a checkpoint."""
    going = folder.with_name(f".{folder.name}.removed")
    folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def _refuse_incomplete(folder: Path, files: Mapping[str, int]) -> None:
    there = _sizes(folder)
    for name, size in files.items():
        if name not in there:
            raise ValueError(f"{folder} lacks {name}; restore it, or remove the folder")
        if there[name] != size:
            raise ValueError(
                f"{name} in {folder} has {there[name]} bytes, not the {size} that were written; "
                "restore it, or remove the folder"
            )


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    found.pop(STATE_FILE, None)
    return found


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
