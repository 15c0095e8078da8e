"""Processes: which one of a run this is, what it does together with the others, what it draws.

The same code serves gloo (CPU) and NCCL (GPU). Random states of PyTorch, its GPUs, NumPy and Python
are taken and put back together: dropout draws from PyTorch's, and a user's data or observers may
draw from any, so all of them belong to a run's state.
"""

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether this one writes, and speaks to whoever watches."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.count == 1

    def wait_for_all(self) -> None:
        if dist.is_initialized():
            dist.barrier()

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over all processes, in place; the same in each."""
        if not self.is_alone:
            dist.all_reduce(numbers)
        return numbers

    def any_says(self, yes: bool, device: torch.device) -> bool:
        """Whether one of them says yes; the same in each."""
        return bool(self.total(torch.tensor(float(yes), device=device)))


def this_process() -> Processes:
    """Which process this is, as `torchrun` has put it into the environment."""
    return Processes(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def own_device(device: torch.device) -> torch.device:
    """The device of this process: of several GPUs, the one that `torchrun` numbers it with."""
    if device.type != "cuda" or this_process().is_alone:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the other processes of `torchrun`, if there are any, for a `with` block."""
    if dist.is_initialized() or not _under_torchrun():
        yield this_process()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(_backends())
    try:
        yield this_process()
    finally:
        dist.destroy_process_group()


@contextmanager
def group_of_one(wanted: bool) -> Iterator[None]:
    """A group of this process alone for a `with` block, where `torchrun` has started none."""
    if not wanted or dist.is_initialized() or _under_torchrun():
        yield
        return
    store = dist.HashStore()
    dist.init_process_group(_backends(), store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ or "MASTER_ADDR" in os.environ


def _backends() -> str:
    # Checkpoints are put together on the CPU, and gradients on the GPU.
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def random_states() -> dict[str, Any]:
    """All of them, as `torch.save` takes them: tensors, numbers, strings and lists."""
    # NumPy's global generator is nothing that we use; that others do is why it is kept.
    name, keys, *numpy_rest = np.random.get_state(legacy=True)  # noqa: NPY002
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *numpy_rest],
        "python": [version, list(internal), gauss],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put them back."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *numpy_rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *numpy_rest))  # noqa: NPY002
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_all(seed: int) -> None:
    """Begin again from a seed."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Let nothing that happens in a `with` block be seen in what is drawn after it."""
    before = random_states()
    try:
        yield
    finally:
        set_random_states(before)
