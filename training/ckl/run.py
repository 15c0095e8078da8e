"""What `training.ckl` does: a start, edits of it, a corpus with injections, and the loop.

Everything is made again when a run goes on, from the same seeds; the manifest holds hashes of it
all. What an edited model scored before it was edited is kept in `baseline.jsonl`, whose lines are
records as in `records.jsonl`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import probes
from probes.hooked_model import HookedModel
from training.ckl.config import CklConfig
from training.ckl.data import CklData, ckl_data
from training.ckl.looks import add_others, ckl_looks
from training.ckl.recipes import TINY_RUN
from training.ckl.terminal import print_beginning, print_ckl
from training.commands.baseline import write_baseline
from training.commands.observers import Looks
from training.commands.run_edits import RunEdits, edits_of
from training.loop import TrainingResult, train
from training.misfits import Misfits
from training.observers import Cadence
from training.processes import Processes, joined_processes
from training.runs.directory import RunDirectory
from training.runs.manifest import (
    is_finished,
    opened_directory,
    refuse_taken,
    run_manifest,
    tokenizer_hash,
)
from training.start_models import Start, find_start
from training.trial import tried


@dataclass(frozen=True)
class Prepared:
    """Everything that a run starts from.

    Attributes:
        model: the start, not edited yet.
        data: batches, passages and schedule.
        edits: what is done to the start.
        looks: what is looked at.
        inputs: hashes and counts of all of it.
    """

    model: HookedModel
    data: CklData
    edits: RunEdits
    looks: Looks
    inputs: dict[str, Any]


def run_ckl(
    config: CklConfig,
    out: Path,
    *,
    recipe: str = "smoke",
    resume: bool = False,
    seconds: float | None = None,
) -> None:
    """Train, and print what was learnt and what was lost.

    Args:
        config: the run.
        out: its folder.
        recipe: whose settings were the defaults; for the manifest.
        resume: go on with the run in the folder, if there is one.
        seconds: stop after so many, to go on later; None to go on to the end.

    Raises:
        ValueError: a setting is missing, or something that was asked for is not there, not
            possible or not allowed.
    """
    if missing := config.missing():
        raise ValueError(f"recipe {recipe!r} leaves to be given: {'; '.join(missing)}")
    with joined_processes() as here:
        if here.is_first:
            refuse_taken(out, resume=resume)
        # What can be told at once: settings. Then everything is made again, and compared.
        is_finished(out, config, resume=resume)
        prepared = prepare(config, here)
        manifest = run_manifest("training.ckl", recipe, config, prepared.inputs)
        directory = opened_directory(out, manifest, resume=resume)
        result = None
        if not directory.is_done:
            if here.is_first:
                print_beginning(config, prepared.model, prepared.data)
            result = _train(config, prepared, directory, resume, seconds)
        if here.is_first:
            print_ckl(out, config, result)


def prepare(config: CklConfig, here: Processes) -> Prepared:
    """Load the start, measure what edits need, and read the texts.

    Raises:
        ValueError: something is not there, or does not go together.
    """
    start = _found(config)
    model = probes.load_model(
        start.model, revision=start.revision, device=config.device, dtype="float32"
    )
    misfits, data, looks = Misfits(), None, Looks()
    with misfits.noted():
        data = ckl_data(config, model)
    with misfits.noted():
        if data is not None:
            looks = ckl_looks(config, model, data, start)
        else:
            add_others(looks, config, model, start, Cadence())
    misfits.refuse()
    assert data is not None
    edits = edits_of(
        config, model, seed=config.seed, row_length=config.row_length, watched=here.is_first
    )
    inputs = {
        "start_sha256": model.content_hash(),
        "tokenizer_sha256": tokenizer_hash(model.tokenizer),
        "edits": edits.describe(),
        **data.inputs(),
        **looks.inputs,
    }
    return Prepared(model, data, edits, looks, inputs)


def try_ckl(config: CklConfig, out: Path | None) -> None:
    """Try all that a run needs, up to a checkpoint, without training.

    Args:
        config: the run.
        out: where it is to go; None where that is not known yet.

    Raises:
        ValueError: something does not fit; names all of it.
    """
    with joined_processes() as here:
        prepared = prepare(config, here)
        prepared.edits.write(prepared.model)
        tried(
            prepared.model,
            prepared.data.source,
            config.settings(prepared.data.steps),
            out,
            edits=prepared.edits.hooks,
            optimizer_edits=prepared.edits.optimizer,
            observers=prepared.looks.observers,
        )


def _found(config: CklConfig) -> Start:
    if config.model == TINY_RUN and not Path(TINY_RUN).exists():
        raise ValueError(
            f"there is no {TINY_RUN}; make it with python -m training.pretrain --recipe tiny "
            f"--out {TINY_RUN}, or give another --model"
        )
    return find_start(config.model, config.revision)


def _train(
    config: CklConfig,
    prepared: Prepared,
    directory: RunDirectory,
    resume: bool,
    seconds: float | None,
) -> TrainingResult:
    if prepared.edits.all:
        write_baseline(prepared.model, prepared.looks.observers, directory)
    prepared.edits.write(prepared.model)
    return train(
        prepared.model,
        prepared.data.source,
        config.settings(prepared.data.steps),
        directory,
        edits=prepared.edits.hooks,
        observers=prepared.looks.observers,
        optimizer_edits=prepared.edits.optimizer,
        resume=resume,
        time_limit=seconds,
    )
