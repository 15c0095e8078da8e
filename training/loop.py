"""The training loop: the only one there is, to be read from top to bottom.

Between two updates the model is observed, and a checkpoint is written where one is due; then comes
one update:

    batch       the global batch of the step, a pure function of its number; each process takes a
                block of its rows
    loss        cross-entropy, summed in float32 over all trained tokens of the global batch and
                divided by their number: cutting it into micro-batches and sharing it out among
                processes changes nothing but rounding
    gradient    its norm over all parameters is measured, and clipped; one that is not finite, or
                such a loss, ends the run before it can do harm (float16 lowers its loss scale and
                takes the batch again)
    update      AdamW, at the learning rate of the schedule

`step` counts the updates done. `batch(step)` is what update `step + 1` is made from; records carry
the number after it. What is seen at step 0 is the unchanged start.

A run that was killed goes on, with `resume`, from its newest checkpoint to the same bits (on a CPU,
with as many threads; GPU kernels may add in another order).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from interventions.edit_forms import Edit, some_edits
from interventions.learning_rates import RowLearningRates
from probes.checking import each_of, hooked_model, takes
from probes.hooked_model import HookedModel
from probes.refusals import instance_of, shown
from training.batches import (
    BatchSource,
    Data,
    InjectingSource,
    NamedSources,
    TrainingBatch,
    as_source,
    some_data,
)
from training.choices import Precision, Tracker
from training.engine import learning_rate, whole
from training.observers import ItemsObserver, NotingObserver, Observer, StopRule
from training.progress import Throughput, shown_progress, tracked
from training.runs.checkpoints import checkpoint_name
from training.runs.directory import RunDirectory, opened_directory, versions
from training.runs.records import Record, StepRecord, StopRecord
from training.settings import LoopSettings
from training.start_or_resume import Run, fitting_batch, made_ready, refuse_unfit, try_end


@dataclass(frozen=True)
class TrainingResult:
    """How a run, or a piece of one, ended."""

    steps_done: int
    """Updates, from the start of the run."""
    finished: bool
    """False where the time limit was reached first."""
    stop_reason: str | None
    """What a stop rule said."""
    checkpoint: Path
    """The last one."""


def _some_functions(value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return f"{shown(value)}; give a list of functions of a record"
    wrong = next((one for one in value if not callable(one)), None)
    return wrong and f"a list with {shown(wrong)}; give functions of a record"


def _a_rule(value: Any) -> str | None:
    check = instance_of(StopRule, "a rule, such as training.LossBelow(0.1)")
    return None if value is None else check(value)


def _seconds(value: Any) -> str | None:
    is_some = value is None or (isinstance(value, Real) and float(value) >= 0)
    return None if is_some else f"{shown(value)}; give seconds, or None"


def _a_directory(value: Any) -> str | None:
    is_one = isinstance(value, RunDirectory | str | Path)
    return None if is_one else f"{shown(value)}; give a path, or a training.RunDirectory"


@takes(
    model=hooked_model,
    source=some_data,
    settings=instance_of(LoopSettings, "training.LoopSettings(steps=..., batch_size=...)"),
    directory=_a_directory,
    edits=some_edits,
    observers=each_of(Observer, "an object with due and observe, such as a TaskObserver"),
    optimizer_edits=each_of(RowLearningRates, "interventions.RowLearningRates(resuscitation)"),
    callbacks=_some_functions,
    stop=_a_rule,
    time_limit=_seconds,
)
def train(
    model: HookedModel,
    source: Data,
    settings: LoopSettings,
    directory: RunDirectory | str | Path,
    *,
    edits: Sequence[Edit] = (),
    observers: Sequence[Observer] = (),
    callbacks: Sequence[Callable[[Record], object]] = (),
    stop: StopRule | None = None,
    optimizer_edits: Sequence[RowLearningRates] = (),
    start_state: Path | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    progress: bool = True,
    track: Tracker | str | None = None,
) -> TrainingResult:
    """Train a model, record what happens, and write checkpoints.

    Args:
        model: the initial model, on the native backend. Its weights become float32 and are trained
            in place (under FSDP it stays sharded: load the last checkpoint). To resume, give the
            same model again: edits are made to it before the checkpoint is loaded.
        source: the batches, as a source; or rows of token ids, of any length each, such as a
            `datasets.Dataset` with `input_ids` (see `training.batches`), which are shuffled and
            gone through as often as needed; or a function from the step to its batch.
        settings: how to train.
        directory: where to record: a path, or a directory that was created, or reopened to resume.
        edits: made by hooks for the length of the run, so that the weights are trained as they
            were, behind a fixed gain. To train edited ones, call `interventions.patch_weights`.
        observers: evaluate the model at steps that they choose; at the last step of a run that
            a stop rule ends, all of them do. Those with a `note` hear of every record.
        callbacks: functions that are called with every record when it is written: a `StepRecord`
            for each update, and what observers find. They must not change the model.
        stop: may end the run early.
        optimizer_edits: learning rates of rows.
        start_state: checkpoint, of whatever run of this model, whose optimizer state the run
            begins with; None for a fresh optimizer.
        resume: go on from the newest checkpoint in the directory, if there is one.
        time_limit: seconds after which to leave with a checkpoint, to be resumed later; one update
            is made in any case.
        progress: whether to show it.
        track: a tracker that gets every number too: wandb, trackio or tensorboard.

    Returns:
        How it ended.

    Raises:
        ValueError: settings, source and model do not go together; the loss or the gradient is not
            finite; a checkpoint cannot be read or written.
    """
    began = time.monotonic()
    start_state = None if start_state is None else Path(start_state)
    if start_state is not None and settings.lora_rank is not None:
        raise ValueError("new adapters begin with a fresh optimizer; leave start_state out")
    source = as_source(source, settings)
    if not isinstance(directory, RunDirectory):
        directory = _directory(Path(directory), model, source, settings, edits, resume)
    refuse_unfit(source, settings, optimizer_edits)
    with (
        made_ready(
            model, settings, directory, edits, optimizer_edits, stop, resume, start_state
        ) as run,
        shown_progress(steps=settings.steps, done=run.step, shown=progress) as show,
        tracked(track, directory) as trackers,
    ):
        write = _writer(directory, observers, [*callbacks, *trackers])
        # What does not fit is better known before anything is evaluated.
        if run.is_new:
            try_end(run, model, source, settings, directory, observers, stop)
        elif run.step < settings.steps:
            fitting_batch(source, run.step, model, settings)
        _write_items(observers, directory)
        throughput = Throughput(model, Precision(settings.precision), run.here.count)
        step, stop_reason = run.step, run.stop_reason
        is_over = step == settings.steps or stop_reason is not None
        while True:
            # Between two updates: observe the model, and write down where the run is.
            run.clock.progress = step / settings.steps
            is_late = step > run.step and _is_late(began, time_limit, run)
            if step > run.step or run.is_new:
                due = [one for one in observers if one.due(step) or stop_reason is not None]
                seen = _observe(run, model, due, directory, write, step)
                if stop is not None and stop_reason is None:
                    stop_reason = stop.after_looking(seen)
                    if stop_reason is not None:
                        write(StopRecord(step, stop_reason))
                        others = [one for one in observers if one not in due]
                        _observe(run, model, others, directory, write, step)
                is_over = step == settings.steps or stop_reason is not None
                planned = is_over or settings.checkpoint_is_due(step)
                if planned or is_late or settings.resume_point_is_due(step):
                    _write_checkpoint(run, directory, settings, step, stop_reason, planned)
            if is_over or is_late:
                break

            # One update, from the batch that is numbered with the updates before it.
            started = time.perf_counter()
            batch = fitting_batch(source, step, model, settings)
            loss, norm, by_source = _clipped_gradient(run, source, batch, settings, step)
            rate = learning_rate(step + 1, settings)
            for group in run.optimizer.param_groups:
                group["lr"] = rate
            run.scaler.step(run.optimizer)
            run.scaler.update()
            run.optimizer.zero_grad()

            # What became of it.
            if isinstance(source, InjectingSource) and (injected := source.injections_at(step)):
                write(injected)
            step += 1
            record = StepRecord(step, loss, rate, norm, batch.trained_tokens, by_source)
            write(record)
            stop_reason = None if stop is None else stop.after(record, batch)
            if stop_reason is not None:
                write(StopRecord(step, stop_reason))
            speed = throughput.of_step(batch, time.perf_counter() - started)
            directory.append_timing(step=step, **speed)
            show(record, speed)

        checkpoint = directory.checkpoints / checkpoint_name(step)
        if is_over:
            if isinstance(source, InjectingSource) and stop_reason is None:
                source.assert_complete(step)
            directory.finish(
                {"steps": step, "stop_reason": stop_reason, "checkpoint": checkpoint.name}
            )
        return TrainingResult(step, is_over, stop_reason, checkpoint)


def _directory(
    path: Path,
    model: HookedModel,
    source: BatchSource,
    settings: LoopSettings,
    edits: Sequence[Edit],
    resume: bool,
) -> RunDirectory:
    """The directory of a run that is made from a script, with a manifest of what it is given."""
    inputs = {
        "model": {"name": model.name, "revision": model.revision, "sha256": model.content_hash()},
        "data": source.describe(),
        "edits": [edit.describe() for edit in edits],
    }
    manifest = {"configuration": asdict(settings), "inputs": inputs, "versions": versions()}
    return opened_directory(path, manifest, resume=resume)


def _writer(
    directory: RunDirectory,
    observers: Sequence[Observer],
    callbacks: Sequence[Callable[[Record], object]],
) -> Callable[[Record], None]:
    """What writes a record down, and tells it to all who listen."""
    notes = [one.note for one in observers if isinstance(one, NotingObserver)]

    def write(record: Record) -> None:
        directory.append(record)
        for hear in (*notes, *callbacks):
            hear(record)

    return write


def _clipped_gradient(
    run: Run, source: BatchSource, batch: TrainingBatch, settings: LoopSettings, step: int
) -> tuple[float, float, dict[str, float]]:
    """Leave the gradient of a global batch in the parameters, clipped."""
    parameters, clip_norm = run.engine.parameters, settings.optimizer.clip_norm
    names = source.source_names if isinstance(source, NamedSources) else ()
    while True:
        mean_loss, by_source = _gradient(run, batch, settings.micro_batch_size, len(names))
        run.scaler.unscale_(run.optimizer)
        length = whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
        # Both at once: only here is a GPU waited for.
        loss, norm = torch.stack([mean_loss, length]).tolist()
        if isfinite(loss) and isfinite(norm):
            if clip_norm is not None:
                clip_grads_with_norm_(parameters, clip_norm, length)
            return loss, norm, _mean_by_source(names, by_source, batch)
        if not isfinite(loss) or run.scaler.get_scale() <= 1:
            what, value, where = "gradient norm", norm, run.engine.where_gradient_began
            if not isfinite(loss):
                rows = batch.share(run.here.rank, run.here.count).cut(settings.micro_batch_size)
                what, value, where = "loss", loss, partial(run.engine.where_loss_began, rows)
            raise ValueError(
                f"the {what} of the batch after step {step} is {value}: {where()}; the update was "
                "not made, and the last checkpoint is whole: try a lower learning rate or another "
                "precision"
            )
        # Too large for float16: lower the loss scale, and take the batch again.
        run.scaler.update()
        run.optimizer.zero_grad()


def _gradient(
    run: Run, batch: TrainingBatch, micro_batch_size: int | None, sources: int
) -> tuple[Tensor, Tensor]:
    """The mean loss over the trained tokens of a global batch; its gradient goes to parameters."""
    weight = batch.trained_weight
    micro_batches = batch.share(run.here.rank, run.here.count).cut(micro_batch_size)
    total = torch.zeros((), device=run.engine.device)
    by_source = torch.zeros(sources, device=run.engine.device)
    for number, rows in enumerate(micro_batches, start=1):
        with run.engine.accumulating(is_last=number == len(micro_batches)):
            summed, apart = run.engine.loss(rows, sources=sources)
            loss = summed / weight
            # Processes average their gradients; the parts of one mean have to be summed.
            run.scaler.scale(loss * run.here.count).backward()
        total += loss.detach()
        if apart is not None:
            by_source += apart
    return run.here.total(total), run.here.total(by_source)


def _mean_by_source(names: Sequence[str], summed: Tensor, batch: TrainingBatch) -> dict[str, float]:
    """The mean loss over the trained tokens of each source that the batch has any of."""
    if not names:
        return {}
    counts = batch.trained_by_source(len(names)).tolist()
    pairs = zip(names, summed.tolist(), counts, strict=True)
    return {name: total / count for name, total, count in pairs if count}


def _observe(
    run: Run,
    model: HookedModel,
    observers: Sequence[Observer],
    directory: RunDirectory,
    write: Callable[[Record], None],
    step: int,
) -> list[Record]:
    if not observers:
        return []
    started = time.perf_counter()
    seen = []
    with run.engine.observing():
        for observer in observers:
            for record in _records(observer, observer.observe(model, step)):
                write(record)
                seen.append(record)
    directory.append_timing(step=step, observing_seconds=time.perf_counter() - started)
    return seen


def _records(observer: Observer, found: Any) -> Sequence[Record]:
    listed = [*found] if isinstance(found, Iterable) and not isinstance(found, Mapping) else None
    if listed is None or not all(isinstance(one, Record) for one in listed):
        raise ValueError(
            f"{type(observer).__name__}.observe returned {shown(found)}; return a list of "
            "training.Record objects"
        )
    return listed


def _write_checkpoint(
    run: Run,
    directory: RunDirectory,
    settings: LoopSettings,
    step: int,
    stop_reason: str | None,
    planned: bool,
) -> None:
    """Write a checkpoint, and take away what it makes needless."""
    started = time.perf_counter()

    def write(folder: Path) -> dict[str, Any]:
        return {**run.state.save(folder), "stop_reason": stop_reason}

    directory.commit_checkpoint(step, write, planned=planned)
    directory.prune(settings.keep_training_states)
    directory.append_timing(step=step, checkpoint_seconds=time.perf_counter() - started)


def _write_items(observers: Sequence[Observer], directory: RunDirectory) -> None:
    for observer in observers:
        if isinstance(observer, ItemsObserver):
            for name, rows in observer.items().items():
                directory.write_items(name, rows)


def _is_late(began: float, time_limit: float | None, run: Run) -> bool:
    """Whether the time is over; where several processes disagree, it is."""
    if time_limit is None:
        return False
    return run.here.any_says(time.monotonic() - began > time_limit, run.engine.device)
