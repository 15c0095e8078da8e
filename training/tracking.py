"""Tracking: a run's numbers, as they come, in wandb, trackio or TensorBoard.

The run directory stays the record: a tracker only gets copies of what is written there, nothing is
sent anywhere unless its own settings say so (`WANDB_MODE=online`), and one that fails ends without
the run. Names are those of records: `step/loss`, `perplexity/<corpus>/mean_loss`,
`entropy/knowledge/total`; of a list of numbers there is the mean.

| tracker       | extra                    | where                                                 |
|---------------|--------------------------|-------------------------------------------------------|
| `tensorboard` | `mnemoscope[tensorboard]`| `tensorboard/` in the run directory                   |
| `wandb`       | `mnemoscope[wandb]`      | `wandb/` in the run directory, to be synced at will   |
| `trackio`     | `mnemoscope[trackio]`    | trackio's own folder on this machine                  |

Example:
    >>> from training.runs.records import PerplexityRecord
    >>> numbers(PerplexityRecord(7, "general", 3.5, None, 100))
    {'perplexity/general/mean_loss': 3.5, 'perplexity/general/tokens': 100.0}
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from math import fsum
from typing import Any

from probes.choices import as_choice
from training.choices import Tracker
from training.processes import this_process
from training.runs.directory import RunDirectory
from training.runs.records import Record

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
