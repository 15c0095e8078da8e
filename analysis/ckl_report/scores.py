"""What runs acquired: knowledge scores K and acquisition A, by arm, seed, exposure and kind.

K is the mean over passages of the mean score of a passage's probes, in nats. Acquisition is its
change as a share of its size before (`analysis.metrics`, the convention of the paper's tables).
"met" are all passages that were injected; held-out ones, which never were, are a control for what
the corpus alone does to such probes. Intervals draw passages, within their exposures.

Example:
    >>> knowledge, acquired = score_tables(arms)                             # doctest: +SKIP
    >>> acquired[["arm", "moment", "exposure", "value"]]                     # doctest: +SKIP
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.ckl_report.arms import Arm, Moment
from analysis.cluster_bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.item_tables import HELD_OUT, PROBE_TABLE
from analysis.metrics import acquisition
from analysis.run_reading import TrainingRun
from probes.intervals import Interval

MET = "met"
"""All exposures but held out."""
ALL_KINDS = "all"
_KNOWLEDGE = (
    *("arm", "seed", "moment", "step", "exposure", "kind"),
    *("score", "low", "high", "passages", "probes"),
)
_ACQUISITION = (
    *("arm", "seed", "against", "moment", "exposure", "kind"),
    *("value", "low", "high", "before", "after", "passages", "probes"),
)
Group = tuple[str, str, pd.DataFrame]
"""Exposure, kind, and its probes."""


@dataclass(frozen=True)
class _Scores:
    """K of one group of probes at every moment, and under every draw of passages."""

    exposure: str
    kind: str
    moments: Mapping[str, int]
    values: Float[np.ndarray, "moment"]
    drawn: Float[np.ndarray, "replicate moment"]
    strata: Int[np.ndarray, "passage"]
    n_probes: int

    def column(self, moment: str) -> int:
        return list(self.moments).index(moment)

    @property
    def counts(self) -> tuple[int, int]:
        """Passages and probes."""
        return len(self.strata), self.n_probes


def score_tables(
    arms: Sequence[Arm], bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """K at every moment, and A at every moment after the start.

    A is against the start and, of an edited one, against the unedited one as well. Rows of single
    seeds are not taken apart by kind of probe.

    Args:
        arms: the runs.
        bootstrap: how intervals are made.

    Returns:
        Two tables. K: columns `arm`, `seed` (missing for the mean over seeds), `moment`, `step`,
        `exposure` (`met` for all that were injected), `kind` (`all` for all), `score` with `low`
        and `high` in nats, `passages`, `probes`. A: `arm`, `seed`, `against`, `moment`, `exposure`,
        `kind`, `value` with `low` and `high` (shares), `before` and `after` (K in nats),
        `passages`, `probes`.

    Raises:
        ValueError: a score is not finite.
    """
    knowledge: list[tuple[Any, ...]] = []
    acquired: list[tuple[Any, ...]] = []
    for arm, run, seed in units(arms):
        for scores in _scored(arm, run, bootstrap):
            what = (scores.exposure, scores.kind)
            knowledge += [
                (arm.name, seed, moment, step, *what, *_score(scores, moment, bootstrap))
                for moment, step in scores.moments.items()
            ]
            acquired += [
                (
                    arm.name,
                    seed,
                    against,
                    moment,
                    *what,
                    *_change(scores, against, moment, bootstrap),
                )
                for against in arm.compared_with
                for moment in arm.moments
                if moment != Moment.START
            ]
    return (
        typed(pd.DataFrame(knowledge, columns=list(_KNOWLEDGE))),
        typed(pd.DataFrame(acquired, columns=list(_ACQUISITION))),
    )


def probe_groups(probes: pd.DataFrame, *, by_kind: bool = True) -> Iterator[Group]:
    """The probes of every exposure, of all that were met, and of every kind within them.

    Args:
        probes: in the layout of `PROBE_TABLE`.
        by_kind: whether to take kinds apart too.
    """
    met = probes[probes["exposure"] != HELD_OUT]
    exposures = [(MET, met), *probes.groupby("exposure", sort=False)]
    for exposure, rows in exposures:
        yield str(exposure), ALL_KINDS, rows
        if by_kind:
            for kind, some in rows.groupby("kind", sort=False):
                yield str(exposure), str(kind), some


def spread_over_seeds(table: pd.DataFrame, value: str = "value") -> pd.DataFrame:
    """Means over seeds with the `least` and the `most` of single seeds, and their number `seeds`.

    Args:
        table: with rows of single seeds and, their seed missing, of means over them.
        value: the column.
    """
    keys = [name for name in _KEYS if name in table.columns]
    single = table[table["seed"].notna()].groupby(keys, sort=False)[value]
    spread = single.agg(least="min", most="max", seeds="count").reset_index()
    return table[table["seed"].isna()].drop(columns="seed").merge(spread, on=keys, how="left")


_KEYS = ("arm", "against", "moment", "exposure", "kind", "task", "measure")


def units(arms: Sequence[Arm]) -> Iterator[tuple[Arm, TrainingRun | None, int | None]]:
    """Every arm, then each of its runs."""
    for arm in arms:
        yield arm, None, None
        for run, seed in zip(arm.runs, arm.seeds, strict=True):
            yield arm, run, seed


def moments_of(arm: Arm) -> Iterator[tuple[str, int]]:
    """Every moment and its step, the unedited start first where there is one."""
    if arm.is_edited:
        yield Moment.UNEDITED, 0
    yield from arm.moments.items()


def _scored(arm: Arm, run: TrainingRun | None, bootstrap: ClusterBootstrap) -> Iterator[_Scores]:
    moments = dict(moments_of(arm))
    first = arm.probes(Moment.START, run)
    scores = np.stack([arm.probes(moment, run)["log_prob"] for moment in moments], axis=1)
    if not np.isfinite(scores).all():
        of = arm.name if run is None else run.path
        raise ValueError(f"{of} has scores of probes that are not finite; they give no K")
    for exposure, kind, probes in probe_groups(first, by_kind=run is None):
        items = PROBE_TABLE.items(probes)
        passages = pd.factorize(probes["passage"])[0]
        means = (
            np.stack([np.bincount(passages, column) for column in scores[probes.index].T], axis=1)
            / np.bincount(passages)[:, None]
        )
        weighted = items.weights[:, None] * means
        yield _Scores(
            exposure,
            kind,
            moments,
            weighted.sum(axis=0),
            bootstrap.resampled_sums(weighted, items.strata),
            items.strata,
            items.n_items,
        )


def _score(scores: _Scores, moment: str, bootstrap: ClusterBootstrap) -> tuple[Any, ...]:
    place = scores.column(moment)
    interval = bootstrap.interval(scores.drawn[:, place], len(scores.strata), scores.strata)
    return scores.values[place], *bounds(interval), *scores.counts


def _change(
    scores: _Scores, against: str, moment: str, bootstrap: ClusterBootstrap
) -> tuple[Any, ...]:
    places = [scores.column(against), scores.column(moment)]
    before, after = scores.values[places]
    drawn_before, drawn_after = scores.drawn[:, places].T
    value = acquisition(float(before), float(after))
    # A share of a score that may as well have been 0 has no bounds.
    interval = None
    if drawn_before.all():
        shares = (drawn_after - drawn_before) / np.abs(drawn_before)
        interval = bootstrap.interval(shares, len(scores.strata), scores.strata)
    return value, *bounds(interval), before, after, *scores.counts


def bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    """Both ends of an interval; missing where there is none."""
    return (None, None) if interval is None else (interval.low, interval.high)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Missing seeds and bounds in the columns of numbers."""
    kinds: dict[str, Any] = {"seed": "Int64", "low": float, "high": float}
    kinds |= dict.fromkeys(_KEYS, str)
    return table.astype({name: kind for name, kind in kinds.items() if name in table.columns})
