"""Checkpoints of a run: whole or not there, this run's or refused, and no more of them than needed.

A checkpoint is a Hugging Face folder in which training keeps `training_state/` and
`training_state.json` beside the weights. The latter is written last; it names the run, and the size
of every file, so that one which was cut short or comes from elsewhere is noticed. Older checkpoints
lose both: they are what a trajectory needs, and cannot be trained on from.
"""

import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed import checkpoint as sharded
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.stateful import Stateful

from probes.checking import all_finite, refuse_not_finite
from probes.checkpoint_files import load_whole, quiet_transformers, what_is_wrong
from probes.hooked_model import HookedModel
from probes.model_folder import write_model
from probes.shown import json_text
from training.adapters import is_adapted, load_adapters, save_adapters
from training.engine import Engine, whole
from training.processes import random_states, set_random_states, this_process
from training.runs.records import one_line_for_disk_errors, sync_folder, sync_tree, write_whole

STATE_FILE = "training_state.json"
STATE_FOLDER = "training_state"
FORMAT = 1


@dataclass(frozen=True)
class CheckpointFound:
    """A whole checkpoint of this run, with the state that training goes on from."""

    path: Path
    step: int
    records_bytes: int  # length of the records when it was made
    state: Mapping[str, Any]  # what training has put beside the weights, as JSON


def checkpoint_name(step: int) -> str:
    """What the folder of a checkpoint is called."""
    return f"step-{step:06d}"


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """The folders of all checkpoints, by step."""
    found = [path for path in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=_step_of)


def seal(
    partial: Path, final: Path, *, run: str, records_bytes: int, planned: bool, state: Any
) -> None:
    """Complete a checkpoint that was written under a temporary name, and give it its own."""
    header = {
        "format": FORMAT,
        "run": run,
        "step": _step_of(final),
        "records_bytes": records_bytes,
        "planned": planned,
        "files": _sizes(partial),
        "state": state,
    }
    text = json_text(header, f"{final / STATE_FILE}", indent=1)
    write_whole(partial / STATE_FILE, text + "\n")
    sync_tree(partial)
    partial.rename(final)
    sync_folder(final.parent)


def read_checkpoint(folder: Path, *, run: str | None = None) -> CheckpointFound:
    """A checkpoint to go on from."""
    path = folder / STATE_FILE
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        written_by, files = header["run"], header["files"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{folder} has no readable {STATE_FILE} ({type(error).__name__}), so training cannot "
            "go on from it; restore it, or begin again in another directory"
        ) from error
    if header["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {header['format']}, and this version reads {FORMAT}; go on with "
            "the version that wrote it"
        )
    if run is not None and written_by != run:
        raise ValueError(
            f"{folder} comes from another run, with another configuration or other inputs; take "
            "it out of this directory"
        )
    there = _sizes(folder)
    for name, size in files.items():
        if name not in there:
            raise ValueError(f"{folder} lacks {name}; restore it, or remove the folder")
        if there[name] != size:
            raise ValueError(
                f"{name} in {folder} has {there[name]} bytes, not the {size} that were written; "
                "restore it, or remove the folder"
            )
    return CheckpointFound(folder, header["step"], header["records_bytes"], header["state"])


def prune(checkpoints: Path, keep_states: int) -> None:
    """Take away what newer checkpoints have made needless."""
    assert keep_states >= 1
    kept = 0
    for place, folder in enumerate(reversed(checkpoint_folders(checkpoints))):
        header = folder / STATE_FILE
        is_planned = not header.is_file() or json.loads(header.read_text("utf-8"))["planned"]
        if place and not is_planned:
            # Renamed first: nobody must take what is left of it for a checkpoint.
            going = folder.with_name(f".{folder.name}.removed")
            folder.rename(going)
            shutil.rmtree(going, ignore_errors=True)
        elif kept >= keep_states:
            # Without its header it is no checkpoint to go on from, so that goes first.
            header.unlink(missing_ok=True)
            shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)
        else:
            kept += 1


