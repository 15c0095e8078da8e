r"""Projections and norms: what a linear map or a norm of a model computes, whatever it is made of.

A plain `Linear` or GPT-2's `Conv1D` computes with the `weight` that it stores. One that is pruned,
weight-normed, parametrized or has an adapter around it is asked by running it, in float64, on the
rows of an identity matrix.

With :math:`s = \sqrt{\mathrm{mean}(x^2) + \epsilon}`, the **scale**, of a stream whose mean a
LayerNorm takes off first, the **normalized** stream is :math:`x / s`, and the norm's output is that
times its weight, plus its bias. Some families keep weights less one (Gemma). Which of these a
module does is found by running it on two rows.

Source: Ba et al., arXiv 1607.06450; Zhang and Sennrich, arXiv 1910.07467.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from probes.checking import difference, evaluating, tolerance, wide

_AT_ONCE = 1024  # rows of the identity that a module is run on at once


def is_conv1d(module: Any) -> bool:
    """Whether it is GPT-2's `Conv1D`, which stores `[in, out]`; a `Linear` stores `[out, in]`."""
    return type(module).__name__ == "Conv1D"


def is_plain(module: Any) -> bool:
    """Whether it is a linear map, of PyTorch or transformers, that computes with what it stores."""
    # A `Linear` of a transformers family, such as Falcon's, is one under another name.
    home = type(module).__module__
    own = isinstance(module, nn.Linear) and home.startswith("transformers.models.")
    linear = type(module) is nn.Linear or is_conv1d(module) or own
    return linear and "weight" in module._parameters


def matrix_of(module: Any) -> Float[Tensor, "d_in d_out"]:
    """What a linear map multiplies its input by, as it is now, in the type of its weights."""
    return _linear_map(module)[0]


def bias_of(module: Any) -> Float[Tensor, "d_out"] | None:
    """What a linear map adds, as it is now; None where it has no bias."""
    return _linear_map(module)[1]


def width_in(module: Any) -> int:
    """How many numbers it receives for a position."""
    # An adapter's first matrix, its own or the base's, reads what the whole reads.
    for part in module.modules():
        if shape := _shape(part):
            return shape[0]
    raise ValueError(
        f"a {type(module).__name__} stands where a linear map is needed and holds no matrix; "
        "load the model without it"
    )


def width_out(module: Any) -> int:
    """How many numbers it returns for a position."""
    if shape := _shape(module):
        return shape[1]
    zero = torch.zeros(1, width_in(module), device=device_of(module))
    return run_in_float64(module, zero.double()).shape[-1]


def stored_type(module: Any) -> torch.dtype:
    """The type of its largest parameter: of the base, where an adapter has another."""
    return _largest_parameter(module).dtype


def device_of(module: Any) -> torch.device:
    """The device of a module's largest parameter."""
    return _largest_parameter(module).device


def computed_rows(module: Any, n_rows: int) -> Float[Tensor, "row d_model"]:
    """What an embedding that is not a plain one returns for each of its rows, in its own type."""
    ids = torch.arange(n_rows, device=device_of(module))
    return run_in_float64(module, ids).to(stored_type(module))


def _linear_map(module: Any) -> tuple[Tensor, Tensor | None]:
    if not is_plain(module) and not _makes_its_weight(module):
        return _map_found_by_running(module)
    weight = module.weight
    return weight if is_conv1d(module) else weight.T, module.bias


def _makes_its_weight(module: Any) -> bool:
    """Whether it makes its weight of other parameters before it runs; then that is made now."""
    if not isinstance(module, nn.Linear) and not is_conv1d(module):
        return False
    if parametrize.is_parametrized(module):
        return type(module).__mro__[1] is nn.Linear
    makers = [
        hook
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, BasePruningMethod | WeightNorm | SpectralNorm)
    ]
    with evaluating(module):
        for hook in makers:
            hook(module, ())
    return bool(makers)


@torch.no_grad()
def _map_found_by_running(module: Any) -> tuple[Tensor, Tensor | None]:
    width, device, own = width_in(module), device_of(module), stored_type(module)
    if not own.is_floating_point:
        raise ValueError(
            f"a {type(module).__name__} holds {own}, not floating-point numbers; load the model "
            "without quantization"
        )
    bias = run_in_float64(module, torch.zeros(1, width, dtype=torch.float64, device=device))
    blocks = []
    for start in range(0, width, _AT_ONCE):
        rows = min(_AT_ONCE, width - start)
        some = torch.zeros(rows, width, dtype=torch.float64, device=device)
        some.diagonal(start).fill_(1)
        blocks.append(run_in_float64(module, some) - bias)
    matrix = torch.cat(blocks)
    # Any two inputs tell a linear map from others.
    sample = torch.linspace(-1, 1, 2 * width, dtype=torch.float64, device=device).view(2, width)
    gap = difference(run_in_float64(module, sample), sample @ matrix + bias)
    if not gap <= tolerance(own):
        raise ValueError(
            f"a {type(module).__name__} stands where a linear map is needed and is none: it is off "
            f"by {gap:.2g} of the largest value; load the model without it"
        )
    return matrix.to(own), bias[0].to(own) if bool(bias.any()) else None


class _Forward(nn.Module):
    """A module without the hooks on it, which are for the model's own passes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, received: Tensor) -> Tensor:
        return self.inner.forward(received)


@torch.no_grad()
def run_in_float64(module: nn.Module, received: Tensor) -> Tensor:
    """What it returns in evaluation mode, with its weights and inside of it in float64."""
    alone = _Forward(module)
    state = {**dict(alone.named_parameters()), **dict(alone.named_buffers())}
    wide = {n: t.detach().double() for n, t in state.items() if t.is_floating_point()}
    with evaluating(module):
        return functional_call(alone, wide, (received,)).detach().double()


def _shape(module: Any) -> tuple[int, int] | None:
    """Widths of what a module receives and returns, by the matrix that it holds itself."""
    weight = module._parameters.get("weight")
    if weight is None:
        if is_conv1d(module):
            return module.nx, module.nf
        # Where the weight is made of others, or an adapter shows the base's.
        return (module.in_features, module.out_features) if isinstance(module, nn.Linear) else None
    if weight.ndim != 2:
        return None
    rows, columns = weight.shape
    return (rows, columns) if is_conv1d(module) else (columns, rows)


def _largest_parameter(module: Any) -> Tensor:
    return max(module.parameters(), key=lambda p: (p.is_floating_point(), p.numel()))


class Structure:
    """The modules on the way to a model's parts, as they are now."""

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


@dataclass(frozen=True)
class NormKind:
    """What a norm does."""

    centred: bool  # whether it takes the mean off, as a LayerNorm does
    eps: float
    offset: float  # what is added to its weight


_kinds: "WeakKeyDictionary[nn.Module, NormKind]" = WeakKeyDictionary()


def kind_of(norm: Any, width: int) -> NormKind:
    """What a norm of streams of some width does; what is no norm is refused."""
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
        """A direction to read what the norm receives along, at the scale that it has now."""
        weight = weight_of(self._norm, direction.shape[-1])
        return centred_as(self._kind, direction * weight) / self.scale

    def from_bias(self, direction: Float[Tensor, "d_model"]) -> float:
        """What the norm's bias adds along a direction."""
        bias = getattr(self._norm, "bias", None)
        return 0.0 if bias is None else float(wide(bias.detach()).to(direction) @ direction)
