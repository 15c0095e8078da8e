"""Run reading: what a training run has recorded, as tables.

Every kind of observation becomes one table with a `step`, the number of updates done; those of
single items are in the layouts of `analysis.item_tables`, so that `analysis.acquisition`,
`analysis.forgetting` and `analysis.knowledge_scores` take them as they are. Losses, entropies and
log-probabilities are in nats.

Example:
    >>> run = read_run("runs/ckl")                                           # doctest: +SKIP
    >>> start, end = (run.probe_scores.at(step) for step in (0, run.last_step))  # doctest: +SKIP
    >>> met = start["exposure"] != "held_out"                                # doctest: +SKIP
    >>> analysis.acquisition(start[met], end[met]).value                     # doctest: +SKIP
    0.251
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.run_observations import (
    Observations,
    observations_of,
    record_table,
    records_of_kind,
)
from training.runs.directory import DONE_FILE, MANIFEST_FILE, read_manifest
from training.runs.records import (
    BASELINE_FILE,
    InjectionRecord,
    StepRecord,
    StopRecord,
    from_line,
    read_records,
)

_STEPS = ("step", "loss", "learning_rate", "gradient_norm", "trained_tokens")


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Observations):
    """A run directory, read."""

    path: Path
    manifest: Mapping[str, Any]
    steps: pd.DataFrame
    """Every update: `step`, `loss`, `learning_rate`, `gradient_norm`, `trained_tokens`."""
    injections: pd.DataFrame
    """Every encounter: `step`, the updates before it, and `passage`."""
    unedited: Observations | None
    """What the start scored before it was edited; None where it was not."""
    stopped: str | None
    """Why it ended before its last step; None where it did not."""
    summary: Mapping[str, Any] | None
    """How it ended; None where it has not."""

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.resolve().name

    @property
    def configuration(self) -> Mapping[str, Any]:
        """Every setting."""
        return self.manifest["configuration"]

    @property
    def last_step(self) -> int:
        """Updates done."""
        return int(self.steps["step"].max()) if len(self.steps) else 0

    def require_finished(self) -> None:
        """Refuse a run that is not over.

        Raises:
            ValueError: it is not.
        """
        if self.summary is None:
            wanted = self.configuration.get("steps")
            of = f" of {wanted}" if wanted else ""
            raise ValueError(
                f"the run {self.path} is not over, found {self.last_step}{of} steps; go on with "
                "it, with --resume"
            )


def read_run(directory: str | Path) -> TrainingRun:
    """Read a run directory; the run need not be over.

    Args:
        directory: what a training command wrote.

    Raises:
        ValueError: it holds no run, no records yet, or records that do not go together.
    """
    path = Path(directory).expanduser()
    if not (path / MANIFEST_FILE).is_file():
        raise ValueError(
            f"{directory} holds no run, found no {MANIFEST_FILE}; give the --out folder of a "
            "training command"
        )
    records = list(read_records(path))
    if not records:
        raise ValueError(f"the run {directory} has no records yet; let it train first")
    done = path / DONE_FILE
    return TrainingRun(
        path=path,
        manifest=read_manifest(path),
        steps=record_table(records, StepRecord, _STEPS),
        injections=pd.DataFrame(
            [(r.step, p) for r in records_of_kind(records, InjectionRecord) for p in r.passages],
            columns=["step", "passage"],
        ),
        unedited=_baseline(path),
        stopped=next((record.reason for record in records_of_kind(records, StopRecord)), None),
        summary=json.loads(done.read_text(encoding="utf-8")) if done.is_file() else None,
        **observations_of(path, records),
    )


def _baseline(path: Path) -> Observations | None:
    file = path / BASELINE_FILE
    if not file.is_file():
        return None
    lines = file.read_text(encoding="utf-8").splitlines()
    return Observations(**observations_of(path, [from_line(line) for line in lines]))
