r"""Forgetting curves: how fast does the share of a gain that is left fall, and when is none left?

To the mean retainability of probes at offsets t (updates after the last local maximum) a line in
the logarithm is fitted by least squares, \(R(t) = b + s \log_{10} t\). The learnability threshold
is \(10^{-b / s}\), where it crosses zero. A power law and an exponential are fitted beside it.
Every offset counts the same: `log_spaced_offsets` spreads them. Intervals draw passages; the error
of the slope from the residuals of one curve (`residual_error`) is far too small.

Source: Chang et al., NeurIPS 2024: sections 4.3 and 4.4; their released analysis under
`compat="official"`.

Example:
    >>> import numpy as np
    >>> t = log_spaced_offsets(1000, per_decade=5)
    >>> curve = fit_forgetting_curve(t, 0.9 - 0.25 * np.log10(t))
    >>> round(curve.slope, 6), round(curve.threshold), curve.extrapolated
    (-0.25, 3981, True)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, log, nan, sqrt
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.metrics import as_float64, kept_mask
from analysis.significance import DEFAULT_BOOTSTRAP, ClusterBootstrap
from probes.choices import Compat, as_choice
from probes.corpus_means import Interval
from probes.shown import Result, frame_of

Passages: TypeAlias = Sequence[object] | np.ndarray | Tensor | pd.Series
Weights: TypeAlias = Real[Tensor, "..."] | Real[np.ndarray, "..."]


@dataclass(frozen=True)
class ClusterSums:
    """Weighted sums over the probes of each cluster."""

    values: Float[np.ndarray, "cluster offset"]
    weights: Float[np.ndarray, "cluster"]
    n_probes: int

    @property
    def mean(self) -> Float[np.ndarray, "offset"]:
        """The weighted mean over all probes."""
        return self.values.sum(axis=0) / self.weights.sum()


def cluster_sums(
    values: Float[np.ndarray, "*probe offset"],
    passages: Passages | None = None,
    weights: Weights | None = None,
) -> ClusterSums:
    """Sums over the probes of each passage."""
    shape = values.shape[:-1]
    rows = values.reshape(-1, values.shape[-1])
    kept = kept_mask(rows)
    names = np.arange(len(rows)).reshape(shape) if passages is None else np.asarray(passages)
    counts = np.ones(shape) if weights is None else as_float64(weights)
    for given, what, advice in (
        (names, "passages must name one passage", "leave them out for a single curve"),
        (counts, "weights must be one number", "pass net_gain of the same log-probabilities"),
    ):
        if given.shape != shape:
            raise ValueError(
                f"{what} per probe, found {list(given.shape)} for probes {list(shape)}; {advice}"
            )
    counts = counts.reshape(-1)[kept]
    if not (np.isfinite(counts).all() and (counts >= 0).all() and counts.any()):
        raise ValueError(
            f"weights must be finite, at least 0 and not all 0, found {counts.min():.3g} to "
            f"{counts.max():.3g}; net gains are, for the probes that retainability keeps"
        )
    clusters = np.unique(names.reshape(-1)[kept], return_inverse=True)[1]
    sums = np.zeros((clusters.max() + 1, rows.shape[1]))
    np.add.at(sums, clusters, counts[:, None] * rows[kept])
    totals = np.bincount(clusters, weights=counts)
    # A passage that counts nothing is no passage to draw.
    return ClusterSums(sums[totals > 0], totals[totals > 0], int((counts > 0).sum()))


ROUNDS = 8  # how often the search for a rate narrows down


class DecayModel(StrEnum):
    """A shape of forgetting."""

    LOG_LINEAR = "log_linear"  # a line in the logarithm of the offset
    POWER = "power"  # a power of the offset
    EXPONENTIAL = "exponential"  # the same share lost at every update


@dataclass(frozen=True)
class DecayFit:
    """One shape, fitted; of Akaike's criterion only differences mean something, lower is better."""

    model: DecayModel
    scale: float  # R at offset 1 (log-linear, power) or at offset 0 (exponential)
    rate: float  # loss of R per decade (log-linear), exponent (power), or loss per update
    aic: float

    def predict(self, offsets: Float[np.ndarray, "offset"]) -> Float[np.ndarray, "offset"]:
        """R at other offsets, all above 0."""
        if self.model is DecayModel.LOG_LINEAR:
            return self.scale - self.rate * np.log10(offsets)
        return self.scale * np.exp(-self.rate * _abscissa(self.model, offsets))


