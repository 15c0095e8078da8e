"""Do the encounters of a run lie within the learnability threshold, or beyond it?

The threshold is where the forgetting curve of what was met reaches zero
(`analysis.forgetting_curve`). It is taken from the run with the shortest interval between
encounters that has a curve, among runs that are alike in everything else: a run's own curve would
make its interval a part of what it is compared with, and at long intervals little is gained that
could be forgotten. Runs without another one at a different interval have no spacing.

Source: Chang et al., NeurIPS 2024: section 4.4.

Example:
    >>> runs = [{"seed": 0, "interval": steps} for steps in (10, 40, 160)]
    >>> [str(one) for one in spacings(runs, [55.0, 20.0, None])]
    ['within', 'within', 'beyond']
    >>> spacings(runs[:1], [55.0])
    [None]
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

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
    """The spacing of each run.

    Args:
        settings: of each run; `interval` is among them, in steps.
        thresholds: of the forgetting curve of each, in steps; infinite for a curve that does not
            fall, None where there is no curve.

    Returns:
        None where no other interval was tried, or none of the runs alike has a curve.
    """
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
