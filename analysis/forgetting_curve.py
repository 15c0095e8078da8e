r"""Forgetting curves: how fast does the share of a gain that is left fall, and when is none left?

To the mean retainability of probes at offsets t (updates after the last local maximum) a line in
the logarithm is fitted by least squares,

\[R(t) = b + s \log_{10} t,\]

s being the slope per decade of steps, -s the decay constant, and \(10^{-b / s}\), where the line
crosses zero, the learnability threshold: a fact met again only after that long has lost all it
gained. The slope per decade is the same whether offsets count steps or tokens. Other shapes are
fitted beside it (`analysis.forgetting_curve`).

Every offset counts the same. Offsets on a linear grid, as in the released analysis, leave nearly
all weight to the last decade; `log_spaced_offsets` spreads it.

Intervals need the retainability of single probes: passages are drawn with replacement. The error of
the slope from the residuals of one curve (`residual_error`) takes neighbouring offsets for
independent and is far too small.

Source: Chang et al., "How Do Large Language Models Acquire Factual Knowledge During Pretraining?",
NeurIPS 2024: sections 4.3 and 4.4; their released analysis under `compat="official"`.

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
from typing import TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Real
from torch import Tensor

from analysis.arrays import as_float64
from analysis.outliers import kept_mask
from analysis.statistics.bootstrap import DEFAULT_BOOTSTRAP, ClusterBootstrap
from probes.choices import Compat
from probes.intervals import Interval

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
    counts = _checked_weights(weights, shape, kept)[kept]
    clusters = np.unique(_names(passages, shape)[kept], return_inverse=True)[1]
    sums = np.zeros((clusters.max() + 1, rows.shape[1]))
    np.add.at(sums, clusters, counts[:, None] * rows[kept])
    totals = np.bincount(clusters, weights=counts)
    # A passage that counts nothing is no passage to draw.
    return ClusterSums(sums[totals > 0], totals[totals > 0], int((counts > 0).sum()))


def _names(passages: Passages | None, shape: tuple[int, ...]) -> np.ndarray:
    if passages is None:
        return np.arange(int(np.prod(shape)))
    found = np.asarray(passages)
    if found.shape != shape:
        raise ValueError(
            f"passages must name one passage per probe, found {list(found.shape)} for probes "
            f"{list(shape)}; leave them out for a single curve"
        )
    return found.reshape(-1)


def _checked_weights(
    weights: Weights | None, shape: tuple[int, ...], kept: np.ndarray
) -> np.ndarray:
    if weights is None:
        return np.ones(len(kept))
    found = as_float64(weights)
    if found.shape != shape:
        raise ValueError(
            f"weights must be one number per probe, found {list(found.shape)} for probes "
            f"{list(shape)}; pass net_gain of the same log-probabilities"
        )
    used = found.reshape(-1)[kept]
    if not (np.isfinite(used).all() and (used >= 0).all() and used.any()):
        raise ValueError(
            f"weights must be finite, at least 0 and not all 0, found {used.min():.3g} to "
            f"{used.max():.3g}; net gains are, for the probes that retainability keeps"
        )
    return found.reshape(-1)


FOLDS = 5
"""Blocks of offsets left out in turn."""
ROUNDS = 8
"""How often the search for a rate narrows down."""


class DecayModel(StrEnum):
    """A shape of forgetting."""

    LOG_LINEAR = "log_linear"
    """A line in the logarithm of the offset."""
    POWER = "power"
    """A power of the offset."""
    EXPONENTIAL = "exponential"
    """The same share lost at every update."""


@dataclass(frozen=True)
class DecayFit:
    """One shape, fitted."""

    model: DecayModel
    scale: float
    """R at offset 1 (log-linear, power) or at offset 0 (exponential)."""
    rate: float
    """Loss of R per decade (log-linear), exponent (power), or per update (exponential)."""
    aic: float
    """Akaike's criterion; lower is better, and only differences mean something."""
    cross_validation_error: float
    """Root mean square of the errors at offsets left out, in units of R."""

    def predict(self, offsets: Float[np.ndarray, "offset"]) -> Float[np.ndarray, "offset"]:
        """R at other offsets, all above 0."""
        return _predicted(self.model, (self.scale, self.rate), offsets)


