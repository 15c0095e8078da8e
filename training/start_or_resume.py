"""Start or resume: what `--model` means, and all that has to be there before the first update.

Edits are made to the initial model, not to what a checkpoint holds, since what some of them add is
taken from the weights that they find: the checkpoint is loaded under them. Weights are loaded whole
and then sharded; the optimizer's state is loaded shard by shard. Random states come last, because
anything before may have drawn.

What a run needs at its end is tried before its first step (`try_end`), or without one (`tried`):
its first batch, whether its stop rule can be fulfilled, and a checkpoint, read back and compared.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch.amp.grad_scaler import GradScaler

import probes
from interventions.edit_forms import Clock, Edit
from interventions.edits import applied
from interventions.learning_rates import RowLearningRates
from probes.assets.fetching import is_here
from probes.assets.table import asset_names
from probes.hooked_model import HookedModel
from training.adapters import add_adapters
from training.batches import BatchSource, InjectingSource, NamedSources, TrainingBatch
from training.choices import Parallel, Precision
from training.engine import Engine, adamw, hold_in_float32, refuse_misfits
from training.model_shapes import set_bos_habit
from training.observers import ItemsObserver, Observer, StopRule
from training.options import TINY_RUN
from training.processes import (
    Processes,
    joined_processes,
    random_states_kept,
    seed_all,
    this_process,
)
from training.runs.checkpoints import (
    CheckpointFound,
    TrainingState,
    checkpoint_folders,
    load_weights,
    read_checkpoint,
    refuse_other_processes,
)
from training.runs.directory import CHECKPOINTS_FOLDER, MANIFEST_FILE, RunDirectory
from training.runs.records import ITEMS_FOLDER
from training.settings import LoopSettings, Misfits
from training.stop_rules import Rule


@dataclass(frozen=True, eq=False)
class Run:
    """A run that is ready to go on; `found` is the checkpoint that it goes on from."""

    engine: Engine
    optimizer: torch.optim.AdamW
    scaler: GradScaler
    clock: Clock
    state: TrainingState
    found: CheckpointFound | None

    @property
    def here(self) -> Processes:
        return self.engine.here

    @property
    def is_new(self) -> bool:
        return self.found is None

    @property
    def step(self) -> int:
        """Updates done before it goes on."""
        return 0 if self.found is None else self.found.step

    @property
    def stop_reason(self) -> str | None:
        """Why it had ended already, where it had."""
        return None if self.found is None else self.found.state["stop_reason"]


@contextmanager
def made_ready(
    model: HookedModel,
    settings: LoopSettings,
    directory: RunDirectory,
    edits: Sequence[Edit],
    optimizer_edits: Sequence[RowLearningRates],
    stop: StopRule | None,
    resume: bool,
    start_state: Path | None = None,
) -> Iterator[Run]:
    """Make a run ready; the arguments are those of `training.loop.train`."""
    with ExitStack() as stack:
        here = stack.enter_context(joined_processes())
        stack.enter_context(random_states_kept())
        hold_in_float32(model)
        add_adapters(model, settings)
        clock = stack.enter_context(applied(model, *edits))
        if not resume and directory.has_begun:
            raise ValueError(f"{directory.path} holds records already; resume, or record elsewhere")
        found = directory.latest() if resume else None
        if found is not None:
            refuse_other_processes(found)
            load_weights(model, found.path)
        engine = stack.enter_context(Engine(model, settings))
        optimizer = adamw(model.hf_model, settings.optimizer)
        scaler = GradScaler(model.device.type, enabled=settings.precision is Precision.FP16)
        state = TrainingState(model, engine, optimizer, scaler, stop)
        for rates in optimizer_edits:
            stack.callback(rates.attach_to(optimizer, model).remove)
        seed_all(settings.seed + here.rank)
        if found is not None:
            state.load(found)
        elif start_state is not None:
            state.load_optimizer(read_checkpoint(start_state))
        directory.cut_back(found)
        directory.prune(settings.keep_training_states)
        yield Run(engine, optimizer, scaler, clock, state, found)


def refuse_unfit(
    source: BatchSource, settings: LoopSettings, optimizer_edits: Sequence[RowLearningRates]
) -> None:
    """Make sure that data, settings and processes go together, before any work is done."""
    alone, count = settings.parallel is Parallel.NONE, this_process().count
    if alone and count > 1:
        raise ValueError(
            f"torchrun has started {count} processes, and parallel is 'none'; use 'ddp' or 'fsdp'"
        )
    if not alone and not (dist.is_initialized() or dist.is_torchelastic_launched()):
        raise ValueError(
            f"parallel={str(settings.parallel)!r} needs torchrun to start the processes; start it "
            "so, or use 'none'"
        )
    if optimizer_edits and settings.parallel is Parallel.FSDP:
        raise ValueError(
            "learning rates of rows need whole parameters, and 'fsdp' shards them; use 'ddp'"
        )
    available = source.steps_available
    if available is not None and available < settings.steps:
        raise ValueError(
            f"the data give {available} batches, and the run has {settings.steps} steps; give more "
            "text or epochs, or fewer steps"
        )


def fitting_batch(
    source: BatchSource, step: int, model: HookedModel, settings: LoopSettings
) -> TrainingBatch:
    """The global batch of a step, refused where model and settings are not made for it."""
    batch = source.batch(step)
    refuse_misfits(batch, model)
    # Passages may be given rows of their own.
    extra = isinstance(source, InjectingSource)
    size = batch.n_rows if batch.examples is None else batch.examples
    if size < settings.batch_size or (size > settings.batch_size and not extra):
        raise ValueError(
            f"the data come in batches of {size} rows, and the settings say "
            f"batch_size={settings.batch_size}; make them agree"
        )
    if not batch.trained_tokens:
        raise ValueError(f"batch {step} has no token to train on; check the labels of the data")
    return batch


def try_end(
    run: Run,
    model: HookedModel,
    source: BatchSource,
    settings: LoopSettings,
    directory: RunDirectory,
    observers: Sequence[Observer],
    stop: StopRule | None,
) -> None:
    """Try what a run needs at its end, and refuse all that does not fit at once."""
    Misfits().check(
        lambda: fitting_batch(source, 0, model, settings),
        lambda: _refuse_unreachable(stop, source, settings.steps, observers),
        lambda: run.state.try_in(directory.checkpoints),
    )


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


def _refuse_unreachable(
    stop: object, source: BatchSource, steps: int, observers: Sequence[Observer]
) -> None:
    """Make sure that a rule can be fulfilled by what the run records."""
    if not isinstance(stop, Rule):
        return
    evaluated: dict[str, int] = {}
    for observer in observers:
        if isinstance(observer, ItemsObserver):
            times = sum(1 for step in range(steps + 1) if observer.due(step))
            evaluated |= {name: max(times, evaluated.get(name, 0)) for name in observer.items()}
    names = source.source_names if isinstance(source, NamedSources) else ()
    if (why := stop.unreachable(steps, names, evaluated)) is not None:
        raise ValueError(why)


def existing_folder(out: Path | None) -> Path | None:
    """The nearest folder above a path that is there: the same file system; None for None."""
    if out is None:
        return None
    return next(folder for folder in out.absolute().parents if folder.is_dir())


CLOZE = "cloze"  # the list of items that a pretraining run writes about its facts


@dataclass(frozen=True)
class Start:
    """A model to be loaded, and the run directory that it comes from, where it does."""

    model: str
    revision: str | None = None
    run: Path | None = None

    def load(self, config: Any) -> HookedModel:
        """The model in float32, on the device and with the BOS habit of a configuration."""
        found = probes.load_model(
            self.model, revision=self.revision, device=config.device, dtype="float32"
        )
        set_bos_habit(found.tokenizer, config.prepend_bos)
        return found

    @property
    def cloze(self) -> Path | None:
        """The facts that the run was asked about, where it was."""
        path = None if self.run is None else self.run / ITEMS_FOLDER / f"{CLOZE}.jsonl"
        return path if path is not None and path.is_file() else None


def find_start(model: str, revision: str | None = None) -> Start:
    """What to load."""
    path = Path(model).expanduser()
    if not _is_run(path):
        parent = path.parent.parent
        inside = path.parent.name == CHECKPOINTS_FOLDER and _is_run(parent)
        return Start(model, revision, parent if inside else None)
    folders = {folder.name: folder for folder in checkpoint_folders(path / CHECKPOINTS_FOLDER)}
    if not folders:
        raise ValueError(f"the run {model} has no checkpoint yet; go on with it, with --resume")
    name = list(folders)[-1] if revision is None else revision
    if name not in folders:
        raise ValueError(
            f"the run {model} has no checkpoint {revision!r}; it has {', '.join(folders)}"
        )
    return Start(str(folders[name]), None, path)


def find_base(model: str, revision: str | None) -> Start:
    """What to load for a training command, whose smoke recipe names a run that is made first."""
    if model == TINY_RUN and not Path(TINY_RUN).exists():
        raise ValueError(
            f"there is no {TINY_RUN}; make it with python -m training.pretrain --recipe tiny "
            f"--out {TINY_RUN}, or give another --model"
        )
    return find_start(model, revision)


def why_not_here(model: str) -> str | None:
    """Why a model cannot be loaded without the hub, as a clause; None where it can."""
    if model in asset_names():
        return None if is_here(model) else f"the built-in model {model} is not fetched yet"
    here = Path(model).expanduser().exists()
    return None if here else f"the model {model} is not on this machine"


def _is_run(path: Path) -> bool:
    return (path / MANIFEST_FILE).is_file() and (path / CHECKPOINTS_FOLDER).is_dir()
