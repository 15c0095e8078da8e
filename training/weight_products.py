"""Weight products: inner products of vectors that have an entry for every weight of a model.

Gradients are such vectors, and so is the way that weights have moved. Products are added up in
float64 (where a device has it), a bounded number of entries at a time, on the device of the first
vector: the others may lie elsewhere.

Example:
    >>> vectors = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, -1.0])}]
    >>> inner_products(vectors, vectors).tolist()
    [[5.0, 1.0], [1.0, 10.0]]
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from training.kept_weights import Weights
from training.parameter_parts import Part

_VALUES_AT_ONCE = 2**20


def inner_products(
    rows: Sequence[Weights], columns: Sequence[Weights]
) -> Float64[Tensor, "row column"]:
    """Inner products of vectors over all parameters that the first row has, in float64."""
    total = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    for name in rows[0]:
        total += _products(
            [row[name].flatten() for row in rows], [column[name].flatten() for column in columns]
        )
    return total


def products_by_part(
    vectors: Sequence[Weights], parts: Mapping[str, Part]
) -> dict[Part, Float64[Tensor, "vector vector"]]:
    """Inner products of all pairs of vectors, part by part; their sum is that of the whole.

    Args:
        vectors: over the parameters that the first one has, wherever each is.
        parts: the part of each parameter.
    """
    found: dict[Part, Tensor] = {}
    for name in vectors[0]:
        values = [vector[name].flatten() for vector in vectors]
        nothing = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
        found[parts[name]] = found.get(parts[name], nothing) + _products(values, values)
    return found


def _products(
    rows: Sequence[Float[Tensor, "entry"]], columns: Sequence[Float[Tensor, "entry"]]
) -> Float64[Tensor, "row column"]:
    total = torch.zeros(len(rows), len(columns), dtype=torch.float64)
    device = rows[0].device
    # Not every device has float64.
    wide = torch.float32 if device.type == "mps" else torch.float64
    for start in range(0, rows[0].numel(), _VALUES_AT_ONCE):
        left, right = (
            torch.stack([t[start : start + _VALUES_AT_ONCE].to(device, wide) for t in some])
            for some in (rows, columns)
        )
        total += (left @ right.T).double().cpu()
    return total
