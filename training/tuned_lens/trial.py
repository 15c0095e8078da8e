"""Will the training of a tuned lens come to its end? Tried before the first step."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from probes.hooked_model import HookedModel
from probes.translators import Translators, identity_translators, load_translators
from training.runs.durable_files import one_line_for_disk_errors
from training.trial import Misfits, existing_folder
from training.tuned_lens.evaluation import compare_lenses


def try_lens(
    model: HookedModel,
    batches: Iterable[Mapping[str, Tensor]],
    heldout: Iterable[Mapping[str, Tensor]],
    *,
    steps: int,
    validate_every: int | None,
    out: Path,
) -> None:
    """Read a batch of either text, look at the held-out one, and write and read a lens."""
    misfits, start = Misfits(), identity_translators(model)
    with misfits.noted():
        _first(batches, "--corpus")
    with misfits.noted():
        compare_lenses(model, [_first(heldout, "--heldout")], start, rows_per_batch=1)
    with misfits.noted():
        if validate_every is not None and validate_every > steps:
            raise ValueError(
                f"--validate-every {validate_every} is never reached in {steps} steps; give "
                f"{steps} at most, or as many --steps"
            )
    with misfits.noted():
        _write_and_read(start, model, out)
    misfits.refuse()


def _write_and_read(start: Translators, model: HookedModel, out: Path) -> None:
    with (
        one_line_for_disk_errors(f"trying to write a lens for {out}"),
        tempfile.TemporaryDirectory(prefix=".trial-", dir=existing_folder(out)) as folder,
    ):
        start.save(folder)
        load_translators(folder, model)


def _first(batches: Iterable[Mapping[str, Tensor]], option: str) -> Mapping[str, Tensor]:
    found = next(iter(batches), None)
    if found is None:
        raise ValueError(f"{option} fills no row; give more text, or shorter rows")
    return found
