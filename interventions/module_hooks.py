"""Module hooks: add to what some rows of a projection give, or give it other rows, for a while.

They need what the projection receives, and so are PyTorch hooks on the module itself: they work on
the native backend only. Gradients reach the rows that are still used.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interventions.mlp_rows import Rows
from probes.choices import Backend
from probes.hooked_model import HookedModel


def require_native(model: HookedModel, kind: str) -> None:
    """Refuse other backends by name.

    Raises:
        ValueError: the model runs on another one.
    """
    if model.backend is not Backend.NATIVE:
        raise ValueError(
            f"{kind} as a hook needs PyTorch hooks on the model's own projections, which backend "
            f"{str(model.backend)!r} does not have; use backend='native'"
        )


def with_rows_added(
    rows: Rows,
    neurons: Int64[Tensor, "n"],
    added: Float[Tensor, "n d_model"],
    added_bias: Float[Tensor, "n"] | None,
) -> RemovableHandle:
    """Have a projection work as if these values had been added to the rows of some neurons.

    Args:
        rows: of which projection.
        neurons: which.
        added: to their rows.
        added_bias: to their biases.
    """
    index, more, more_bias = _placed(rows, neurons, added, added_bias)

    def add(received: Tensor, output: Tensor) -> Tensor:
        if not rows.produces:
            return output + nn.functional.linear(received.index_select(-1, index), more.T)
        by_them = nn.functional.linear(received, more, more_bias)
        return output.index_add(-1, index, by_them.to(output.dtype))

    return _hooked(rows.module, add)


def with_rows_replaced(
    rows: Rows,
    neurons: Int64[Tensor, "n"],
    new: Float[Tensor, "n d_model"],
    new_bias: Float[Tensor, "n"] | None,
) -> RemovableHandle:
    """Have a projection work as if some of its neurons had these rows and biases.

    Args:
        rows: of a projection whose outputs are neurons.
        neurons: which.
        new: their rows.
        new_bias: their biases.
    """
    assert rows.produces
    index, other, other_bias = _placed(rows, neurons, new, new_bias)

    def replace(received: Tensor, output: Tensor) -> Tensor:
        by_them = nn.functional.linear(received, other, other_bias)
        return output.index_copy(-1, index, by_them.to(output.dtype))

    return _hooked(rows.module, replace)


def _hooked(module: Any, function: Callable[[Tensor, Tensor], Tensor]) -> RemovableHandle:
    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return function(args[0], output)

    return module.register_forward_hook(hook)


def _placed(
    rows: Rows, neurons: Tensor, values: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Indices, rows and biases where the projection has its own, once for all forward passes."""
    weight = rows.module.weight
    index = (neurons + rows.first).to(weight.device)
    return index, values.to(weight), None if bias is None else bias.to(weight)
