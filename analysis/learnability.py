r"""Learnability: how far apart may encounters with a fact lie before nothing of it stays?

Train once per injection interval \(\Delta\), with the same number of encounters, and take what is
left of the gain just before the next encounter would come (`final_gains` with a lag of one
interval). Where the forgetting curve reaches zero before \(\Delta\), nothing is. To the gains a
hinge in the logarithm is fitted by least squares,

\[g(\Delta) = \beta\, (\log_{10} \tau - \log_{10} \Delta) \text{ below } \tau,
\quad 0 \text{ beyond it}, \quad \beta > 0,\]

and \(\tau\) is the learnability threshold, found by training instead of by extrapolating a
forgetting curve.

The threshold can lie outside the intervals tried: it is the shortest of them where no interval
shows a gain, beyond the longest where gains fall but do not vanish, and infinite where they do not
fall. `bracketed` says that it does not.

Source: Chang et al., "How Do Large Language Models Acquire Factual Knowledge During Pretraining?",
NeurIPS 2024: section 4.4, which states the threshold and does not measure it; Muggeo (2003),
"Estimating regression models with unknown break-points" (the hinge).

Example:
    >>> import numpy as np
    >>> found = learnability_threshold([10, 100, 1000, 10000], np.array([1.0, 0.5, 0.0, 0.0]))
    >>> round(found.threshold), found.bracketed
    (1000, True)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Real
from torch import Tensor

from analysis.arrays import as_float64, as_whole_numbers, like
from analysis.cluster_bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from analysis.encounter_gains import LogProbs, Steps
from probes.intervals import Interval

Intervals: TypeAlias = Sequence[float | int] | Real[Tensor, "spacing"] | Real[np.ndarray, "spacing"]
Gains: TypeAlias = Float[Tensor, "spacing *passage"] | Float[np.ndarray, "spacing *passage"]


@dataclass(frozen=True)
class LearnabilityThreshold:
    """The interval between encounters beyond which gains vanish."""

    threshold: float
    """In the unit of the intervals; see the module for what lies outside those tried."""
    interval: Interval | None
    """From passages; None for mean gains or a single passage."""
    slope: float
    """Change of the gain per decade of the interval, below the threshold, in nats."""
    spacings: Float[np.ndarray, "spacing"]
    """The injection intervals tried."""
    gains: Float[np.ndarray, "spacing"]
    """The mean gain at each, in nats."""
    gain_intervals: tuple[Interval | None, ...]
    """Of the mean gains."""

    @property
    def bracketed(self) -> bool:
        """Whether the threshold lies within the intervals tried, above the shortest."""
        return bool(self.spacings[0] < self.threshold <= self.spacings[-1])


def final_gains(
    log_probs: LogProbs, injection_steps: Steps, lag: int
) -> Float[Tensor, "*probe"] | Float[np.ndarray, "*probe"]:
    """What is left of all encounters, some updates after the last: its rise since before the first.

    Args:
        log_probs: nats, `[... step]`; entry t is after t updates.
        injection_steps: updates made before each encounter, rising; the same for all probes, or
            `[... injection]`.
        lag: updates after the last encounter; one injection interval for the experiment.

    Returns:
        Gains `[...]` in nats, float64, as the kind of array that was given.

    Raises:
        ValueError: an entry is beyond the last, or not finite.
    """
    log = as_float64(log_probs)
    steps = as_whole_numbers(injection_steps, "injection steps")
    if (needed := int(steps.max()) + lag) >= log.shape[-1] or lag < 1:
        raise ValueError(
            f"a lag must be at least 1 and end within the log, found {lag} after the injection at "
            f"{int(steps.max())}, which needs entries up to {needed} of {log.shape[-1]}; train on, "
            "or pass a shorter lag"
        )
    ends = np.broadcast_to(steps, (*log.shape[:-1], steps.shape[-1]))[..., [0, -1]] + [0, lag]
    values = np.take_along_axis(log, ends, axis=-1)
    if not np.isfinite(values).all():
        raise ValueError(
            "log-probabilities must be finite, found some that are not before the first or after "
            "the last encounter; leave those probes out"
        )
    return like(np.asarray(values[..., 1] - values[..., 0]), log_probs)


def learnability_threshold(
    spacings: Intervals,
    gains: Gains,
    *,
    paired: bool = True,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
) -> LearnabilityThreshold:
    """The injection interval beyond which gains vanish.

    Args:
        spacings: injection intervals, rising, in updates or tokens; at least three.
        gains: final gains in nats, `[spacing passage]`, the mean over a passage's probes; or means
            over passages, `[spacing]`.
        paired: whether the same passages were used at every interval, in the same order; if not,
            they are drawn for each interval apart.
        bootstrap: how intervals are made.

    Returns:
        The estimate, with its interval where there are passages.

    Raises:
        ValueError: fewer than three injection intervals, not rising or not above 0; gains do not
            match them or are not finite.
    """
    tried, values = _checked(spacings, gains)
    single = values.ndim == 1
    rows = values.reshape(len(tried), -1)
    means = rows.mean(axis=1)
    threshold, slope = _hinge(np.log10(tried), means[None])
    bounds: Interval | None = None
    if not single:
        drawn = _resampled_means(rows, paired, bootstrap)
        bounds = bootstrap.interval(_hinge(np.log10(tried), drawn)[0], rows.shape[1])
    return LearnabilityThreshold(
        threshold=float(threshold[0]),
        interval=bounds,
        slope=float(slope[0]),
        spacings=tried,
        gains=means,
        gain_intervals=tuple(None if single else bootstrap.mean_interval(row) for row in rows),
    )


def _resampled_means(
    rows: Float[np.ndarray, "spacing passage"], paired: bool, bootstrap: ClusterBootstrap
) -> Float[np.ndarray, "replicate spacing"]:
    n_spacings, n_passages = rows.shape
    if paired:
        return bootstrap.resampled_sums(rows.T) / n_passages
    # One row per passage and spacing, zero in the columns of the others.
    apart = np.zeros((n_spacings, n_passages, n_spacings))
    apart[range(n_spacings), :, range(n_spacings)] = rows
    strata = np.repeat(np.arange(n_spacings), n_passages)
    return bootstrap.resampled_sums(apart.reshape(-1, n_spacings), strata) / n_passages


def _hinge(
    x: Float[np.ndarray, "spacing"], gains: Float[np.ndarray, "replicate spacing"]
) -> tuple[Float[np.ndarray, "replicate"], Float[np.ndarray, "replicate"]]:
    """Threshold and slope of the least squares hinge of every row of gains.

    Between two neighbouring intervals the hinge is a line through those before; so the best one is
    among the lines that cross zero where they should, the hinges at the intervals themselves, and
    the limits: no gain at all, and a gain that does not fall.
    """
    squares = np.square(gains).sum(axis=1)
    candidates = [(np.full(len(gains), x[0]), np.zeros(len(gains)), squares)]
    level = gains.mean(axis=1)
    spread = np.square(gains - level[:, None]).sum(axis=1)
    candidates.append(
        (np.full(len(gains), inf), np.zeros(len(gains)), np.where(level > 0, spread, inf))
    )
    candidates += [_bent_at(knot, x, gains) for knot in x[1:]]
    candidates += [_line_through(count, x, gains) for count in range(2, len(x) + 1)]
    best = np.stack([left for _, _, left in candidates]).argmin(axis=0)
    places, slopes = (
        np.stack([candidate[part] for candidate in candidates])[best, np.arange(len(gains))]
        for part in (0, 1)
    )
    with np.errstate(over="ignore"):
        return 10.0**places, slopes


def _bent_at(
    knot: float, x: Float[np.ndarray, "spacing"], gains: Float[np.ndarray, "replicate spacing"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place, slope and sum of squares of the hinge at a place; infinite squares where it rises."""
    shape = np.minimum(x - knot, 0.0)
    slope = gains @ shape / (shape @ shape)
    left = np.square(gains - slope[:, None] * shape).sum(axis=1)
    return np.full(len(gains), knot), slope, np.where(slope < 0, left, inf)