def fit_decay_models(
    offsets: Float[np.ndarray, "offset"], curve: Float[np.ndarray, "offset"]
) -> dict[DecayModel, DecayFit]:
    """Every shape, fitted to one curve by least squares."""
    fits, count = {}, len(offsets)
    for model in DecayModel:
        if model is DecayModel.LOG_LINEAR:
            slope, intercept = np.polyfit(np.log10(offsets), curve, 1)
            scale, rate = float(intercept), -float(slope)
        else:
            scale, rate = _exponential_parameters(_abscissa(model, offsets), curve)
        residuals = curve - DecayFit(model, scale, rate, nan).predict(offsets)
        squares = float(np.square(residuals).sum())
        aic = count * log(squares / count) + 6 if squares > 0 else -inf
        fits[model] = DecayFit(model, scale, rate, aic)
    return fits


def _abscissa(
    model: DecayModel, offsets: Float[np.ndarray, "offset"]
) -> Float[np.ndarray, "offset"]:
    """The abscissa on which the logarithm of the curve is a line."""
    return np.log(offsets) if model is DecayModel.POWER else offsets


def _exponential_parameters(
    x: Float[np.ndarray, "offset"], curve: Float[np.ndarray, "offset"]
) -> tuple[float, float]:
    """Least squares of `scale * exp(-rate * x)`: the best scale is known for every rate."""
    shifted = x - x[0]

    def best_of(rates: Float[np.ndarray, "rate"]) -> int:
        """The rate whose best scale explains most of the sum of squares."""
        shapes = np.exp(-rates[:, None] * shifted)
        return int((np.square(shapes @ curve) / np.square(shapes).sum(axis=1)).argmax())

    # From growth by e^20 over all offsets to loss of all by the second.
    falling = np.geomspace(1e-4 / shifted[-1], 20 / shifted[1], 300)
    rising = -np.geomspace(20 / shifted[-1], 1e-4 / shifted[-1], 100)
    rates = np.concatenate([rising, [0.0], falling])
    best = best_of(rates)
    # Every round narrows the bracket to a twentieth: from a step of the grid to rounding.
    for _ in range(ROUNDS):
        rates = np.linspace(rates[max(best - 1, 0)], rates[min(best + 1, len(rates) - 1)], 41)
        best = best_of(rates)
    rate = float(rates[best])
    shape = np.exp(-rate * shifted)
    return float(shape @ curve / (shape @ shape) * np.exp(rate * x[0])), rate


Offsets: TypeAlias = Sequence[float | int] | Real[Tensor, "offset"] | Real[np.ndarray, "offset"]
Retainability: TypeAlias = Float[Tensor, "*probe offset"] | Float[np.ndarray, "*probe offset"]


@dataclass(frozen=True)
class ForgettingCurve(Result):
    """A line in the logarithm of the offset, and the curve that it was fitted to.

    Attributes:
        offsets: those fitted, which leave out 0.
        retainability: the mean at them.
        slope: change of R per decade of steps; negative where gains are forgotten.
        intercept: R at offset 1.
        threshold: the offset at which the line crosses zero; infinite where it does not fall.
        r_squared: share of the curve's variance that the line explains; NaN for a constant curve.
        residual_error: one standard error of the slope as if offsets were independent; far too
            small.
        interval: of the slope, from passages; None for a single curve or a single passage.
        n_probes: probes behind the curve at every offset; 1 for a single curve.
        n_clusters: passages that they come from.
        fits: every shape, fitted to the same curve.
    """

    offsets: Float[np.ndarray, "offset"]
    retainability: Float[np.ndarray, "offset"]
    slope: float
    intercept: float
    threshold: float
    r_squared: float
    residual_error: float
    interval: Interval | None
    threshold_interval: Interval | None
    n_probes: int
    n_clusters: int
    fits: Mapping[DecayModel, DecayFit]

    @property
    def extrapolated(self) -> bool:
        """Whether the threshold lies beyond the last offset."""
        return bool(self.threshold > self.offsets[-1])

    @property
    def best_by_aic(self) -> DecayModel:
        """The shape with the lowest Akaike criterion."""
        return min(self.fits, key=lambda model: self.fits[model].aic)

    def _facts(self) -> Mapping[str, Any]:
        slope = {"slope": f"{self.slope:.4g} per decade", "interval": self.interval}
        fit = {"threshold": self.threshold, "R\N{SUPERSCRIPT TWO}": self.r_squared}
        return {**slope, **fit, "probes": self.n_probes, "passages": self.n_clusters}

    def to_dataframe(self) -> Any:
        """One row per offset: the mean `retainability`, and every shape fitted to it."""
        shapes = {str(name): fit.predict(self.offsets) for name, fit in self.fits.items()}
        return frame_of({"offset": self.offsets, "retainability": self.retainability, **shapes})


