r"""Encounters: what did a probe gain from each, and what share of the gain is left later?

Log-probabilities are in nats, `[... step]`: entry t is after t updates. An injection at s puts the
passage into the batch of update s + 1, so entry s is the last one before the encounter. With
l(t) the log-probability of a probe's target and w the window,

- the local acquisition maximum of injection i is at \(t_i = \arg\max_{s_i < t \le s_i + w} l(t)\);
- effectivity is the gain there, \(l(t_i) - l(s_i)\);
- the net gain is that of all encounters together, \(l(t_N) - l(s_1)\), N being the last;
- retainability at offset t is the share of the net gain left t updates after the last maximum,
  \(R(t) = (l(t_N + t) - l(s_1)) / (l(t_N) - l(s_1))\).

Probes without a gain have no retainability, at any offset. A maximum over noise is a little too
high: where nothing was learnt, effectivity is still positive.

Source: Chang et al., "How Do Large Language Models Acquire Factual Knowledge During Pretraining?",
NeurIPS 2024: section 3.3; their released analysis under `compat="official"`.

Example:
    >>> import numpy as np
    >>> l = np.array([-5.0, -3.0, -3.5, -4.0, -4.5, -5.5])
    >>> effectivity(l, [0], window=2), retainability(l, [0], [0, 1, 2, 3], window=2)
    (array([2.]), array([1.  , 0.75, 0.5 , 0.25]))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.metrics import as_float64, as_whole_numbers, kept_mask, like
from analysis.significance import DEFAULT_BOOTSTRAP, ClusterBootstrap
from probes.choices import Compat, as_choice
from probes.corpus_means import Interval

LogProbs: TypeAlias = Float[Tensor, "*probe step"] | Float[np.ndarray, "*probe step"]
Steps: TypeAlias = Sequence[int] | Real[Tensor, "... injection"] | Real[np.ndarray, "... injection"]
Offsets: TypeAlias = Sequence[int] | Real[Tensor, "offset"] | Real[np.ndarray, "offset"]


@dataclass(frozen=True)
class LocalMaxima:
    """The best a probe did within the window after each encounter."""

    steps: Int[np.ndarray, "*probe injection"]  # how many updates had been made by then
    log_probs: Float[np.ndarray, "*probe injection"]
    before: Float[np.ndarray, "*probe injection"]  # just before each encounter


def find_local_maxima(log_probs: LogProbs, injection_steps: Steps, window: int = 50) -> LocalMaxima:
    """The local acquisition maximum of every injection."""
    log = as_float64(log_probs)
    if (wrong := ~np.isfinite(log)).any():
        raise ValueError(
            f"log-probabilities must be finite, found {int(wrong.sum())} of {log.size} that are "
            f"not (first at {[int(i) for i in np.argwhere(wrong)[0]]}); leave those probes out"
        )
    steps = _checked_steps(injection_steps, log, window)
    # argmax takes the first of equals.
    seen = steps[..., None] + np.arange(1, window + 1)
    values = np.take_along_axis(log[..., None, :], seen, axis=-1)
    best = steps + 1 + values.argmax(axis=-1)
    return LocalMaxima(best, values.max(axis=-1), np.take_along_axis(log, steps, axis=-1))


def effectivity(
    log_probs: LogProbs,
    injection_steps: Steps,
    window: int = 50,
    *,
    compat: Compat | str | None = None,
) -> Float[Tensor, "*probe injection"] | Float[np.ndarray, "*probe injection"]:
    """What each encounter gained: the local maximum less the log-probability before, in nats.

    Args:
        log_probs: of the targets of probes, `[... step]`, in nats.
        injection_steps: updates before each encounter, the same for all probes or a row for each.
        window: updates after an encounter within which its maximum is sought.
        compat: `"official"` gives NaN to probes that gained exactly nothing in the end, which the
            released script leaves out of its mean.

    Returns:
        Gains `[... injection]`, float64, as the kind of array that was given.

    Raises:
        ValueError: a value is not finite, encounters are nearer than a window, or one is too
            late.
    """
    maxima = find_local_maxima(log_probs, injection_steps, window)
    gains = maxima.log_probs - maxima.before
    if compat is not None and as_choice(Compat, compat, "compat") is Compat.OFFICIAL:
        unchanged = maxima.log_probs[..., -1] == as_float64(log_probs)[..., 0]
        gains = np.where(unchanged[..., None], np.nan, gains)
    return like(gains, log_probs)


def net_gain(
    log_probs: LogProbs, injection_steps: Steps, window: int = 50
) -> Float[Tensor, "*probe"] | Float[np.ndarray, "*probe"]:
    """What all encounters together gained: the last local maximum less the start, in nats.

    As the weights of a forgetting curve, it makes the curve the share of the pooled gain that is
    left, in which probes that gained next to nothing count next to nothing.

    Args:
        log_probs: as for `effectivity`.
        injection_steps: as for `effectivity`.
        window: as for `effectivity`.

    Returns:
        Gains `[...]`, float64; those of a single probe have no axes.

    Raises:
        ValueError: as for `effectivity`.
    """
    maxima = find_local_maxima(log_probs, injection_steps, window)
    return like(np.asarray(maxima.log_probs[..., -1] - maxima.before[..., 0]), log_probs)


def retainability(
    log_probs: LogProbs,
    injection_steps: Steps,
    offsets: Offsets,
    window: int = 50,
    *,
    min_gain: float = 0.0,
    compat: Compat | str | None = None,
) -> Float[Tensor, "*probe offset"] | Float[np.ndarray, "*probe offset"]:
    """The share of the net gain that is left at offsets from the last local maximum.

    Args:
        log_probs: as for `effectivity`.
        injection_steps: as for `effectivity`.
        offsets: updates after the last local maximum; see `analysis.log_spaced_offsets`.
        window: as for `effectivity`.
        min_gain: probes must have gained more than this, in nats; tiny gains make wild shares.
        compat: `"official"` does as the released script: the start is entry 0 whenever the first
            injection was, and probes that lost are kept, with the sign of their shares turned.

    Returns:
        Shares `[... offset]`, float64, as the kind of array that was given; NaN at every offset for
        probes that are not kept.

    Raises:
        ValueError: as for `effectivity`; an offset reaches beyond the last entry.
    """
    official = compat is not None and as_choice(Compat, compat, "compat") is Compat.OFFICIAL
    maxima = find_local_maxima(log_probs, injection_steps, window)
    log = as_float64(log_probs)
    chosen = as_whole_numbers(offsets, "offsets")
    last = int(as_whole_numbers(injection_steps, "injection steps").max())
    # Whether an offset is allowed must not hang on where the maxima happen to be.
    if (needed := last + window + int(chosen.max())) >= log.shape[-1]:
        raise ValueError(
            f"an offset of {int(chosen.max())} from a maximum up to {window} after the injection "
            f"at {last} needs entries up to {needed}, found {log.shape[-1]} entries; the longest "
            f"possible offset is {log.shape[-1] - 1 - last - window}"
        )
    later = np.take_along_axis(log, maxima.steps[..., -1:] + chosen, axis=-1)
    start = log[..., :1] if official else maxima.before[..., :1]
    gain = maxima.log_probs[..., -1:] - start
    kept = (gain != 0) if official else (gain > min_gain)
    return like((later - start) / np.where(kept, gain, np.nan), log_probs)


class OutlierRule(StrEnum):
    """How far outside the quartiles a value may lie."""

    PAPER = "paper"  # the paper's text
    OFFICIAL = "official"  # the paper's released code


_REACH = {OutlierRule.PAPER: 1.5, OutlierRule.OFFICIAL: 2.0}  # distances between the quartiles


def mean_without_outliers(
    values: Float[Tensor, "probe *column"] | Float[np.ndarray, "probe *column"],
    rule: OutlierRule | str = OutlierRule.PAPER,
) -> Float[Tensor, "*column"] | Float[np.ndarray, "*column"]:
    """Mean over probes of the values within the fences, column by column."""
    wide = as_float64(values)
    rows = wide.reshape(len(wide), -1)
    kept = rows[kept_mask(rows)]
    quartiles = np.percentile(kept, [25, 75], axis=0)
    reach = _REACH[OutlierRule(rule)] * (quartiles[1] - quartiles[0])
    inside = (kept >= quartiles[0] - reach) & (kept <= quartiles[1] + reach)
    means = (kept * inside).sum(axis=0) / inside.sum(axis=0)
    return like(means.reshape(wide.shape[1:]), values)


def _checked_steps(injection_steps: Steps, log: np.ndarray, window: int) -> np.ndarray:
    if window < 1:
        raise ValueError(f"window must be at least 1 update, found {window}; 50 is the paper's")
    steps = as_whole_numbers(injection_steps, "injection steps")
    if steps.ndim > 1 and steps.shape[:-1] != log.shape[:-1]:
        raise ValueError(
            f"injection steps must be the same for all probes or given for each, found them for "
            f"{list(steps.shape[:-1])} probes and log-probabilities of {list(log.shape[:-1])}; "
            "pass one list, or one row per probe"
        )
    between = np.diff(steps, axis=-1)
    if (between < window).any():
        raise ValueError(
            f"injections must be rising and at least a window of {window} updates apart, found "
            f"{int(between.min())} between two; pass the steps in order, and a window that ends "
            "before the next encounter"
        )
    if (needed := int(steps.max()) + window) >= log.shape[-1]:
        raise ValueError(
            f"a window of {window} after the injection at {int(steps.max())} needs entries up to "
            f"{needed}, found {log.shape[-1]} entries (0 to {log.shape[-1] - 1}); train on, or "
            "pass a smaller window"
        )
    return np.broadcast_to(steps, (*log.shape[:-1], steps.shape[-1]))


Intervals: TypeAlias = Sequence[float | int] | Real[Tensor, "spacing"] | Real[np.ndarray, "spacing"]
Gains: TypeAlias = Float[Tensor, "spacing *passage"] | Float[np.ndarray, "spacing *passage"]


@dataclass(frozen=True)
class LearnabilityThreshold:
    """The interval between encounters beyond which gains vanish.

    Attributes:
        threshold: in the unit of the intervals; the shortest one tried where nothing is gained
            from there on, infinite where gains do not fall.
        interval: from passages; None for mean gains or a single passage.
        slope: change of the gain per decade of the interval, below the threshold, in nats.
        spacings: the injection intervals tried.
        gains: the mean gain at each, in nats.
    """

    threshold: float
    interval: Interval | None
    slope: float
    spacings: Float[np.ndarray, "spacing"]
    gains: Float[np.ndarray, "spacing"]
    gain_intervals: tuple[Interval | None, ...]

    @property
    def bracketed(self) -> bool:
        """Whether the threshold lies within the intervals tried, above the shortest."""
        return bool(self.spacings[0] < self.threshold <= self.spacings[-1])


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
    tried, values = _checked_gains(spacings, gains)
    single = values.ndim == 1
    rows = values.reshape(len(tried), -1)
    means = rows.mean(axis=1)
    threshold, slope = _hinge(np.log10(tried), means[None])
    bounds: Interval | None = None
    if not single:
        n_spacings, n_passages = rows.shape
        sums, strata = rows.T, None
        if not paired:
            # One row per passage and spacing, zero in the columns of the others.
            apart = np.zeros((n_spacings, n_passages, n_spacings))
            apart[range(n_spacings), :, range(n_spacings)] = rows
            sums = apart.reshape(-1, n_spacings)
            strata = np.repeat(np.arange(n_spacings), n_passages)
        drawn = bootstrap.resampled_sums(sums, strata) / n_passages
        bounds = bootstrap.interval(_hinge(np.log10(tried), drawn)[0], rows.shape[1])
    return LearnabilityThreshold(
        threshold=float(threshold[0]),
        interval=bounds,
        slope=float(slope[0]),
        spacings=tried,
        gains=means,
        gain_intervals=tuple(None if single else bootstrap.mean_interval(row) for row in rows),
    )


def _hinge(
    x: Float[np.ndarray, "spacing"], gains: Float[np.ndarray, "replicate spacing"]
) -> tuple[Float[np.ndarray, "replicate"], Float[np.ndarray, "replicate"]]:
    """Threshold and slope of the least squares hinge of every row of gains."""
    squares = np.square(gains).sum(axis=1)
    level, flat = gains.mean(axis=1), np.zeros(len(gains))
    spread = np.square(gains - level[:, None]).sum(axis=1)
    candidates = [
        (np.full(len(gains), x[0]), flat, squares),
        (np.full(len(gains), inf), flat, np.where(level > 0, spread, inf)),
    ]
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


def _checked_gains(spacings: Intervals, gains: Gains) -> tuple[np.ndarray, np.ndarray]:
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
