"""Progress: what a run shows of itself while it trains, on the terminal or in a tracker.

The run directory stays the record: a tracker only gets copies of what is written there, nothing is
sent anywhere unless its own settings say so (`WANDB_MODE=online`), and one that fails ends without
the run. Names are those of records: `step/loss`, `perplexity/<corpus>/mean_loss`,
`entropy/knowledge/total`; of a list of numbers there is the mean.
"""

import hashlib
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from math import fsum
from typing import Any

import torch

from probes.choices import as_choice
from probes.hooked_model import HookedModel
from training.batches import TrainingBatch
from training.choices import Precision, Tracker
from training.processes import this_process
from training.runs.directory import RunDirectory
from training.runs.records import Record, StepRecord

SECONDS_BETWEEN_LINES = 10.0
Show = Callable[[StepRecord, Mapping[str, float]], None]


@contextmanager
def shown_progress(*, steps: int, done: int, shown: bool) -> Iterator[Show]:
    """Show a run while it trains."""
    if not shown or not this_process().is_first:
        yield lambda _record, _speed: None
    elif sys.stderr.isatty():
        with _bar(steps, done) as show:
            yield show
    else:
        yield _lines(steps)


def progress_text(record: StepRecord, speed: Mapping[str, float]) -> str:
    """Loss, tokens a second, memory and, where it is known, model FLOP utilisation."""
    parts = [
        f"loss {record.loss:.4f}",
        f"{speed['tokens_per_second']:,.0f} tokens/s",
        f"{speed['memory_bytes'] / 2**30:.1f} GiB",
    ]
    if "flop_utilisation" in speed:
        parts.append(f"{speed['flop_utilisation']:.0%} of peak FLOPs")
    return "  ".join(parts)


def _lines(steps: int) -> Show:
    last = -SECONDS_BETWEEN_LINES

    def show(record: StepRecord, speed: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or record.step == steps:
            last = now
            text = progress_text(record, speed)
            print(f"step {record.step}/{steps}  {text}", file=sys.stderr, flush=True)

    return show


@contextmanager
def _bar(steps: int, done: int) -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    text = TextColumn("{task.fields[text]}")
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), Remaining(), text)
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=steps, completed=done, text="")
        yield lambda record, speed: bar.update(
            task, completed=record.step, text=progress_text(record, speed)
        )


_HALF_PRECISION_PEAKS = {
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
}
"""In 10^12 operations a second; the first name that a device's contains counts."""


def flops_per_token(model: HookedModel, row_length: int) -> int:
    """Floating-point operations that one token costs in training."""
    hf_model, config = model.hf_model, model.hf_model.config
    embeddings = (part for part in hf_model.modules() if isinstance(part, torch.nn.Embedding))
    looked_up = {id(part.weight) for part in embeddings} - {id(model.anatomy.unembed.weight)}
    weights = sum(
        p.numel() for p in hf_model.parameters() if p.ndim >= 2 and id(p) not in looked_up
    )
    head_width = getattr(config, "head_dim", None) or model.d_model // model.n_heads
    return 6 * weights + 12 * model.n_layers * model.n_heads * head_width * row_length


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Floating-point operations that a device can do in a second; None where it is not known."""
    if precision is Precision.FP32:
        return None
    known = (1e12 * peak for name, peak in _HALF_PRECISION_PEAKS.items() if name in device_name)
    return next(known, None)


def memory_bytes(device: torch.device) -> int:
    """The most memory that was held so far: on a GPU by tensors, otherwise by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used


class Throughput:
    """Tokens a second and model FLOP utilisation of a run."""

    def __init__(self, model: HookedModel, precision: Precision, processes: int) -> None:
        self._device = model.device
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else ""
        peak = peak_flops(name, precision)
        self._peak = None if peak is None else peak * processes
        self._flops_per_token = cache(lambda row_length: flops_per_token(model, row_length))

    def of_step(self, batch: TrainingBatch, seconds: float) -> dict[str, float]:
        rows, length = batch.input_ids.shape
        speed = rows * length / seconds
        memory = float(memory_bytes(self._device))
        found = {"seconds": seconds, "tokens_per_second": speed, "memory_bytes": memory}
        if self._peak is not None:
            found["flop_utilisation"] = speed * self._flops_per_token(length) / self._peak
        return found


