"""Captured: the tensors of one forward pass, by hook point."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from probes.sites import HookPoint, Site, as_site, hook_name, parse_hook_point


class Captured(Mapping[HookPoint, Tensor]):
    """Tensors by hook point; `(site, layer)` and TransformerLens names work as keys too.

    Iteration yields hook points, in the order in which they were asked for.
    """

    def __init__(self, tensors: Mapping[HookPoint, Tensor], *, gated: bool) -> None:
        self._tensors = dict(tensors)
        self._gated = gated

    def __getitem__(self, key: Any) -> Tensor:
        point = self._point(key)
        if point not in self._tensors:
            raise KeyError(f"{key!r} was not captured; captured are {', '.join(self.names())}")
        return self._tensors[point]

    def __iter__(self) -> Iterator[HookPoint]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        try:
            return self._point(key) in self._tensors
        except ValueError:
            return False

    def __repr__(self) -> str:
        shapes = (f"{n}: {tuple(self[n].shape)}" for n in self.names())
        return f"Captured({', '.join(shapes)})"

    def names(self) -> list[str]:
        """The TransformerLens names of what was captured."""
        return [hook_name(point, gated=self._gated) for point in self._tensors]

    def _point(self, key: Any) -> HookPoint:
        if isinstance(key, str) and key not in set(Site):
            return parse_hook_point(key, gated=self._gated)
        site, layer = (key, None) if isinstance(key, str) else key
        return HookPoint(as_site(site), layer)