def remove_partial(checkpoints: Path) -> None:
    """Remove what a killed process has left half-written, or half-removed."""
    for path in checkpoints.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    found.pop(STATE_FILE, None)
    return found


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


_OPTIMIZER_FOLDER = "optimizer"
_FLOAT_BYTES = 4
# A checkpoint that is tried; what a killed trial leaves goes as partial ones do.
_TRIAL = ".step-trial.partial"


@dataclass(frozen=True, eq=False)
class TrainingState:
    """Saves and loads what changes in a run; every process calls the same methods."""

    model: HookedModel
    engine: Engine
    optimizer: torch.optim.Optimizer
    scaler: Stateful  # of the loss, for float16
    stop: Stateful | None  # the stop rule

    def save(
        self, folder: Path, moments: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> dict[str, Any]:
        here = self.engine.here
        weights = self.engine.weights()
        if wrong := [name for name, weight in weights.items() if not all_finite(weight)]:
            raise ValueError(
                f"{len(wrong)} weights are not finite, {wrong[0]} first, so no checkpoint is "
                "written; the one before is whole: try a lower learning rate"
            )
        if moments is None:
            # Empty before the first update.
            of = self.optimizer.state
            moments = {name: dict(of[p]) for name, p in self._trainable() if p in of}
        states = folder / STATE_FOLDER
        with _disk_errors_as_such():
            if here.is_first:
                write_model(self.model.hf_model, self.model.tokenizer, folder, weights=weights)
                if is_adapted(self.model.hf_model):
                    save_adapters(self.model.hf_model, folder)
                states.mkdir()
            here.wait_for_all()
            if moments:
                with _no_word_about_being_alone():
                    path = states / _OPTIMIZER_FOLDER
                    sharded.save(dict(moments), checkpoint_id=path, no_dist=here.is_alone)
            # Not straight to the file: PyTorch hides an error of the disk behind one of its own.
            buffer = io.BytesIO()
            torch.save(random_states(), buffer)
            (states / _random_file(here.rank)).write_bytes(buffer.getvalue())
        return {
            "processes": here.count,
            "optimized": sorted(moments),
            "scaler": self.scaler.state_dict(),
            "stop": None if self.stop is None else self.stop.state_dict(),
        }

    def try_in(self, checkpoints: Path) -> None:
        """Write a checkpoint, read it back, compare, and take it away."""
        folder, here = checkpoints / _TRIAL, self.engine.here
        moments = self._template([name for name, _ in self._trainable()][:1])
        if here.is_first:
            self._refuse_full(checkpoints)
        try:
            with one_line_for_disk_errors(f"trying a checkpoint in {checkpoints}"):
                if here.is_first:
                    shutil.rmtree(folder, ignore_errors=True)
                    folder.mkdir()
                here.wait_for_all()
                state = self.save(folder, moments)
                here.wait_for_all()
                self._read_back(CheckpointFound(folder, 0, 0, state))
                here.wait_for_all()
        finally:
            if here.is_first:
                shutil.rmtree(folder, ignore_errors=True)

    def _refuse_full(self, checkpoints: Path) -> None:
        weights = sum(p.numel() for p in self.model.hf_model.parameters())
        moments = 2 * sum(p.numel() for _, p in self._trainable())
        needed, free = _FLOAT_BYTES * (weights + moments), shutil.disk_usage(checkpoints).free
        if free < needed:
            raise ValueError(
                f"a checkpoint takes {needed:,} bytes, and the disk of {checkpoints} has {free:,} "
                f"left; free {needed - free:,} or more, or give another folder"
            )

    def _read_back(self, found: CheckpointFound) -> None:
        self._read_moments(found)
        weights = self.engine.weights()
        if not self.engine.here.is_first:
            return
        loaded = read_weights(type(self.model.hf_model), found.path)
        differs = [n for n, t in weights.items() if n in loaded and not torch.equal(t, loaded[n])]
        if differs:
            raise ValueError(
                f"a checkpoint of {self.model.name} would be read as another model: {differs[0]} "
                f"and {len(differs) - 1} more tensors differ; nothing was trained"
            )

    def load(self, found: CheckpointFound) -> None:
        """Go back to a checkpoint; the weights are loaded by `load_weights`, before sharding."""
        self.load_optimizer(found)
        self.scaler.load_state_dict(found.state["scaler"])
        if self.stop is not None:
            self.stop.load_state_dict(found.state["stop"])
        path = found.path / STATE_FOLDER / _random_file(self.engine.here.rank)
        set_random_states(torch.load(path, weights_only=True))

    def load_optimizer(self, found: CheckpointFound) -> None:
        """Take AdamW's moments from a checkpoint, which may be another run's of the same model."""
        template = self._read_moments(found)
        for name, moments in template.items():
            refuse_not_finite(
                {f"{moment} of {name}": whole(values) for moment, values in moments.items()},
                f"the state of AdamW in {found.path}",
                "training cannot go on from it: take another checkpoint",
            )
        for name, parameter in self._trainable():
            if name in template:
                self.optimizer.state[parameter] = template[name]

    def _read_moments(self, found: CheckpointFound) -> dict[str, dict[str, Tensor]]:
        template = self._template(found.state["optimized"])
        if template:
            with _no_word_about_being_alone():
                path = found.path / STATE_FOLDER / _OPTIMIZER_FOLDER
                sharded.load(template, checkpoint_id=path, no_dist=self.engine.here.is_alone)
        return template

    def _template(self, names: list[str]) -> dict[str, dict[str, Tensor]]:
        """Tensors to load AdamW's state into, laid out as AdamW itself does."""
        parameters = dict(self._trainable())
        return {
            name: {
                "step": torch.zeros((), device=parameters[name].device),
                "exp_avg": torch.zeros_like(parameters[name]),
                "exp_avg_sq": torch.zeros_like(parameters[name]),
            }
            for name in names
        }

    def _trainable(self) -> list[tuple[str, Tensor]]:
        named = self.model.hf_model.named_parameters()
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def refuse_other_processes(found: CheckpointFound) -> None:
    """Make sure that as many processes go on as there were."""
    then, now = found.state["processes"], this_process().count
    if then != now:
        raise ValueError(
            f"{found.path} was written by {then} processes, and {now} would go on; start as many "
            "again (torchrun --nproc-per-node)"
        )


def read_weights(kind: type[Any], folder: Path) -> dict[str, Tensor]:
    """The state dict that transformers loads from a checkpoint, in float32."""
    with quiet_transformers():
        loaded = load_whole(kind, folder, name="it", dtype=torch.float32, use_safetensors=True)
    return loaded.state_dict()


def load_weights(model: HookedModel, folder: Path) -> None:
    """Put the weights of a checkpoint into a model of the same shape, in place."""
    hf_model = model.hf_model
    if is_adapted(hf_model):
        load_adapters(hf_model, folder)
        return
    try:
        # Into the tensors that are there: some results depend on where in memory they lie.
        hf_model.load_state_dict(read_weights(type(hf_model), folder))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = what_is_wrong(folder) or " ".join(str(error).split())
        raise ValueError(
            f"the weights in {folder} do not fit this model ({reason}); "
            "restore them, or begin again in another directory"
        ) from error


def _random_file(rank: int) -> str:
    return f"random-{rank:05d}.pt"


@contextmanager
def _no_word_about_being_alone() -> Iterator[None]:
    """One process without a group is what we ask for; PyTorch warns that it is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
        yield


@contextmanager
def _disk_errors_as_such() -> Iterator[None]:
    """Bring to light the errors of the disk that the libraries which write for us wrap."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        disk = next((cause for cause in causes if isinstance(cause, OSError)), None)
        if disk is None:
            raise
        raise disk from error