def fit_forgetting_curve(
    offsets: Offsets,
    retainability: Retainability,
    *,
    passages: Passages | None = None,
    weights: Weights | None = None,
    bootstrap: ClusterBootstrap = DEFAULT_BOOTSTRAP,
    compat: Compat | str | None = None,
) -> ForgettingCurve:
    """Fit a forgetting curve to the retainability of probes, or to one curve.

    Args:
        offsets: steps (or tokens) after the last local maximum, rising. 0 is left out: R is 1 there
            by definition, and it has no logarithm.
        retainability: shares, `[... offset]`; probes that are NaN throughout are left out.
        passages: the passage of every probe, `[...]`; None takes probes for independent.
        weights: how much each probe counts, `[...]`; None for all the same. With
            `analysis.net_gain` the curve is the share of the pooled gain that is left.
        bootstrap: how intervals are made.
        compat: `"official"` does as the released script: it takes one curve, turns its sign where
            the first value is negative, and leaves out values of exactly -1.

    Returns:
        The fit, with intervals where there are two passages or more.

    Raises:
        ValueError: fewer than three offsets above 0, or not rising; no probe is left; a probe has
            values at some offsets only; `passages` or `weights` do not match the probes.
    """
    times = as_float64(offsets)
    if not np.isfinite(times).all() or (times < 0).any() or (np.diff(times) <= 0).any():
        few = ", ".join([*(f"{value:g}" for value in times[:4]), *["..."] * (len(times) > 4)])
        raise ValueError(
            f"offsets must be finite, rising and at least 0, found {few}; sort them, each once"
        )
    values = as_float64(retainability)
    if values.shape[-1] != len(times):
        raise ValueError(
            f"retainability must have one value per offset, found {values.shape[-1]} for "
            f"{len(times)} offsets; pass the offsets that it was taken at"
        )
    if compat is not None and as_choice(Compat, compat, "compat") is Compat.OFFICIAL:
        times, values = _as_released(times, values)
    used = times > 0
    if used.sum() < 3:
        raise ValueError(
            f"a forgetting curve needs at least 3 offsets above 0, found {int(used.sum())}; pass "
            "log_spaced_offsets(longest)"
        )
    sums = cluster_sums(values[..., used], passages, weights)
    return _fitted(times[used], sums, single=values.ndim == 1, bootstrap=bootstrap)


def log_spaced_offsets(longest: int, per_decade: int = 20) -> Int[np.ndarray, "offset"]:
    """Whole offsets from 1 to the longest, evenly spread over its decades, without repetition.

    Raises:
        ValueError: the longest is below 2, or there are no offsets to a decade.
    """
    if longest < 2 or per_decade < 1:
        raise ValueError(
            f"offsets must reach at least 2, with at least 1 per decade, found {longest} and "
            f"{per_decade}; 20 per decade are plenty"
        )
    count = round(per_decade * np.log10(longest)) + 1
    return np.unique(np.rint(np.geomspace(1, longest, max(count, 2))).astype(np.int64))


def _fitted(
    offsets: Float[np.ndarray, "offset"],
    sums: ClusterSums,
    *,
    single: bool,
    bootstrap: ClusterBootstrap,
) -> ForgettingCurve:
    x = np.log10(offsets)
    # Intercept and slope are linear in the curve, so those of clusters add up like their sums.
    solve = np.linalg.pinv(np.stack([np.ones_like(x), x], axis=1))
    curve = sums.mean
    intercept, slope = (float(value) for value in solve @ curve)
    squares = float(np.square(curve - intercept - slope * x).sum())
    total = float(np.square(curve - curve.mean()).sum())
    slopes = thresholds = None
    if not single:
        columns = np.concatenate([sums.values @ solve.T, sums.weights[:, None]], axis=1)
        intercepts, inclines, weights = bootstrap.resampled_sums(columns).T
        intercepts, inclines = intercepts / weights, inclines / weights
        count = len(sums.weights)
        slopes = bootstrap.interval(inclines, count)
        thresholds = bootstrap.interval(_threshold(intercepts, inclines), count)
    return ForgettingCurve(
        offsets=offsets,
        retainability=curve,
        slope=slope,
        intercept=intercept,
        threshold=float(_threshold(np.array(intercept), np.array(slope))),
        r_squared=1 - squares / total if total > 0 else nan,
        residual_error=sqrt(squares / (len(x) - 2) / np.square(x - x.mean()).sum()),
        interval=slopes,
        threshold_interval=thresholds,
        n_probes=sums.n_probes,
        n_clusters=len(sums.weights),
        fits=fit_decay_models(offsets, curve),
    )


def _threshold(intercept: np.ndarray, slope: np.ndarray) -> np.ndarray:
    falling = slope < 0
    with np.errstate(over="ignore"):
        return np.where(falling, 10.0 ** (intercept / np.where(falling, -slope, 1.0)), inf)


def _as_released(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if values.ndim > 1:
        raise ValueError(
            f"the released script fits one curve, found {list(values.shape)}; pass "
            "mean_without_outliers(retainability, 'official')"
        )
    times, values = times[times > 0], values[times > 0]
    if len(values) and values[0] < 0:
        values = -values
    return times[values != -1.0], values[values != -1.0]
