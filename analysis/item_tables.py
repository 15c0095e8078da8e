"""Item tables: from scores of single items to the score of a model, and what an interval needs.

Two layouts are known. `PROBE_TABLE` has one row per knowledge probe, with columns `passage`,
`probe` and `log_prob` (nats), and where they apply `exposure` and `kind`; its score is K, the mean
over passages of the mean over a passage's probes. `TASK_TABLE` has one row per question, with
columns `task`, `item` and `score`; its score is P, the mean over tasks of the mean over items.
`step` and other columns are ignored.

Source: Kim et al., "Knowledge Entropy Decay during Language Model Pretraining Hinders New Knowledge
Acquisition", ICLR 2025: appendix B.2.

Example:
    >>> import pandas as pd
    >>> named = {"passage": [0, 0, 1], "probe": [0, 1, 0]}
    >>> table = pd.DataFrame({**named, "log_prob": [-1.0, -3.0, -4.0]})
    >>> PROBE_TABLE.items(table).score
    -3.0
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

HELD_OUT = "held_out"
"""The exposure of passages that are never shown: a control, not knowledge to acquire."""


@dataclass(frozen=True)
class Items:
    """Scores by cluster, with the weight of each cluster in the score of the whole."""

    means: Float[np.ndarray, "cluster"]
    weights: Float[np.ndarray, "cluster"]
    """They sum to 1."""
    strata: Int[np.ndarray, "cluster"]
    n_items: int

    @property
    def score(self) -> float:
        """The score of the whole: K or P."""
        return float(self.weights @ self.means)


@dataclass(frozen=True)
class TableLayout:
    """Which columns say what an item is, what it belongs to, and how it scored."""

    keys: tuple[str, ...]
    """Together they name an item."""
    optional_keys: tuple[str, ...]
    cluster: tuple[str, ...]
    """What is drawn for an interval; the mean over its items counts once."""
    stratum: str
    """Of what the design fixes the number of clusters."""
    value: str
    equal_strata: bool
    """Whether strata count the same, or clusters do."""

    def items(self, table: pd.DataFrame) -> Items:
        """The scores of a table by cluster.

        Raises:
            ValueError: a column is missing, the table is empty, an item is there twice, a value is
                not finite, a passage has several exposures, or held-out passages are mixed with
                others.
        """
        keyed = self._keyed(table)
        clusters = keyed.groupby(list(self.cluster), sort=False, observed=True)
        means = clusters[self.value].mean().to_numpy(dtype=np.float64)
        strata = np.zeros(len(means), dtype=np.int64)
        if self.stratum in keyed.columns:
            self._check_strata(clusters[self.stratum].nunique())
            strata = pd.factorize(clusters[self.stratum].first())[0].astype(np.int64)
        sizes = np.bincount(strata)
        weights = (
            1 / (len(sizes) * sizes[strata])
            if self.equal_strata
            else 1 / np.full(len(means), len(means), dtype=np.float64)
        )
        return Items(means, weights, strata, len(keyed))

    def paired(self, before: pd.DataFrame, after: pd.DataFrame) -> tuple[Items, Items]:
        """The scores of two tables of the same items, whatever the order of their rows.

        Raises:
            ValueError: as for `items`, or the tables differ in their items.
        """
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
        self._check_held_out(keyed)
        return keyed

    def _check_held_out(self, keyed: pd.DataFrame) -> None:
        if self.stratum not in keyed.columns:
            return
        control = (keyed[self.stratum] == HELD_OUT).mean()
        if 0 < control < 1:
            raise ValueError(
                f"a score of acquired knowledge cannot mix passages that were shown with held-out "
                f"ones, found {control:.0%} of rows held out; filter by {self.stratum}"
            )

    def _check_strata(self, strata: pd.Series) -> None:
        if (strata > 1).any():
            raise ValueError(
                f"every passage must have one {self.stratum}, found {int(strata.max())} for "
                f"passage {strata.idxmax()!r}; give passages names of their own"
            )


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
