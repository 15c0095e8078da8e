"""Processes: whether a command runs under `torchrun`, and which of its processes may speak.

Example:
    $ torchrun --nproc-per-node 2 -m analysis.entropy --model ... --corpus ... --out ...
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def is_shared() -> bool:
    """Whether several processes share the work."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_watched() -> bool:
    """Whether this process is the one that a person watches."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def process_group() -> Iterator[int]:
    """Join the other processes, if there are any; yields this one's rank."""
    if not is_shared():
        yield 0
        return
    from torch import distributed as dist

    dist.init_process_group("gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()
