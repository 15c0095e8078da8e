"""Arrays: what is given, as torch or NumPy, becomes float64, and results go back as they came.

Example:
    >>> import torch
    >>> like(as_float64(torch.ones(2, dtype=torch.bfloat16)) + 1, torch.ones(2))
    tensor([2., 2.], dtype=torch.float64)
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

Numbers: TypeAlias = Sequence[float | int] | np.ndarray | Tensor


def as_float64(values: Numbers) -> np.ndarray:
    """The values as a float64 array, whatever their type and device."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def as_whole_numbers(values: Numbers, what: str) -> np.ndarray:
    """The values as an int64 array."""
    wide = as_float64(values)
    if not wide.size:
        raise ValueError(f"{what} are empty; pass at least one")
    wrong = ~np.isfinite(wide) | (wide < 0) | (wide != np.floor(wide))
    if wrong.any():
        raise ValueError(
            f"{what} must be whole numbers of at least 0, found {wide[wrong].flat[0]}; they count "
            "updates"
        )
    return wide.astype(np.int64)


def like(found: np.ndarray, given: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """An array as the kind of thing that was given: a tensor on its device, or an array."""
    return torch.from_numpy(found).to(given.device) if isinstance(given, Tensor) else found
