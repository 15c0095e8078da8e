"""Processes: which one of a training run this is, and what it does together with the others.

`torchrun` starts several processes and says so in their environment; without it there is one. The
same code serves gloo (CPU) and NCCL (GPU).

Example:
    >>> with joined_processes() as here:
    ...     here.rank, here.count, here.is_first
    (0, 1, True)
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
        """Whether there is no other."""
        return self.count == 1

    def wait_for_all(self) -> None:
        """Go on when every process has come here."""
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
    """Where this process computes: of several GPUs, the one that `torchrun` numbers it with."""
    if device.type != "cuda" or this_process().is_alone:
        return device
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the other processes of `torchrun`, if there are any, for the
    length of a `with` block.
    """
    here = this_process()
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ or "MASTER_ADDR" in os.environ
    if dist.is_initialized() or not under_torchrun:
        yield here
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # Checkpoints are put together on the CPU, and gradients on the GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")
    try:
        yield here
    finally:
        dist.destroy_process_group()
