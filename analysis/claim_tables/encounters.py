r"""What did each encounter with a passage add, and how was it lost again?

Numbers of passages, in nats, means over their probes, with s the updates before an encounter:

- effectivity: the local maximum after an encounter less the look before it, mean over encounters
  (`analysis.encounter_gains`);
- rise: the first look after an encounter less the last look before it, mean over encounters. Where
  probes are scored after every step these are s + 1 and s, so that it is the change over the one
  update; where they are scored every k-th, the looks around it, and drift of up to k steps;
- fall: the last look before the next encounter less the local maximum, mean over all encounters but
  the last. Passages met once have none;
- net gain: the last look before another encounter would come, an interval after the last, less the
  look before the first (`final_gains` of `analysis.learnability`). Runs that end before have none.

Numbers of a run: slope of the forgetting curve per decade of steps, and the Akaike criteria of a
power and of an exponential less that of the line (`analysis.forgetting_curve`), with probes
weighted by what they gained, as in `analysis.ckl_report`.

Where looks are too far apart for two of them in a window (`analysis.look_grid`) there is none of
this. Held-out passages are never met and have none.

Source: Chang et al., NeurIPS 2024: sections 3.3 and 4.1 to 4.4.

Example:
    >>> rows = list(encounter_rows(run, means, None))                        # doctest: +SKIP
    >>> rows[0].measure, rows[0].exposure                                    # doctest: +SKIP
    ('effectivity', 'paraphrase')
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.ckl_report.scores import ALL_KINDS, MET
from analysis.claim_tables.passage_means import PassageMeans
from analysis.claim_tables.rows import Row
from analysis.decay_models import DecayModel
from analysis.encounter_gains import find_local_maxima, net_gain, retainability
from analysis.forgetting_curve import ForgettingCurve, fit_forgetting_curve
from analysis.item_tables import HELD_OUT
from analysis.look_grid import LookGrid, encounter_steps, look_grid
from analysis.probe_clusters import cluster_sums
from analysis.run_reading import TrainingRun

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
    """Effectivity, rise, fall and net gain of every passage that a run met.

    Args:
        run: the run; nothing is given where its probes were not scored often enough.
        means: of its probes.
        spacing: how its interval lies to the learnability threshold. It is said of net gains only:
            claims compare other numbers of runs from different starts, whose thresholds differ.
    """
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
    """Slopes of forgetting curves, and what speaks for a line.

    Args:
        curves: of a run, by exposure.
    """
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
    """The forgetting curve of what a run met, and of each exposure, where one can be fitted.

    Args:
        run: the run.

    Returns:
        By exposure, `met` for all of them; without intervals.
    """
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
    """Those of the probes that are chosen, `[probe]`."""
    kept = [(some, chosen[some.probes]) for some in met]
    return [
        _Met(some.probes[here], some.log_probs[here], some.places[here])
        for some, here in kept
        if here.any()
    ]


def _at(log_probs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Scores at looks of each probe, `[probe place]`."""
    return np.take_along_axis(log_probs, places, axis=1)