def _line_through(
    count: int, x: Float[np.ndarray, "spacing"], gains: Float[np.ndarray, "replicate spacing"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for the line through the first intervals, if it crosses zero before the next."""
    design = np.stack([np.ones(count), x[:count]], axis=1)
    intercept, slope = np.linalg.pinv(design) @ gains[:, :count].T
    falling = slope < 0
    place = np.where(falling, -intercept / np.where(falling, slope, 1.0), inf)
    following = x[count] if count < len(x) else inf
    inside = falling & (place >= x[count - 1]) & (place <= following)
    fitted = intercept[:, None] + slope[:, None] * x[:count]
    left = np.square(gains[:, :count] - fitted).sum(axis=1)
    left = left + np.square(gains[:, count:]).sum(axis=1)
    return place, slope, np.where(inside, left, inf)


def _checked(spacings: Intervals, gains: Gains) -> tuple[np.ndarray, np.ndarray]:
    tried, values = as_float64(spacings), as_float64(gains)
    if len(tried) < 3 or not (tried > 0).all() or not (np.diff(tried) > 0).all():
        raise ValueError(
            f"a threshold needs at least 3 injection intervals, rising and above 0, found "
            f"{', '.join(f'{value:g}' for value in tried) or 'none'}; train at more of them"
        )
    if len(values) != len(tried) or values.ndim > 2 or not values.size:
        raise ValueError(
            f"gains must be [spacing passage] for {len(tried)} injection intervals, found "
            f"{list(values.shape)}; pass one row per interval"
        )
    if not np.isfinite(values).all():
        raise ValueError("gains must be finite, found some that are not; leave those passages out")
    return tried, values
