"""Drawn rows: random rows that are the same for the same seed and place, wherever they are used.

An edit is made as hooks and as weights, tried first and made later; each time it must draw the same
numbers. So a draw depends on the seed and on the place only, and is made on the CPU.

Example:
    >>> import torch
    >>> bool((gaussian((2, 3), 7, "up of layer 0") == gaussian((2, 3), 7, "up of layer 0")).all())
    True
"""

from hashlib import sha256

import torch
from torch import Tensor


def gaussian(shape: tuple[int, ...], seed: int, place: str) -> Tensor:
    """Independent standard normal numbers, float32 on the CPU.

    Args:
        shape: of what is drawn.
        seed: which draw.
        place: what it is for; different places have independent draws.
    """
    digest = sha256(f"{seed} {place}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator)
