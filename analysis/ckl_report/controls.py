"""Controls: what passages gained that were met, beyond held-out ones that never were.

Training moves the probes of any passage, since it teaches the model to predict such text; only what
passages met gain beyond held-out ones is knowledge of them. Both sorts are drawn for the interval,
each within its exposures.

Example:
    >>> beyond_table(arms)[["arm", "moment", "value", "low", "high"]]        # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.ckl_report.arms import Arm, Moment
from analysis.ckl_report.scores import bounds, typed
from analysis.cluster_bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.item_tables import HELD_OUT, PROBE_TABLE

_COLUMNS = (
    *("arm", "moment", "value", "low", "high", "met", "held_out"),
    *("passages", "held_out_passages"),
)


def beyond_table(
    arms: Sequence[Arm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> pd.DataFrame:
    """Gains since the start of passages met less those of held-out ones, means over seeds.

    Args:
        arms: the runs.
        bootstrap: how intervals are made.

    Returns:
        Columns `arm`, `moment`, `value` with `low` and `high` in nats, `met` and `held_out` (the
        gains), `passages`, `held_out_passages`. Empty where no passage was held out.
    """
    rows = [row for arm in arms for row in _of_arm(arm, bootstrap)]
    return typed(pd.DataFrame(rows, columns=list(_COLUMNS)))


def _of_arm(arm: Arm, bootstrap: ClusterBootstrap) -> Iterator[tuple[Any, ...]]:
    start = arm.probes(Moment.START)
    if not (start["exposure"] == HELD_OUT).any():
        return
    for moment in arm.moments:
        if moment == Moment.START:
            continue
        gained = arm.probes(moment)
        gained = gained.assign(log_prob=gained["log_prob"] - start["log_prob"])
        of = gained["exposure"] == HELD_OUT
        met, held_out = PROBE_TABLE.items(gained[~of]), PROBE_TABLE.items(gained[of])
        values = np.concatenate([met.weights * met.means, -held_out.weights * held_out.means])
        strata = np.concatenate([met.strata, held_out.strata + met.strata.max() + 1])
        drawn = bootstrap.resampled_sums(values[:, None], strata)[:, 0]
        interval = bootstrap.interval(drawn, len(values), strata)
        yield (
            *(arm.name, moment, met.score - held_out.score, *bounds(interval)),
            *(met.score, held_out.score, len(met.means), len(held_out.means)),
        )
