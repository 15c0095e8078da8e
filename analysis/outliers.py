"""Means without outliers, by interquartile range, as the papers take them.

A value is an outlier when it lies further outside the quartiles than a multiple of the distance
between them: 1.5 in the paper's text, 2 in its released code. The fences are drawn anew in every
column, so the probes behind a curve change along it; `analysis.fit_forgetting_curve` on the values
themselves keeps them the same.

Source: Chang et al., "How Do Large Language Models Acquire Factual Knowledge During Pretraining?",
NeurIPS 2024, and its released analysis.

Example:
    >>> import numpy as np
    >>> float(mean_without_outliers(np.array([1.0, 2.0, 3.0, 50.0, 2.0]), "official"))
    2.0
"""

from enum import StrEnum

import numpy as np
from jaxtyping import Float
from torch import Tensor

from analysis.arrays import as_float64, like


class OutlierRule(StrEnum):
    """How far outside the quartiles a value may lie."""

    PAPER = "paper"
    """1.5 times the distance between them: the paper's text."""
    OFFICIAL = "official"
    """Twice the distance: the paper's released code."""

    @property
    def multiplier(self) -> float:
        """Distances between the quartiles."""
        return {OutlierRule.PAPER: 1.5, OutlierRule.OFFICIAL: 2.0}[self]


def mean_without_outliers(
    values: Float[Tensor, "probe *column"] | Float[np.ndarray, "probe *column"],
    rule: OutlierRule | str = OutlierRule.PAPER,
) -> Float[Tensor, "*column"] | Float[np.ndarray, "*column"]:
    """Mean over probes of the values within the fences, column by column."""
    wide = as_float64(values)
    rows = wide.reshape(len(wide), -1)
    kept = rows[kept_mask(rows)]
    quartiles = np.percentile(kept, [25, 75], axis=0)
    reach = OutlierRule(rule).multiplier * (quartiles[1] - quartiles[0])
    inside = (kept >= quartiles[0] - reach) & (kept <= quartiles[1] + reach)
    means = (kept * inside).sum(axis=0) / inside.sum(axis=0)
    return like(means.reshape(wide.shape[1:]), values)


def kept_mask(values: Float[np.ndarray, "probe column"]) -> np.ndarray:
    """Which probes are not NaN throughout, `[probe]`."""
    kept = ~np.isnan(values).all(axis=1)
    if not kept.any():
        raise ValueError(
            f"no probe is left, found all {len(values)} NaN; none gained anything, so there is "
            "nothing to keep or to lose"
        )
    if (broken := ~np.isfinite(values[kept]).all(axis=1)).any():
        raise ValueError(
            f"a probe must have finite values throughout or none at all, found {int(broken.sum())} "
            f"of {len(values)} with some; pass what retainability returns"
        )
    return kept
