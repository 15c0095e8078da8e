"""What `training.pretrain` prints: what it begins with, what came of it, and what can follow.

Example:
    >>> print_pretraining(Path("runs/tiny"), config, result)                  # doctest: +SKIP
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from probes.hooked_model import HookedModel
from training.loop import TrainingResult
from training.pretrain.config import PretrainConfig
from training.runs.checkpoints import checkpoint_folders
from training.runs.directory import CHECKPOINTS_FOLDER
from training.runs.tables import observed_in, shown_table

_COLUMNS = 5


def print_beginning(config: PretrainConfig, model: HookedModel, source: Any) -> None:
    """Say what is about to be trained."""
    about = source.describe()
    parameters = sum(parameter.numel() for parameter in model.hf_model.parameters())
    print(f"model: {config.shape}, {parameters:,} parameters, on {model.device}")
    often = f", gone through up to {about['epochs']} times" if about["epochs"] > 1 else ""
    print(
        f"texts: {about['documents']:,} documents in {about['rows']:,} rows of "
        f"{about['row_length']} tokens{often}"
    )


def print_pretraining(
    folder: Path, config: PretrainConfig, result: TrainingResult | None, console: Any = None
) -> None:
    """Print what was seen at a few of the checkpoints, and where they are.

    Args:
        folder: of the run.
        config: what it is.
        result: how this piece of it ended; None where it had ended before.
        console: where to; None for the standard output.
    """
    console = console or Console()
    rows = observed_in(folder)
    seen = sorted({step for row in rows for step in row.values})
    steps = _spread(seen)
    if rows:
        columns = {step: "untrained" if step == 0 else f"step {step:,}" for step in steps}
        console.print(shown_table(rows, columns, f"{folder}, in nats"))
    if result is not None and not result.finished:
        print(f"stopped after {result.steps_done:,} of {config.steps:,} steps; go on with --resume")
    elif result is None:
        print("this run was over already; nothing was done")
    kept = checkpoint_folders(folder / CHECKPOINTS_FOLDER)
    print(f"checkpoints: {len(kept)} in {folder / CHECKPOINTS_FOLDER}")
    if result is None or result.finished:
        corpus = config.held_out[0] if config.held_out else "general-heldout"
        print("what can follow:")
        print(f"  python -m training.ckl --model {folder} --out runs/ckl")
        print(f"  python -m analysis.entropy --model {folder} --corpus {corpus} --out runs/sweep")


def _spread(steps: list[int]) -> list[int]:
    """A few of the steps, the first and the last among them."""
    if len(steps) <= _COLUMNS:
        return steps
    last = len(steps) - 1
    return [steps[round(place * last / (_COLUMNS - 1))] for place in range(_COLUMNS)]
