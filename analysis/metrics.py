"""Acquisition and forgetting: by what share did a model's score change in training?

With K a model's knowledge score, the mean log-probability of probe targets in nats (negative), and
P its downstream score, the mean over tasks of accuracies,

    A = (K_after - K_before) / |K_before|,    F = -(P_after - P_before) / |P_before|.

The paper prints the denominators without the bars, which makes its own A negative
(`Convention.PRINTED`). `before` decides what the number means: an edit that damages the base makes
A large. Of tables of items both come with an interval, which draws passages (or questions, within
their task), the same ones before and after.

Source: Kim et al., ICLR 2025: Eq. 4, Eq. 5, Tables 1 and 2.

Example:
    >>> round(acquisition(-0.375, -0.281), 3), round(forgetting(60.3, 54.0), 3)
    (0.251, 0.104)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias, overload

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.significance import DEFAULT_BOOTSTRAP, ClusterBootstrap
from probes.choices import as_choice
from probes.corpus_means import Interval
from probes.refusals import shown
from probes.shown import Shown

HELD_OUT = "held_out"
"""The exposure of passages that are never shown: a control, not knowledge to acquire."""


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


@dataclass(frozen=True)
class Items:
    """Scores by cluster, with the weight of each cluster in the score of the whole, in sum 1."""

    means: Float[np.ndarray, "cluster"]
    weights: Float[np.ndarray, "cluster"]
    strata: Int[np.ndarray, "cluster"]
    n_items: int

    @property
    def score(self) -> float:
        """The score of the whole: K or P."""
        return float(self.weights @ self.means)


@dataclass(frozen=True)
class TableLayout:
    """Which columns say what an item is, what it belongs to, and how it scored."""

    keys: tuple[str, ...]  # together they name an item, with `optional_keys` where these are there
    optional_keys: tuple[str, ...]
    cluster: tuple[str, ...]  # what is drawn for an interval; the mean over its items counts once
    stratum: str  # the design fixes how many clusters each has
    value: str  # the score
    equal_strata: bool  # whether strata count the same, or clusters do

    def items(self, table: pd.DataFrame) -> Items:
        keyed = self._keyed(table)
        clusters = keyed.groupby(list(self.cluster), sort=False, observed=True)
        means = clusters[self.value].mean().to_numpy(dtype=np.float64)
        strata = np.zeros(len(means), dtype=np.int64)
        if self.stratum in keyed.columns:
            several = clusters[self.stratum].nunique()
            if (several > 1).any():
                raise ValueError(
                    f"every passage must have one {self.stratum}, found {int(several.max())} for "
                    f"passage {several.idxmax()!r}; give passages names of their own"
                )
            strata = pd.factorize(clusters[self.stratum].first())[0].astype(np.int64)
        sizes = np.bincount(strata)
        weights = np.full(len(means), 1 / len(means))
        if self.equal_strata:
            weights = 1 / (len(sizes) * sizes[strata])
        return Items(means, weights, strata, len(keyed))

    def paired(self, before: pd.DataFrame, after: pd.DataFrame) -> tuple[Items, Items]:
        """The scores of two tables of the same items, whatever the order of their rows."""
        keys = self._present_keys(before)
        if keys != self._present_keys(after):
            raise ValueError(
                f"before and after must name items alike, found the columns {keys} and "
                f"{self._present_keys(after)}; pass two tables with the same columns"
            )
        first = self._keyed(before).set_index(keys, drop=False)
        second = self._keyed(after).set_index(keys, drop=False)
        if len(unpaired := first.index.symmetric_difference(second.index, sort=False)):
            raise ValueError(
                f"before and after must hold the same items, found {len(first)} and "
                f"{len(second)}, of which {len(unpaired)} are in one table only (such as "
                f"{unpaired[0]!r}); pass the same probes or questions to both"
            )
        return self.items(first), self.items(second.loc[first.index])

    def _present_keys(self, table: pd.DataFrame) -> list[str]:
        return [*self.keys, *(key for key in self.optional_keys if key in table.columns)]

    def _keyed(self, table: pd.DataFrame) -> pd.DataFrame:
        keyed = table.reset_index(drop=True)
        if missing := [name for name in (*self.keys, self.value) if name not in keyed.columns]:
            raise ValueError(
                f"a table of items needs the columns {', '.join((*self.keys, self.value))}, found "
                f"{', '.join(map(str, table.columns)) or 'none'}; add {', '.join(missing)}"
            )
        if keyed.empty:
            raise ValueError("a table of items has no rows; pass at least one item")
        keys = self._present_keys(keyed)
        if (twice := keyed.duplicated(keys)).any():
            raise ValueError(
                f"every item must be there once, found {int(twice.sum())} of {len(keyed)} rows "
                f"repeated (such as {_named(keyed.loc[twice.idxmax()], keys)}); pass one step and "
                "one run at a time"
            )
        if (wrong := ~np.isfinite(keyed[self.value].to_numpy(dtype=np.float64))).any():
            raise ValueError(
                f"column {self.value} must be finite, found {int(wrong.sum())} of {len(keyed)} "
                f"values that are not (such as {_named(keyed.loc[wrong.argmax()], keys)}); leave "
                "those items out of both tables"
            )
        control = 0.0
        if self.stratum in keyed.columns:
            control = (keyed[self.stratum] == HELD_OUT).mean()
        if 0 < control < 1:
            raise ValueError(
                f"a score of acquired knowledge cannot mix passages that were shown with held-out "
                f"ones, found {control:.0%} of rows held out; filter by {self.stratum}"
            )
        return keyed


PROBE_TABLE = TableLayout(
    keys=("passage", "probe"),
    optional_keys=("kind",),
    cluster=("passage",),
    stratum="exposure",
    value="log_prob",
    equal_strata=False,
)
TASK_TABLE = TableLayout(
    keys=("task", "item"),
    optional_keys=(),
    cluster=("task", "item"),
    stratum="task",
    value="score",
    equal_strata=True,
)


def array_items(values: Float[np.ndarray, "cluster *item"]) -> Items:
    """Scores given as an array: the first axis is what an interval draws from."""
    if not np.isfinite(values).all():
        raise ValueError(
            "scores of items must be finite, found values that are not; leave them out"
        )
    means = values.reshape(len(values), -1).mean(axis=1)
    return Items(
        means, np.full(len(means), 1 / len(means)), np.zeros(len(means), np.int64), values.size
    )


def _named(row: pd.Series, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {row[key]}" for key in keys)


Number: TypeAlias = float | int | np.number
ItemScores: TypeAlias = pd.DataFrame | np.ndarray | Tensor


class Convention(StrEnum):
    """What a change of a score is divided by."""

    TABLES = "tables"  # the absolute value of the score before, as in the paper's Table 1
    PRINTED = "printed"  # the score before, with its sign, as in the paper's Eq. 4 and Eq. 5


@dataclass(frozen=True)
class ScoreChange(Shown):
    """A change of a score, as a share of the score before."""

    value: float
    interval: Interval | None  # None from one passage or question, or where draws score 0 before
    before: float  # K in nats, or P
    after: float
    n_clusters: int  # passages, or questions
    n_items: int

    def __float__(self) -> float:
        return self.value


@overload
def acquisition(
    before: Number, after: Number, *, convention: Any = ..., bootstrap: Any = ...
) -> float: ...


@overload
def acquisition(
    before: ItemScores, after: ItemScores, *, convention: Any = ..., bootstrap: Any = ...
) -> ScoreChange: ...


def acquisition(
    before: Number | ItemScores,
    after: Number | ItemScores,
    *,
    convention: Convention | str = Convention.TABLES,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> float | ScoreChange:
    """Acquisition A: the rise of the knowledge score, as a share of its size before.

    Args:
        before: K in nats; or the log-probabilities behind it, as a table of probes
            (`analysis.metrics.PROBE_TABLE`) or an array `[passage ...]`.
        after: the same, after training.
        convention: what to divide by.
        bootstrap: how the interval is made.

    Returns:
        A share, positive for acquired; from items, with its interval.

    Raises:
        ValueError: a score is not finite, the score before is 0, or the tables do not pair.
    """
    return _change(before, after, PROBE_TABLE, 1, convention, bootstrap)


@overload
def forgetting(
    before: Number, after: Number, *, convention: Any = ..., bootstrap: Any = ...
) -> float: ...


@overload
def forgetting(
    before: ItemScores, after: ItemScores, *, convention: Any = ..., bootstrap: Any = ...
) -> ScoreChange: ...


def forgetting(
    before: Number | ItemScores,
    after: Number | ItemScores,
    *,
    convention: Convention | str = Convention.TABLES,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> float | ScoreChange:
    """Forgetting F: the fall of the downstream score, as a share of its size before.

    Args:
        before: P, in any unit; or the scores behind it, as a table of questions
            (`analysis.metrics.TASK_TABLE`) or an array `[item ...]` of one task.
        after: the same, after training.
        convention: what to divide by; it matters for negative scores only.
        bootstrap: how the interval is made.

    Returns:
        A share, positive for forgotten; from items, with its interval.

    Raises:
        ValueError: a score is not finite, the score before is 0, or the tables do not pair.
    """
    return _change(before, after, TASK_TABLE, -1, convention, bootstrap)


def _change(
    before: Number | ItemScores,
    after: Number | ItemScores,
    layout: TableLayout,
    sign: int,
    convention: Convention | str,
    bootstrap: ClusterBootstrap,
) -> float | ScoreChange:
    convention = as_choice(Convention, convention, "convention")
    numbers = [_as_number(score) for score in (before, after)]
    if numbers[0] is not None and numbers[1] is not None:
        return sign * _relative(numbers[0], numbers[1], convention)
    first, second = _paired(before, after, layout)
    value = sign * _relative(first.score, second.score, convention)
    weighted = first.weights[:, None] * np.stack([first.means, second.means], axis=1)
    earlier, later = bootstrap.resampled_sums(weighted, first.strata).T
    interval = None
    # A share of a score that may as well have been 0 has no bounds.
    if not (earlier == 0).any():
        over = np.abs(earlier) if convention is Convention.TABLES else earlier
        shares = sign * (later - earlier) / over
        interval = bootstrap.interval(shares, len(first.means), first.strata)
    return ScoreChange(
        value=value,
        interval=interval,
        before=first.score,
        after=second.score,
        n_clusters=len(first.means),
        n_items=first.n_items,
    )


def _relative(before: float, after: float, convention: Convention) -> float:
    if before == 0:
        raise ValueError(
            "a change cannot be a share of a score of 0, found 0 before; report the difference"
        )
    return (after - before) / (abs(before) if convention is Convention.TABLES else before)


def _as_number(score: Number | ItemScores) -> float | None:
    """The score, where it is one number; None where it is one of items."""
    if isinstance(score, pd.DataFrame) or np.ndim(score) > 0:
        return None
    if not isinstance(score, Real | np.number | Tensor | np.ndarray):
        raise ValueError(f"a score is {shown(score)}; give numbers, tables or arrays")
    if not isfinite(number := float(score)):
        raise ValueError(f"a score must be finite, found {number}; pass K or P of a whole model")
    return number


def _paired(
    before: Number | ItemScores, after: Number | ItemScores, layout: TableLayout
) -> tuple[Items, Items]:
    if isinstance(before, pd.DataFrame) and isinstance(after, pd.DataFrame):
        return layout.paired(before, after)
    if (
        isinstance(before, np.ndarray | Tensor)
        and isinstance(after, np.ndarray | Tensor)
        and before.shape == after.shape
        and 0 not in before.shape
    ):
        return array_items(as_float64(before)), array_items(as_float64(after))
    raise ValueError(
        f"before and after must be two numbers, two tables or two arrays of one shape, found "
        f"{_described(before)} and {_described(after)}; pass the same items to both"
    )


def _described(score: Number | ItemScores) -> str:
    if isinstance(score, pd.DataFrame):
        return "a table"
    return f"an array {list(np.shape(score))}" if np.ndim(score) else "a number"
