"""Baselines: what an edited model scored before it was edited.

Its lines are records as in `records.jsonl`, of step 0; they lie in `baseline.jsonl` beside those,
and are written once.

Example:
    >>> write_baseline(model, observers, directory)                           # doctest: +SKIP
"""

from collections.abc import Sequence

import torch

from probes.hooked_model import HookedModel
from training.observing import Observer
from training.processes import this_process
from training.runs.directory import RunDirectory
from training.runs.durable_files import one_line_for_disk_errors, write_whole
from training.runs.random_states import random_states_kept
from training.runs.records import BASELINE_FILE, as_line


def write_baseline(
    model: HookedModel, observers: Sequence[Observer], directory: RunDirectory
) -> None:
    """Look at a start before it is edited; nothing is done where that is written already.

    Args:
        model: not edited yet.
        observers: who looks; those that look at step 0.
        directory: of the run.

    Raises:
        ValueError: the file cannot be written.
    """
    path = directory.path / BASELINE_FILE
    if path.is_file():
        return
    # Every process looks, since they share the items out; the first one writes.
    with random_states_kept(), model.evaluating(), torch.no_grad():
        lines = [
            as_line(record)
            for observer in observers
            if observer.due(0)
            for record in observer.observe(model, 0)
        ]
    if this_process().is_first:
        with one_line_for_disk_errors(f"writing {path}"):
            write_whole(path, "".join(f"{line}\n" for line in lines))
