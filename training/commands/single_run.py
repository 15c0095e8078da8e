"""One run of a training command that has no stages: prepared, made or tried, and shown.

Everything is prepared again when a run goes on, from the same seeds; the manifest holds hashes of
it all. What an edited model scored before it was edited is kept in `baseline.jsonl`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probes.hooked_model import HookedModel
from training.batches import BatchSource
from training.commands.edit_settings import RunEdits, write_baseline
from training.commands.observers import ObserverSet
from training.loop import TrainingResult, train
from training.processes import joined_processes
from training.runs.directory import (
    RunDirectory,
    is_finished,
    opened_directory,
    refuse_taken,
    run_manifest,
)
from training.settings import LoopSettings
from training.trial import tried


@dataclass(frozen=True, kw_only=True)
class PreparedRun:
    """Everything that a run begins with.

    Attributes:
        model: the model, not edited yet.
        source: its batches.
        settings: of the loop.
        observed: what is evaluated.
        inputs: hashes and counts of all of it, for the manifest.
        sentences: what is about to be trained.
        edits: what is done to the model.
    """

    model: HookedModel
    source: BatchSource
    settings: LoopSettings
    observed: ObserverSet
    inputs: dict[str, Any]
    sentences: Sequence[str]
    edits: RunEdits = field(default_factory=RunEdits)

    def train(
        self, directory: RunDirectory, *, resume: bool, seconds: float | None
    ) -> TrainingResult:
        """Edit the model and train it."""
        observers = self.observed.observers
        if self.edits.all:
            write_baseline(self.model, observers, directory)
        self.edits.write(self.model)
        return train(
            self.model,
            self.source,
            self.settings,
            directory,
            edits=self.edits.hooks,
            observers=observers,
            optimizer_edits=self.edits.optimizer,
            resume=resume,
            time_limit=seconds,
        )


def make_run(
    program: str,
    prepare: Callable[[Any], PreparedRun],
    show: Callable[[Path, Any], None],
    config: Any,
    out: Path,
    *,
    recipe: str,
    resume: bool = False,
    seconds: float | None = None,
) -> None:
    """Make a run, or go on with it, and show what came of it."""
    with joined_processes() as here:
        if here.is_first:
            refuse_taken(out, resume=resume)
        # Other settings are refused at once; all else is prepared again, and compared.
        is_finished(out, config, resume=resume)
        prepared = prepare(config)
        manifest = run_manifest(program, recipe, config, prepared.inputs)
        directory = opened_directory(out, manifest, resume=resume)
        result = None
        if not directory.is_done:
            if here.is_first:
                print("\n".join(prepared.sentences))
            result = prepared.train(directory, resume=resume, seconds=seconds)
        if here.is_first:
            show(out, config)
            _print_end(result, prepared.settings.steps)
            print(f"run: {out}")


def _print_end(result: TrainingResult | None, steps: int) -> None:
    if result is None:
        print("this run was over already; nothing was done")
    elif not result.finished:
        print(f"stopped after {result.steps_done:,} of {steps:,} steps; go on with --resume")


def try_run(prepare: Callable[[Any], PreparedRun], config: Any, out: Path | None) -> None:
    """Try all that a run needs, up to a checkpoint, without training."""
    with joined_processes():
        prepared = prepare(config)
        prepared.edits.write(prepared.model)
        tried(
            prepared.model,
            prepared.source,
            prepared.settings,
            out,
            edits=prepared.edits.hooks,
            optimizer_edits=prepared.edits.optimizer,
            observers=prepared.observed.observers,
        )