def fit_decay_models(
    offsets: Float[np.ndarray, "offset"], curve: Float[np.ndarray, "offset"]
) -> dict[DecayModel, DecayFit]:
    """Every shape, fitted to one curve."""
    return {model: _fit(model, offsets, curve) for model in DecayModel}


def _fit(
    model: DecayModel, offsets: Float[np.ndarray, "offset"], curve: Float[np.ndarray, "offset"]
) -> DecayFit:
    parameters = _parameters(model, offsets, curve)
    squares = float(np.square(curve - _predicted(model, parameters, offsets)).sum())
    count = len(offsets)
    return DecayFit(
        model,
        *parameters,
        aic=count * log(squares / count) + 6 if squares > 0 else -inf,
        cross_validation_error=_cross_validation_error(model, offsets, curve),
    )


def _cross_validation_error(
    model: DecayModel, offsets: Float[np.ndarray, "offset"], curve: Float[np.ndarray, "offset"]
) -> float:
    errors = []
    for left_out in np.array_split(np.arange(len(offsets)), min(FOLDS, len(offsets))):
        rest = np.delete(np.arange(len(offsets)), left_out)
        parameters = _parameters(model, offsets[rest], curve[rest])
        errors.append(curve[left_out] - _predicted(model, parameters, offsets[left_out]))
    return float(np.sqrt(np.square(np.concatenate(errors)).mean()))


def _predicted(
    model: DecayModel, parameters: tuple[float, float], offsets: Float[np.ndarray, "offset"]
) -> Float[np.ndarray, "offset"]:
    scale, rate = parameters
    if model is DecayModel.LOG_LINEAR:
        return scale - rate * np.log10(offsets)
    return scale * np.exp(-rate * _abscissa(model, offsets))


def _abscissa(
    model: DecayModel, offsets: Float[np.ndarray, "offset"]
) -> Float[np.ndarray, "offset"]:
    """That in which the logarithm of the curve is a line."""
    return np.log(offsets) if model is DecayModel.POWER else offsets


def _parameters(
    model: DecayModel, offsets: Float[np.ndarray, "offset"], curve: Float[np.ndarray, "offset"]
) -> tuple[float, float]:
    """Scale and rate of the least squares fit."""
    if model is DecayModel.LOG_LINEAR:
        slope, intercept = np.polyfit(np.log10(offsets), curve, 1)
        return float(intercept), -float(slope)
    return _exponential_parameters(_abscissa(model, offsets), curve)


def _exponential_parameters(
    x: Float[np.ndarray, "offset"], curve: Float[np.ndarray, "offset"]
) -> tuple[float, float]:
    """Least squares of `scale * exp(-rate * x)`: the best scale is known for every rate."""
    shifted = x - x[0]
    rates = _rates(shifted)
    best = int(_explained(rates, shifted, curve).argmax())
    # Every round narrows the bracket to a twentieth: from a step of the grid to rounding.
    for _ in range(ROUNDS):
        rates = np.linspace(rates[max(best - 1, 0)], rates[min(best + 1, len(rates) - 1)], 41)
        best = int(_explained(rates, shifted, curve).argmax())
    rate = float(rates[best])
    shape = np.exp(-rate * shifted)
    return float(shape @ curve / (shape @ shape) * np.exp(rate * x[0])), rate


def _explained(
    rates: Float[np.ndarray, "rate"],
    x: Float[np.ndarray, "offset"],
    curve: Float[np.ndarray, "offset"],
) -> Float[np.ndarray, "rate"]:
    """Sum of squares that the best scale explains, at every rate."""
    shapes = np.exp(-rates[:, None] * x)
    return np.square(shapes @ curve) / np.square(shapes).sum(axis=1)


