"""Checkpoints of edited models: an ordinary Hugging Face folder, and what was done to it.

Plain transformers loads it with no code of ours. `edits.json` beside the weights holds the edits
with every setting, the model that they were made to (with hashes of its weights before and after),
what became of each tensor, and library versions. Edits that `patch_weights` has written already are
saved as they are; the others are written for the length of the saving.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from interventions.edit_forms import Edit, some_edits
from interventions.edits import patch_weights, patched_edits
from probes.checking import hooked_model, takes
from probes.cli import output_folder
from probes.hooked_model import HookedModel
from probes.model_folder import ordinary_weights, sha256_of, write_model
from probes.refusals import path as a_path
from probes.shown import finite_or_none, json_text

EDITS_FILE = "edits.json"
FORMAT = 1
_VERSIONS = ("mnemoscope", "torch", "transformers", "safetensors")


@takes(model=hooked_model, directory=a_path, edits=some_edits)
def save_patched(
    model: HookedModel,
    directory: str | Path,
    edits: Sequence[Edit] = (),
    *,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    measured: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model with edits in its weights, as plain transformers loads it.

    Args:
        model: the model; it is the same afterwards, also after an error.
        directory: where to; appears all at once when everything is written.
        edits: what to do to it, in order. Edits that are in the weights already are in the
            checkpoint too, named here or not; one that is named here is not made twice.
        max_shard_size: how large a weights file may be: bytes, or a string such as `"5GB"`.
        overwrite: whether an earlier patched checkpoint there may be replaced.
        measured: what was measured of the edits, to be kept in `edits.json`; JSON takes it.

    Returns:
        The directory.

    Raises:
        ValueError: nothing was edited, the directory is not free, the model cannot be saved, or an
            edit is refused by `patch_weights`.
    """
    target = Path(directory)
    refuse_directory(target, overwrite=overwrite)
    refuse_shard_size(max_shard_size)
    earlier = patched_edits(model)
    made = _not_made(edits, earlier)
    if not earlier and not made:
        raise ValueError(
            "there are no edits to save; name some, or use hf_model.save_pretrained for the model "
            "as it is"
        )
    before = None if earlier else model.content_hash()
    report = patch_weights(model, *made) if made else None
    try:
        weights = ordinary_weights(model.hf_model)
        record = {
            "format": FORMAT,
            "model": {
                "name": model.name,
                "revision": model.revision,
                "architecture": model.architecture.family,
                "dtype": str(model.dtype).removeprefix("torch."),
                "weights_sha256_before": before,
                "weights_sha256_after": sha256_of(weights),
            },
            "edits": [edit.describe() for edit in (*earlier, *made)],
            # JSON has no infinity: the change of a norm that was zero.
            "changes": [finite_or_none(asdict(c)) for c in (report.changes if report else ())],
            "measured": None if measured is None else dict(measured),
            "earlier": _record_of_source(model, before),
            "versions": {name: version(name) for name in _VERSIONS},
        }
        with output_folder(target) as folder:
            hf_model, tokenizer = model.hf_model, model.tokenizer
            write_model(hf_model, tokenizer, folder, weights=weights, max_shard_size=max_shard_size)
            record["files"] = sorted([*(path.name for path in folder.iterdir()), EDITS_FILE])
            path = folder / EDITS_FILE
            path.write_text(json_text(record, f"{path}", indent=2) + "\n", encoding="utf-8")
    finally:
        if report is not None:
            report.undo()
    return target


def load_edits(directory: str | Path) -> dict[str, Any]:
    """What was done to a checkpoint that `save_patched` has written.

    Args:
        directory: the checkpoint.

    Returns:
        The content of its `edits.json`.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    path = Path(directory) / EDITS_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found = record["format"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{directory} has no readable {EDITS_FILE} ({type(error).__name__}: {error}); give a "
            "folder that save_patched has written"
        ) from error
    if found != FORMAT:
        raise ValueError(
            f"{path} has format {found}, and this version reads {FORMAT}; use the version that "
            "wrote it"
        )
    return record


def refuse_directory(directory: Path, *, overwrite: bool) -> None:
    """Make sure that a checkpoint may be written somewhere, before any work is done."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file; give a folder, which need not exist")
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"{directory} is not empty; give another folder, or allow overwriting")
    ours = set(load_edits(directory)["files"]) if (directory / EDITS_FILE).is_file() else set()
    # Replacing deletes: whatever is not of a patched checkpoint is not ours to delete.
    foreign = next((path for path in sorted(directory.iterdir()) if path.name not in ours), None)
    if foreign is not None:
        raise ValueError(
            f"overwriting replaces patched checkpoints only, but {directory} also holds "
            f"{foreign.name}; give another folder"
        )


def refuse_shard_size(size: int | str) -> None:
    """Make sure that a size is one that transformers reads."""
    if isinstance(size, str):
        is_size = re.fullmatch(r"[1-9]\d*(\.\d+)? ?[KMGT]B", size) is not None
    else:
        is_size = size > 0
    if not is_size:
        raise ValueError(
            f"max_shard_size must be a number of bytes or a string such as '5GB', found {size!r}"
        )


def _not_made(edits: Sequence[Edit], earlier: Sequence[Edit]) -> list[Edit]:
    """The edits that are not in the weights; equal ones count as often as they are there."""
    there = [edit.describe() for edit in earlier]
    left = []
    for edit in edits:
        if (described := edit.describe()) in there:
            there.remove(described)
        else:
            left.append(edit)
    return left


def _record_of_source(model: HookedModel, before: str | None) -> dict[str, Any] | None:
    """What was done to the model before, if it was loaded from a patched checkpoint."""
    if not (Path(model.name) / EDITS_FILE).is_file():
        return None
    record = load_edits(model.name)
    return record if record["model"]["weights_sha256_after"] == before else None
