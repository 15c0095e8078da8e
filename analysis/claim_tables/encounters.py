"""What each encounter with a passage added and how it was lost again, as rows of `ACQUISITION`.

Numbers are those of `analysis.encounter_measures`. Where looks are too far apart for two of
them in a window (`analysis.encounter_measures`) there are none, and none of held-out passages.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from analysis.ckl_measures import ALL_KINDS, PassageMeans
from analysis.encounter_measures import NET_GAIN, PER_PASSAGE, look_grid, passage_gains
from analysis.forgetting_curve import DecayModel, ForgettingCurve
from analysis.runs import TrainingRun


class Row(NamedTuple):
    """A value; what does not apply to it is None."""

    measure: str
    value: float
    exposure: str | None = None
    kind: str | None = None
    moment: str | None = None
    against: str | None = None
    cluster: str | None = None
    spacing: str | None = None


def encounter_rows(run: TrainingRun, means: PassageMeans, spacing: str | None) -> Iterator[Row]:
    """Effectivity, rise, fall and net gain of every passage that a run met."""
    grid = look_grid([run])
    if isinstance(grid, str):
        return
    by_passage = means.of(passage_gains(run, grid))
    for measure, column in zip(PER_PASSAGE, by_passage.T.tolist(), strict=True):
        of = spacing if measure == NET_GAIN else None
        for group, value in zip(means.groups, column, strict=True):
            if not np.isnan(value):
                yield Row(measure, value, *group[:2], cluster=group.cluster, spacing=of)


def curve_rows(curves: Mapping[str, ForgettingCurve]) -> Iterator[Row]:
    """Slopes of forgetting curves, and what speaks for a line."""
    for exposure, curve in curves.items():
        line = curve.fits[DecayModel.LOG_LINEAR].aic
        power, exponential = (
            curve.fits[model].aic for model in (DecayModel.POWER, DecayModel.EXPONENTIAL)
        )
        for measure, value in (
            ("slope", curve.slope),
            ("AIC over power", power - line),
            ("AIC over exponential", exponential - line),
        ):
            # A shape that fits to the last bit has no criterion.
            if np.isfinite(value):
                yield Row(measure, value, exposure, ALL_KINDS)


_INTERVAL = "interval"


class Spacing(StrEnum):
    """Where an interval between encounters lies."""

    WITHIN = "within"
    """At the learnability threshold, or below it."""
    BEYOND = "beyond"
    """Above it."""


def spacings(
    settings: Sequence[Mapping[str, Any]], thresholds: Sequence[float | None]
) -> list[Spacing | None]:
    """The spacing of each run."""
    alike: dict[str, list[int]] = {}
    for place, one in enumerate(settings):
        others = sorted((name, str(v)) for name, v in one.items() if name != _INTERVAL)
        alike.setdefault(repr(others), []).append(place)
    found: list[Spacing | None] = [None] * len(settings)
    for places in alike.values():
        rising = sorted(places, key=lambda place: settings[place][_INTERVAL])
        with_curve = (thresholds[place] for place in rising if thresholds[place] is not None)
        threshold = next(with_curve, None)
        if threshold is None or len({settings[place][_INTERVAL] for place in places}) == 1:
            continue
        for place in places:
            is_within = settings[place][_INTERVAL] <= threshold
            found[place] = Spacing.WITHIN if is_within else Spacing.BEYOND
    return found
