r"""Norms: what a LayerNorm or an RMSNorm divides a stream by, and the stream before its weight.

A LayerNorm takes the mean off a stream first. With :math:`s = \sqrt{\mathrm{mean}(x^2) +
\epsilon}`, the **scale**, the **normalized** stream is :math:`x / s`, and the norm's output is that
times its weight, plus its bias. Some families keep weights less one (Gemma). Which of these a
module does is found by running it on two rows.

Source: Ba et al., arXiv 1607.06450; Zhang and Sennrich, arXiv 1910.07467.

Example:
    >>> import torch
    >>> norm = torch.nn.LayerNorm(2, eps=0.0)
    >>> NormRun(norm, torch.tensor([[1.0, 5.0]])).scale.tolist()
    [[2.0]]
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.checking import difference, tolerance, wide
from probes.projections import run_in_float64


@dataclass(frozen=True)
class NormKind:
    """What a norm does."""

    centred: bool
    """Whether it takes the mean off, as a LayerNorm does."""
    eps: float
    offset: float
    """What is added to its weight."""


_kinds: "WeakKeyDictionary[nn.Module, NormKind]" = WeakKeyDictionary()


def kind_of(norm: Any, width: int) -> NormKind:
    """What a norm of streams of some width does.

    Raises:
        ValueError: it is neither a LayerNorm nor an RMSNorm.
    """
    if norm not in _kinds:
        _kinds[norm] = _found_by_running(norm, width)
    return _kinds[norm]


@torch.no_grad()
def _found_by_running(norm: Any, width: int) -> NormKind:
    device = next((p.device for p in norm.parameters()), None)
    row = torch.linspace(-1, 2, width, dtype=torch.float64, device=device)
    # The second row is so small that what is added to its variance matters.
    rows = torch.stack([row, row * 1e-3])
    output = run_in_float64(norm, rows)
    known = (getattr(norm, name, None) for name in ("eps", "variance_epsilon"))
    eps = next((value for value in known if value is not None), 1e-5)
    for centred in (False, True):
        for offset in (0.0, 1.0):
            kind = NormKind(centred, float(eps), offset)
            normalized = _divided(rows, kind)[1]
            # Many families compute in float32, whatever they get.
            if difference(_weighted(norm, kind, normalized), output) < tolerance(torch.float32):
                return kind
    raise ValueError(
        f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm, so it has no scale to show; "
        "read the stream before it and after it"
    )


def _divided(received: Tensor, kind: NormKind) -> tuple[Tensor, Tensor]:
    """The scale and the normalized stream."""
    centred = centred_as(kind, wide(received))
    scale = (centred.pow(2).mean(dim=-1, keepdim=True) + kind.eps).sqrt()
    return scale, centred / scale


def centred_as(
    kind: NormKind, stream: Float[Tensor, "*rest d_model"]
) -> Float[Tensor, "*rest d_model"]:
    """A stream, without its mean where the norm takes that off."""
    return stream - stream.mean(dim=-1, keepdim=True) if kind.centred else stream


def weight_of(norm: Any, width: int) -> Float[Tensor, "d_model"] | float:
    """What a norm multiplies a normalized stream by."""
    weight = getattr(norm, "weight", None)
    return 1.0 if weight is None else weight + kind_of(norm, width).offset


def _weighted(norm: Any, kind: NormKind, normalized: Tensor) -> Tensor:
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    output = normalized if weight is None else normalized * (weight + kind.offset)
    return output if bias is None else output + bias


class NormRun:
    """One run of a norm, whose scale and normalized stream can be replaced."""

    def __init__(self, norm: Any, received: Float[Tensor, "*rest d_model"]) -> None:
        self._norm, self._received = norm, received
        self._kind = kind_of(norm, received.shape[-1])
        self.scale, self.normalized = _divided(received, self._kind)

    def with_scale(self, scale: Tensor) -> Tensor:
        """What the norm returns with another scale, which its normalized stream follows."""
        self.scale = scale
        return self.with_normalized(centred_as(self._kind, wide(self._received)) / scale)

    def with_normalized(self, normalized: Tensor) -> Tensor:
        """What the norm returns with another normalized stream."""
        self.normalized = normalized
        return _weighted(self._norm, self._kind, normalized).to(self._received.dtype)

    def pulled_back(self, direction: Float[Tensor, "*rest d_model"]) -> Tensor:
        """A direction to read what the norm receives along, at the scale it has now.

        The product of a part of the stream with it is what the part adds along `direction` in what
        the norm returns.
        """
        weight = weight_of(self._norm, direction.shape[-1])
        return centred_as(self._kind, direction * weight) / self.scale

    def from_bias(self, direction: Float[Tensor, "d_model"]) -> float:
        """What the norm's bias adds along a direction."""
        bias = getattr(self._norm, "bias", None)
        return 0.0 if bias is None else float(wide(bias.detach()).to(direction) @ direction)