def _rates(shifted: Float[np.ndarray, "offset"]) -> Float[np.ndarray, "rate"]:
    """Rates to start from, from growth by e^20 over all offsets to loss of all by the second."""
    falling = np.geomspace(1e-4 / shifted[-1], 20 / shifted[1], 300)
    rising = -np.geomspace(20 / shifted[-1], 1e-4 / shifted[-1], 100)
    return np.concatenate([rising, [0.0], falling])


Offsets: TypeAlias = Sequence[float | int] | Real[Tensor, "offset"] | Real[np.ndarray, "offset"]
Retainability: TypeAlias = Float[Tensor, "*probe offset"] | Float[np.ndarray, "*probe offset"]


@dataclass(frozen=True)
class ForgettingCurve:
    """A line in the logarithm of the offset, and the curve that it was fitted to."""

    offsets: Float[np.ndarray, "offset"]
    """Those fitted, which leave out 0."""
    retainability: Float[np.ndarray, "offset"]
    """The mean at them."""
    slope: float
    """Change of R per decade of steps; negative where gains are forgotten."""
    intercept: float
    """R at offset 1."""
    threshold: float
    """The offset at which the line crosses zero; infinite where it does not fall."""
    r_squared: float
    """Share of the curve's variance that the line explains; NaN for a constant curve."""
    residual_error: float
    """One standard error of the slope as if offsets were independent; far too small."""
    interval: Interval | None
    """Of the slope, from passages; None for a single curve or a single passage."""
    threshold_interval: Interval | None
    n_probes: int
    """Probes behind the curve at every offset; 1 for a single curve."""
    n_clusters: int
    """Passages that they come from."""
    fits: Mapping[DecayModel, DecayFit]
    """Every shape, fitted to the same curve."""

    @property
    def decay_constant(self) -> float:
        """Share of the gain that is lost per decade of steps."""
        return -self.slope

    @property
    def extrapolated(self) -> bool:
        """Whether the threshold lies beyond the last offset."""
        return bool(self.threshold > self.offsets[-1])

    @property
    def best_by_aic(self) -> DecayModel:
        """The shape with the lowest Akaike criterion."""
        return min(self.fits, key=lambda model: self.fits[model].aic)

    @property
    def best_by_cross_validation(self) -> DecayModel:
        """The shape that best predicts offsets left out."""
        return min(self.fits, key=lambda model: self.fits[model].cross_validation_error)


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
    times = _checked_offsets(offsets)
    values = as_float64(retainability)
    if values.shape[-1] != len(times):
        raise ValueError(
            f"retainability must have one value per offset, found {values.shape[-1]} for "
            f"{len(times)} offsets; pass the offsets that it was taken at"
        )
    if compat is not None and Compat(compat) is Compat.OFFICIAL:
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
    slopes, thresholds = (None, None) if single else _intervals(sums, solve, bootstrap)
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


def _intervals(
    sums: ClusterSums, solve: np.ndarray, bootstrap: ClusterBootstrap
) -> tuple[Interval | None, Interval | None]:
    columns = np.concatenate([sums.values @ solve.T, sums.weights[:, None]], axis=1)
    intercepts, slopes, weights = bootstrap.resampled_sums(columns).T
    intercepts, slopes = intercepts / weights, slopes / weights
    count = len(sums.weights)
    return (
        bootstrap.interval(slopes, count),
        bootstrap.interval(_threshold(intercepts, slopes), count),
    )


def _threshold(intercept: np.ndarray, slope: np.ndarray) -> np.ndarray:
    falling = slope < 0
    with np.errstate(over="ignore"):
        return np.where(falling, 10.0 ** (intercept / np.where(falling, -slope, 1.0)), inf)


def _checked_offsets(offsets: Offsets) -> np.ndarray:
    times = as_float64(offsets)
    if not np.isfinite(times).all() or (times < 0).any() or (np.diff(times) <= 0).any():
        raise ValueError(
            f"offsets must be finite, rising and at least 0, found {_few(times)}; sort them, each "
            "once"
        )
    return times


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


def _few(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4])
    return f"{shown}, ..." if len(values) > 4 else shown
