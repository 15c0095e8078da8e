r"""What did each encounter with a passage add, and how was it lost again?

Numbers of passages, in nats, means over their probes, with s the updates before an encounter:

- effectivity: the local maximum after an encounter less the look before it, mean over encounters
  (`analysis.encounters`);
- rise: the first look after an encounter less the last look before it, mean over encounters. Where
  probes are scored after every step these are s + 1 and s, so that it is the change over the one
  update; where they are scored every k-th, the looks around it, and drift of up to k steps;
- fall: the last look before the next encounter less the local maximum, mean over all encounters but
  the last. Passages met once have none;
- net gain: the last look before another encounter would come, an interval after the last, less the
  look before the first (`final_gains` of `analysis.encounters`). Runs that end before have none.

Numbers of a run: slope of the forgetting curve per decade of steps, and the Akaike criteria of a
power and of an exponential less that of the line (`analysis.forgetting_curve`), with probes
weighted by what they gained, as in `analysis.ckl_report`.

Where looks are too far apart for two of them in a window (`analysis.look_grid`) there is none of
this. Held-out passages are never met and have none.

Source: Chang et al., NeurIPS 2024: sections 3.3 and 4.1 to 4.4.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.ckl_report.scores import ALL_KINDS, MET
from analysis.encounters import find_local_maxima, net_gain, retainability
from analysis.forgetting_curve import DecayModel, ForgettingCurve, fit_forgetting_curve
from analysis.look_grid import LookGrid, encounter_steps, look_grid
from analysis.metrics import HELD_OUT
from analysis.probe_clusters import cluster_sums
from analysis.runs import TrainingRun


class Group(NamedTuple):
    """Probes of one passage, as one exposure and one kind."""

    exposure: str
    kind: str
    cluster: str


@dataclass(frozen=True)
class PassageMeans:
    """How numbers of probes become those of passages.

    Attributes:
        groups: what there is a mean of.
        weights: of each probe in each mean.
    """

    groups: tuple[Group, ...]
    weights: Float[np.ndarray, "group probe"]

    def of(self, values: Float[np.ndarray, "probe column"]) -> Float[np.ndarray, "group column"]:
        """The mean of each group; NaN where one of its probes has no number."""
        missing = np.isnan(values)
        known = self.weights @ np.where(missing, 0.0, values)
        return np.where(self.weights @ missing > 0, np.nan, known)

    def over_passages(
        self, means: Float[np.ndarray, "group column"]
    ) -> Mapping[tuple[str, str], Float[np.ndarray, "column"]]:
        """The mean over passages, by exposure and kind."""
        places: dict[tuple[str, str], list[int]] = {}
        for place, group in enumerate(self.groups):
            places.setdefault((group.exposure, group.kind), []).append(place)
        return {what: means[some].mean(axis=0) for what, some in places.items()}


def passage_means(probes: pd.DataFrame) -> PassageMeans:
    """The means of a list of probes."""
    groups, weights = zip(*_weighted(probes), strict=True)
    return PassageMeans(groups, np.stack(weights))


def _weighted(probes: pd.DataFrame) -> Iterator[tuple[Group, Float[np.ndarray, "probe"]]]:
    kinds, exposures = probes["kind"].to_numpy(), probes["exposure"].to_numpy()
    codes, passages = pd.factorize(probes["passage"])
    masks = {ALL_KINDS: np.ones(len(probes), dtype=bool)}
    masks |= {str(kind): kinds == kind for kind in pd.unique(kinds)}
    for code, passage in enumerate(passages):
        here = codes == code
        exposure = str(exposures[here.argmax()])
        for kind, mask in masks.items():
            members = here & mask
            if not members.any():
                continue
            weights = members / members.sum()
            yield Group(exposure, kind, f"passage {passage}"), weights
            if exposure != HELD_OUT:
                yield Group(MET, kind, f"passage {passage}"), weights


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


NET_GAIN = "net gain"
_PER_PASSAGE = ("effectivity", "rise", "fall", NET_GAIN)


@dataclass(frozen=True)
class _Met:
    """Probes that are met equally often: their places, their scores and the looks before."""

    probes: np.ndarray
    """`[probe]`."""
    log_probs: np.ndarray
    """`[probe look]`, in nats."""
    places: np.ndarray
    """`[probe encounter]`."""


def encounter_rows(run: TrainingRun, means: PassageMeans, spacing: str | None) -> Iterator[Row]:
    """Effectivity, rise, fall and net gain of every passage that a run met."""
    grid = look_grid([run])
    if isinstance(grid, str):
        return
    by_passage = means.of(_gains(run, grid))
    for measure, column in zip(_PER_PASSAGE, by_passage.T.tolist(), strict=True):
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


def forgetting_curves(run: TrainingRun) -> dict[str, ForgettingCurve]:
    """The forgetting curve of what a run met, and of each exposure, where one can be fitted."""
    grid = look_grid([run])
    if isinstance(grid, str):
        return {}
    exposures = run.probe_scores.items["exposure"].to_numpy()
    met = exposures != HELD_OUT
    sets = {MET: met} | {str(name): exposures == name for name in dict.fromkeys(exposures[met])}
    everywhere = list(_met(run, grid))
    found = {name: _curve(_some(everywhere, chosen), grid) for name, chosen in sets.items()}
    return {name: curve for name, curve in found.items() if curve is not None}


def _gains(run: TrainingRun, grid: LookGrid) -> np.ndarray:
    """The measures of passages for every probe, `[probe measure]`; NaN where there is none."""
    steps, interval = encounter_steps(run), run.configuration["injection_interval"]
    items = run.probe_scores.items
    last = np.array([steps[p][-1] if p in steps else run.last_step for p in items["passage"]])
    found = np.full((len(items), len(_PER_PASSAGE)), np.nan)
    for some in _met(run, grid):
        log, places = some.log_probs, some.places
        maxima = find_local_maxima(log, places, grid.window)
        before = maxima.before
        found[some.probes, 0] = (maxima.log_probs - before).mean(axis=1)
        found[some.probes, 1] = (_at(log, places + 1) - before).mean(axis=1)
        if places.shape[1] > 1:
            found[some.probes, 2] = (before[:, 1:] - maxima.log_probs[:, :-1]).mean(axis=1)
        ends = last[some.probes] + interval
        left = _at(log, np.minimum(ends // grid.every, grid.looks - 1)[:, None])[:, 0]
        found[some.probes, 3] = np.where(ends <= run.last_step, left - before[:, 0], np.nan)
    return found


def _curve(met: list[_Met], grid: LookGrid) -> ForgettingCurve | None:
    if not met:
        return None
    offsets = grid.offsets(max(int(some.places.max()) for some in met))
    if offsets is None:
        return None
    each = [(some.log_probs, some.places) for some in met]
    gained = np.concatenate([np.asarray(net_gain(*one, grid.window)) for one in each])
    if not (gained > 0).any():
        return None
    left = np.concatenate([np.asarray(retainability(*one, offsets, grid.window)) for one in each])
    # A single curve is fitted without drawing passages.
    pooled = cluster_sums(left, weights=np.maximum(gained, 0.0)).mean
    return fit_forgetting_curve(offsets * grid.every, pooled)


def _met(run: TrainingRun, grid: LookGrid) -> Iterator[_Met]:
    """The probes that were met, apart by how often."""
    places, log_probs = grid.places(run), grid.log_probs(run)
    passages = run.probe_scores.items["passage"].to_numpy()
    counts = np.array([len(places.get(passage, ())) for passage in passages])
    for count in np.unique(counts[counts > 0]):
        (probes,) = np.nonzero(counts == count)
        looks = np.stack([places[passage] for passage in passages[probes]])
        yield _Met(probes, log_probs[probes], looks)


def _some(met: Sequence[_Met], chosen: np.ndarray) -> list[_Met]:
    kept = [(some, chosen[some.probes]) for some in met]
    return [
        _Met(some.probes[here], some.log_probs[here], some.places[here])
        for some, here in kept
        if here.any()
    ]


def _at(log_probs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Scores at looks of each probe, `[probe place]`."""
    return np.take_along_axis(log_probs, places, axis=1)


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