PROJECT = "mnemoscope"
_LEFT_OUT = ("record", "step", "interval", "passages", "blocks", "errors")
_MODULES = {Tracker.WANDB: "wandb", Tracker.TRACKIO: "trackio", Tracker.TENSORBOARD: "tensorboard"}
Log = Callable[[Mapping[str, float], int], object]


def numbers(record: Record) -> dict[str, float]:
    """The numbers of a record, by names that say what they are of."""
    values = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in _LEFT_OUT}
    words = dict.fromkeys(value for value in values.values() if isinstance(value, str))
    front = "/".join([record.record, *words])
    found = {}
    for name, value in values.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, one in inner:
            if (number := _number(one)) is not None:
                found[f"{front}/{name}{'/' * bool(key)}{key}"] = number
    return found


def _number(value: Any) -> float | None:
    """A number, or the mean of a list of numbers; None for anything else."""
    if isinstance(value, list | tuple):
        each = [float(one) for one in value if isinstance(one, int | float)]
        return fsum(each) / len(each) if each and len(each) == len(value) else None
    return float(value) if isinstance(value, int | float) else None


def require_tracker(tracker: Tracker | str | None) -> Tracker | None:
    """A tracker that is installed; None for none."""
    if tracker is None:
        return None
    chosen = as_choice(Tracker, tracker, "track")
    if find_spec(_MODULES[chosen]) is None:
        raise ValueError(
            f"{chosen} is not installed; it is an extra: pip install 'mnemoscope[{chosen}]'"
        )
    return chosen


@contextmanager
def tracked(
    tracker: Tracker | str | None, directory: RunDirectory
) -> Iterator[list[Callable[[Record], None]]]:
    """Callbacks for the loop that hand every record to a tracker, in one process of several."""
    chosen = require_tracker(tracker)
    if chosen is None or not this_process().is_first:
        yield []
        return
    follower = _Follower(chosen, directory)
    try:
        yield [follower.note]
    finally:
        follower.close()


class _Follower:
    """Hands records to a tracker, which begins with the first of them, until it fails."""

    def __init__(self, tracker: Tracker, directory: RunDirectory) -> None:
        self._tracker, self._directory = tracker, directory
        self._log: Log | None = None
        self._close: Callable[[], object] = lambda: None
        self._failed = False

    def note(self, record: Record) -> None:
        found = numbers(record)
        if found and not self._failed:
            self._trying(lambda: self._send(found, record.step))

    def close(self) -> None:
        if not self._failed:
            self._trying(self._close)

    def _send(self, found: Mapping[str, float], step: int) -> None:
        if self._log is None:
            opened = _OPENERS[self._tracker](self._directory, step)
            self._log, self._close = opened
        self._log(found, step)

    def _trying(self, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # of a library that the run does not need
            self._failed = True
            print(
                f"{self._tracker} stopped ({type(error).__name__}: {error}); the run goes on, and "
                f"{self._directory.path} has all of it",
                file=sys.stderr,
            )


def _tensorboard(directory: RunDirectory, step: int) -> tuple[Log, Callable[[], object]]:
    from torch.utils.tensorboard import SummaryWriter

    # What a killed run has written after its last checkpoint is not shown.
    writer = SummaryWriter(str(directory.path / "tensorboard"), purge_step=step)

    def log(found: Mapping[str, float], step: int) -> None:
        for name, value in found.items():
            writer.add_scalar(name, value, step)

    return log, writer.close


def _wandb(directory: RunDirectory, _step: int) -> tuple[Log, Callable[[], object]]:
    import wandb

    run = wandb.init(
        project=PROJECT,
        name=directory.path.name,
        id=hashlib.sha256(str(directory.path.resolve()).encode()).hexdigest()[:16],
        resume="allow",
        dir=str(directory.path),
        config=dict(directory.manifest),
        mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
        settings=wandb.Settings(console="off", silent=True),
    )
    return lambda found, step: run.log(dict(found), step=step), run.finish


def _trackio(directory: RunDirectory, _step: int) -> tuple[Log, Callable[[], object]]:
    import trackio

    run = trackio.init(
        project=PROJECT,
        name=directory.path.name,
        resume="allow",
        config=dict(directory.manifest),
        embed=False,
        auto_log_cpu=False,
        auto_log_gpu=False,
    )
    return lambda found, step: run.log(dict(found), step=step), run.finish


_OPENERS = {
    Tracker.TENSORBOARD: _tensorboard,
    Tracker.WANDB: _wandb,
    Tracker.TRACKIO: _trackio,
}
