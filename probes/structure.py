"""Structure: are a model's modules still those that it was located in?

Adapters, another head, a layer taken out: whoever changes a model puts other modules in the places
of some. Looking for that is a comparison of a few dictionaries, so it is done whenever a model is
used.

Example:
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> structure = Structure(model, [model[0]])
    >>> model[1] = torch.nn.Identity()
    >>> structure.is_unchanged()
    False
"""

from collections.abc import Iterable
from typing import Any

from torch import nn


class Structure:
    """The modules on the way to a model's parts, as they are now.

    Args:
        root: the model.
        parts: modules in it.
    """

    def __init__(self, root: nn.Module, parts: Iterable[Any]) -> None:
        wanted = {id(part) for part in parts}
        named = list(root.named_modules())
        leading = {name for name, module in named if id(module) in wanted}
        leading |= {name[:i] for name in leading for i, sign in enumerate(name) if sign == "."}
        leading.add("")
        self._now = [m._modules for name, m in named if m._modules and name in leading]
        self._seen = [dict(held) for held in self._now]

    def is_unchanged(self) -> bool:
        """Whether these modules hold the same ones."""
        return self._now == self._seen
