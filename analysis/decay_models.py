r"""Shapes of forgetting: which of three curves describes what is left after t updates?

With R the retainability, all three have two parameters and are fitted by least squares to R itself,
so their residuals compare:

- log-linear, \(R = b + s \log_{10} t\), which crosses zero: the shape that the paper fits, and
  calls a power law;
- power, \(R = c\, t^{-a}\), which never reaches zero;
- exponential, \(R = c\, e^{-k t}\).

They are compared by Akaike's criterion, \(n \ln(S / n) + 6\) for n offsets and sum of squares S
(three parameters with the variance), and by cross-validation: offsets are left out in up to five
blocks of neighbours, and what is left predicts them. Neighbouring offsets share their noise, so the
criterion is surer of itself than it should be, the more so the denser the offsets; leaving out
blocks suffers less from it.

Source: Chang et al., "How Do Large Language Models Acquire Factual Knowledge During Pretraining?",
NeurIPS 2024 (log-linear); Burnham and Anderson (2002), section 2.2 (the criterion); Roberts et al.
(2017), "Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic
structure" (blocks).

Example:
    >>> import numpy as np
    >>> t = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    >>> fits = fit_decay_models(t, 0.9 * t**-0.5)
    >>> min(fits.values(), key=lambda fit: fit.aic).model
    <DecayModel.POWER: 'power'>
"""

from dataclasses import dataclass
from enum import StrEnum
from math import inf, log

import numpy as np
from jaxtyping import Float

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
    """Every shape, fitted to one curve.

    Args:
        offsets: rising, all above 0, at least three.
        curve: R at them.
    """
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
