"""Manifests of the training commands: what a run is, and which run a folder holds.

`configuration` and `inputs` decide the bits of a run: every setting, and hashes of the model, the
tokenizer and the texts. `execution` does not: a run may be gone on with on another device.

Example:
    >>> from pathlib import Path
    >>> refuse_taken(Path("runs/nothing-there"), resume=False)
"""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.commands.fields import NOT_DECISIVE
from training.commands.recipes import as_json
from training.runs.directory import DONE_FILE, MANIFEST_FILE, RunDirectory, read_manifest

_VERSIONS = ("mnemoscope", "torch", "transformers", "tokenizers")


def run_manifest(
    command: str, recipe: str, configuration: Any, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run is.

    Args:
        command: that made it.
        recipe: whose settings were the defaults.
        configuration: every setting.
        inputs: hashes and counts of what goes in.
    """
    fields = as_json(configuration)
    return {
        "command": command,
        "recipe": recipe,
        "configuration": {k: v for k, v in fields.items() if k not in NOT_DECISIVE},
        "inputs": dict(inputs),
        "execution": {name: fields[name] for name in NOT_DECISIVE},
        "versions": {name: version(name) for name in _VERSIONS},
    }


def opened_directory(folder: Path, manifest: Mapping[str, Any], *, resume: bool) -> RunDirectory:
    """The run's folder, begun or gone on with.

    Args:
        folder: where it is.
        manifest: what the run is.
        resume: whether to go on with what is there; begins where nothing is.

    Raises:
        ValueError: it holds another run, or something else, or cannot be written to.
    """
    if resume and (folder / MANIFEST_FILE).is_file():
        return RunDirectory.reopen(folder, manifest)
    return RunDirectory.create(folder, manifest)


def is_finished(folder: Path, configuration: Any, *, resume: bool) -> bool:
    """Whether there is nothing left to do of a run that is to be gone on with.

    Args:
        folder: of the run.
        configuration: what it should be.
        resume: whether it is to be gone on with.

    Raises:
        ValueError: the folder holds a finished run of another configuration.
    """
    if not resume or not (folder / DONE_FILE).is_file():
        return False
    stored = read_manifest(folder)
    asked = run_manifest(stored["command"], stored["recipe"], configuration, stored["inputs"])
    RunDirectory.reopen(folder, asked)
    return True


def refuse_taken(folder: Path, *, resume: bool) -> None:
    """Refuse a folder that holds a run already, before any work is done.

    Args:
        folder: where the run is to go.
        resume: whether to go on with what is there.

    Raises:
        ValueError: there is a run, and it was not to be gone on with.
    """
    if resume or not (folder / MANIFEST_FILE).is_file():
        return
    if (folder / DONE_FILE).is_file():
        raise ValueError(f"--out {folder} holds a finished run; give another folder")
    raise ValueError(f"--out {folder} holds a run; go on with --resume, or give another folder")


def tokenizer_hash(tokenizer: Any) -> str | None:
    """SHA-256 of a fast tokenizer's definition; None where there is no tokenizer."""
    if tokenizer is None:
        return None
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
