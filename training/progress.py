"""Progress: what a run shows of itself while it trains.

On a terminal a bar, otherwise a plain line at the start, every ten seconds and at the end; on the
error stream, in one process of several.

Example:
    >>> with shown_progress(steps=10, done=0, shown=False) as show:
    ...     speed = {"tokens_per_second": 6000.0, "memory_bytes": 1e9}
    ...     show(StepRecord(1, 3.5, 4e-4, 1.0, 128), speed)
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from training.processes import this_process
from training.runs.records import StepRecord

SECONDS_BETWEEN_LINES = 10.0
Show = Callable[[StepRecord, Mapping[str, float]], None]


@contextmanager
def shown_progress(*, steps: int, done: int, shown: bool) -> Iterator[Show]:
    """Show a run while it trains.

    Args:
        steps: of the run.
        done: before it went on.
        shown: whether there is anybody to show it to.

    Yields:
        What to call after every update, with its record and its `Throughput.of_step`.
    """
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

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        Remaining(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=steps, completed=done, text="")

        def show(record: StepRecord, speed: Mapping[str, float]) -> None:
            bar.update(task, completed=record.step, text=progress_text(record, speed))

        yield show
