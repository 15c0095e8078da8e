"""Knowledge scores: K of every exposure and kind of probe, with intervals.

K of a group is the mean over its passages of the mean over a passage's probes in the group, in
nats. The paper reports it once for all passages (`by=()`) and by exposure; the kinds of probe
(memorization, semantic, compositional) are its depths. Intervals draw passages.

Source: Kim et al., "Knowledge Entropy Decay during Language Model Pretraining Hinders New Knowledge
Acquisition", ICLR 2025: appendix B.2, Figure 11.

Example:
    >>> import pandas as pd
    >>> table = pd.DataFrame({
    ...     "exposure": ["once"] * 4, "kind": ["semantic"] * 4, "passage": [0, 0, 1, 1],
    ...     "probe": [0, 1, 0, 1], "log_prob": [-4.0, -2.0, -5.0, -7.0],
    ... })
    >>> knowledge_scores(table)[["exposure", "kind", "score", "passages", "probes"]]
      exposure      kind  score  passages  probes
    0     once  semantic   -4.5         2       4
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from analysis.metrics import PROBE_TABLE, Items
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap

COLUMNS = ("score", "low", "high", "passages", "probes")


def knowledge_scores(
    table: pd.DataFrame,
    by: Sequence[str] = ("exposure", "kind"),
    *,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> pd.DataFrame:
    """K of every group of probes.

    Args:
        table: one row per probe, in the layout of `analysis.metrics.PROBE_TABLE`; with `step`
            among `by`, one row per step and probe.
        by: columns whose values make the groups; empty for the whole table.
        bootstrap: how intervals are made.

    Returns:
        One row per group, in the order of the table: the columns of `by`, then `score`, `low` and
        `high` in nats (missing from fewer than two passages), `passages` and `probes`.

    Raises:
        ValueError: a column is missing, or a group is no table of probes: a probe is there twice, a
            log-probability is not finite, or held-out passages are mixed with others.
    """
    if missing := [name for name in by if name not in table.columns]:
        raise ValueError(
            f"groups need the columns {', '.join(by)}, found "
            f"{', '.join(map(str, table.columns)) or 'none'}; add {', '.join(missing)}"
        )
    rows = [
        (*values, *_described(PROBE_TABLE.items(group), bootstrap))
        for values, group in _groups(table, list(by))
    ]
    return pd.DataFrame(rows, columns=[*by, *COLUMNS]).astype({"low": float, "high": float})


def _groups(table: pd.DataFrame, by: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    if not by:
        yield (), table
        return
    yield from table.groupby(by, sort=False, dropna=False, observed=True)


def _described(
    items: Items, bootstrap: ClusterBootstrap
) -> tuple[float, float | None, float | None, int, int]:
    weighted = (items.weights * items.means)[:, None]
    drawn = bootstrap.resampled_sums(weighted, items.strata)[:, 0]
    found = bootstrap.interval(drawn, len(items.means), items.strata)
    low, high = (found.low, found.high) if found else (None, None)
    return items.score, low, high, len(items.means), items.n_items
