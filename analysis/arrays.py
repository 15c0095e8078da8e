"""Arrays: what is given, as torch or NumPy, becomes float64, and results go back as they came.

Also means without outliers, by interquartile range, as the papers take them. The fences are drawn
anew in every column, so the probes behind a curve change along it; `analysis.fit_forgetting_curve`
on the values themselves keeps them the same.

Source: Chang et al., "How Do Large Language Models Acquire Factual Knowledge During Pretraining?",
NeurIPS 2024, and its released analysis.

Example:
    >>> import torch
    >>> like(as_float64(torch.ones(2, dtype=torch.bfloat16)) + 1, torch.ones(2))
    tensor([2., 2.], dtype=torch.float64)
    >>> float(mean_without_outliers(np.array([1.0, 2.0, 3.0, 50.0, 2.0]), "official"))
    2.0
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.refusals import shown

Numbers: TypeAlias = Sequence[float | int] | np.ndarray | Tensor


def as_float64(values: Numbers) -> np.ndarray:
    """The values as a float64 array, whatever their type and device."""
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64).numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"found {shown(values)} where numbers are wanted; give a list") from None


def as_whole_numbers(values: Numbers, what: str) -> np.ndarray:
    """The values as an int64 array."""
    wide = np.atleast_1d(as_float64(values))
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
