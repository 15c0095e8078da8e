"""Will a run come to its end? What it needs there is tried before its first step.

Of a run that is ready, its first batch is looked at, its stop rule is asked whether the batches and
observers of the run can ever fulfil it, and a checkpoint is written where the run's are, read back,
compared and taken away. Everything that does not fit is told at once.

`tried` does the same for a run that is not made, in a folder that is taken away again.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from interventions.edit_forms import Edit
from interventions.learning_rates import RowLearningRates
from probes.hooked_model import HookedModel
from training.batches import BatchSource, NamedSources
from training.misfits import Misfits
from training.observers import ItemsObserver, Observer, StopRule
from training.run_setup import Run, fitting_batch, made_ready, refuse_unfit
from training.runs.directory import RunDirectory
from training.settings import LoopSettings
from training.stop_rules import Waits


def try_end(
    run: Run,
    model: HookedModel,
    source: BatchSource,
    settings: LoopSettings,
    directory: RunDirectory,
    observers: Sequence[Observer],
    stop: StopRule | None,
) -> None:
    """Try what a run needs at its end."""
    misfits = Misfits()
    with misfits.noted():
        fitting_batch(source, 0, model, settings)
    with misfits.noted():
        refuse_unreachable(stop, source, settings.steps, observers)
    with misfits.noted():
        run.state.try_in(directory.checkpoints)
    misfits.refuse()


def tried(
    model: HookedModel,
    source: BatchSource,
    settings: LoopSettings,
    out: Path | None,
    *,
    edits: Sequence[Edit] = (),
    optimizer_edits: Sequence[RowLearningRates] = (),
    observers: Sequence[Observer] = (),
    stop: StopRule | None = None,
) -> None:
    """Try a run without making it; the model is made ready for training, and keeps its weights."""
    refuse_unfit(source, settings, optimizer_edits)
    manifest = {"configuration": asdict(settings), "inputs": {}}
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=existing_folder(out)) as folder:
        directory = RunDirectory.create(Path(folder) / "run", manifest)
        with made_ready(model, settings, directory, edits, optimizer_edits, stop, False) as run:
            try_end(run, model, source, settings, directory, observers, stop)


def refuse_unreachable(
    stop: object, source: BatchSource, steps: int, observers: Sequence[Observer]
) -> None:
    """Make sure that a rule can be fulfilled by what the run records."""
    if not isinstance(stop, Waits):
        return
    looks: dict[str, int] = {}
    for observer in observers:
        if isinstance(observer, ItemsObserver):
            times = sum(1 for step in range(steps + 1) if observer.due(step))
            looks |= {name: max(times, looks.get(name, 0)) for name in observer.items()}
    names = source.source_names if isinstance(source, NamedSources) else ()
    if (why := stop.unreachable(steps, names, looks)) is not None:
        raise ValueError(why)


def existing_folder(out: Path | None) -> Path | None:
    """The nearest folder above a path that is there: the same file system; None for None."""
    if out is None:
        return None
    return next(folder for folder in out.absolute().parents if folder.is_dir())
