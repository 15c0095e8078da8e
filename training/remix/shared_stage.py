"""Stage A of another run, to go on from: `--from-stage-a`.

Runs that differ after stage A need it once. It must be the same as this run's own would be: every
setting that decides what stage A trains, and the start. What is looked at may differ.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from training.commands.fields import NOT_DECISIVE
from training.commands.recipes import as_json, from_json
from training.remix.config import RemixConfig
from training.remix.fields import ObservationFields
from training.runs.directory import read_manifest
from training.stages import OUTCOME_FILE, read_outcome, stage_folder

FIRST = "A"
_MAY_DIFFER = {
    *(field.name for field in fields(ObservationFields)),
    *NOT_DECISIVE,
    *("from_stage_a", "require_reached", "familiarity_cache"),
}


def shared_stage(config: RemixConfig, start_hash: str) -> tuple[Path, dict[str, Any]]:
    """Where stage A of the other run is, and what identifies it, for the manifest.

    Args:
        config: this run.
        start_hash: content hash of its start.

    Raises:
        ValueError: the folder holds no finished stage A, or another one.
    """
    assert config.from_stage_a is not None
    folder = _stage_folder(config.from_stage_a)
    outcome, manifest = read_outcome(folder), read_manifest(folder)
    if outcome.name != FIRST:
        raise ValueError(f"{folder} holds stage {outcome.name}; give a run, or its stage A")
    stored = {**manifest["configuration"], **manifest["execution"]}
    theirs, ours = _decisive(from_json(RemixConfig, stored)), _decisive(config)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"{folder} is of a run with another {name}: {theirs[name]} there, {value} here; "
                "give a run whose stage A is the same"
            )
    if manifest["inputs"]["start_sha256"] != start_hash:
        raise ValueError(
            f"{folder} began with other weights than {config.model} has; give a run from this model"
        )
    return folder, {
        "run": str(config.from_stage_a),
        "checkpoint": outcome.checkpoint.name,
        "inputs": manifest["inputs"],
    }


def _stage_folder(given: Path) -> Path:
    """A stage's folder may be given, or that of its run."""
    return given if (given / OUTCOME_FILE).is_file() else stage_folder(given, FIRST)


def _decisive(config: RemixConfig) -> dict[str, Any]:
    """What decides the weights that stage A ends with."""
    plain = as_json(config.stage_a())
    return {name: value for name, value in plain.items() if name not in _MAY_DIFFER}
