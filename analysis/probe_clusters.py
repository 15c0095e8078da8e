"""Probe clusters: sums over the probes of each passage, from which any mean over probes follows.

A weighted mean over probes is a ratio of two sums, and both add up over passages; drawing passages
is then drawing sums, however many probes there are.

Example:
    >>> import numpy as np
    >>> shares = np.array([[1.0, 0.5], [1.0, 0.3], [1.0, 0.1]])
    >>> cluster_sums(shares, passages=["a", "a", "b"]).values.tolist()
    [[2.0, 0.8], [1.0, 0.1]]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Real
from torch import Tensor

from analysis.arrays import as_float64
from analysis.outliers import kept_mask

Passages: TypeAlias = Sequence[object] | np.ndarray | Tensor | pd.Series
Weights: TypeAlias = Real[Tensor, "..."] | Real[np.ndarray, "..."]


@dataclass(frozen=True)
class ClusterSums:
    """Weighted sums over the probes of each cluster."""

    values: Float[np.ndarray, "cluster offset"]
    weights: Float[np.ndarray, "cluster"]
    n_probes: int

    @property
    def mean(self) -> Float[np.ndarray, "offset"]:
        """The weighted mean over all probes."""
        return self.values.sum(axis=0) / self.weights.sum()


def cluster_sums(
    values: Float[np.ndarray, "*probe offset"],
    passages: Passages | None = None,
    weights: Weights | None = None,
) -> ClusterSums:
    """Sums over the probes of each passage."""
    shape = values.shape[:-1]
    rows = values.reshape(-1, values.shape[-1])
    kept = kept_mask(rows)
    counts = _checked_weights(weights, shape, kept)[kept]
    clusters = np.unique(_names(passages, shape)[kept], return_inverse=True)[1]
    sums = np.zeros((clusters.max() + 1, rows.shape[1]))
    np.add.at(sums, clusters, counts[:, None] * rows[kept])
    totals = np.bincount(clusters, weights=counts)
    # A passage that counts nothing is no passage to draw.
    return ClusterSums(sums[totals > 0], totals[totals > 0], int((counts > 0).sum()))


def _names(passages: Passages | None, shape: tuple[int, ...]) -> np.ndarray:
    if passages is None:
        return np.arange(int(np.prod(shape)))
    found = np.asarray(passages)
    if found.shape != shape:
        raise ValueError(
            f"passages must name one passage per probe, found {list(found.shape)} for probes "
            f"{list(shape)}; leave them out for a single curve"
        )
    return found.reshape(-1)


def _checked_weights(
    weights: Weights | None, shape: tuple[int, ...], kept: np.ndarray
) -> np.ndarray:
    if weights is None:
        return np.ones(len(kept))
    found = as_float64(weights)
    if found.shape != shape:
        raise ValueError(
            f"weights must be one number per probe, found {list(found.shape)} for probes "
            f"{list(shape)}; pass net_gain of the same log-probabilities"
        )
    used = found.reshape(-1)[kept]
    if not (np.isfinite(used).all() and (used >= 0).all() and used.any()):
        raise ValueError(
            f"weights must be finite, at least 0 and not all 0, found {used.min():.3g} to "
            f"{used.max():.3g}; net gains are, for the probes that retainability keeps"
        )
    return found.reshape(-1)
