"""Progress: what a run shows of itself while it trains, and how fast it is.

On a terminal a bar, otherwise a plain line at the start, every ten seconds and at the end; on the
error stream, in one process of several.

Example:
    >>> with shown_progress(steps=10, done=0, shown=False) as show:
    ...     speed = {"tokens_per_second": 6000.0, "memory_bytes": 1e9}
    ...     show(StepRecord(1, 3.5, 4e-4, 1.0, 128), speed)
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import torch

from probes.hooked_model import HookedModel
from training.batches import TrainingBatch
from training.choices import Precision
from training.processes import this_process
from training.runs.records import StepRecord

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
        """What a step gave."""
        rows, length = batch.input_ids.shape
        speed = rows * length / seconds
        memory = float(memory_bytes(self._device))
        found = {"seconds": seconds, "tokens_per_second": speed, "memory_bytes": memory}
        if self._peak is not None:
            found["flop_utilisation"] = speed * self._flops_per_token(length) / self._peak
        return found
