"""Random states: those of PyTorch, its GPUs, NumPy and Python, taken and put back together.

Dropout draws from PyTorch's global generator, and what a user's data or observers draw from is
theirs to choose; so all of them belong to a run's state.

Example:
    >>> import random
    >>> before = random_states()
    >>> first = random.random()
    >>> set_random_states(before)
    >>> random.random() == first
    True
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """All of them, as `torch.save` takes them: tensors, numbers, strings and lists."""
    # NumPy's global generator is nothing that we use; that others do is why it is kept.
    name, keys, *numpy_rest = np.random.get_state(legacy=True)  # noqa: NPY002
    version, internal, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
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
