r"""Do two things rise together? Pearson's and Spearman's correlation.

Points must be independent of each other; for values along a run see `analysis.statistics.series`.

Intervals are Fisher's: \(\tanh(\operatorname{artanh} r \pm z\,s)\) with \(s^2 = 1 / (n - k - 3)\)
for k covariates, times \(1 + r^2 / 2\) for ranks. A Spearman correlation of 1 is taken to lie half
of its smallest step below, since Fisher's transformation has no 1.

p-values are two-sided. That of Spearman's correlation is the share of orders of one of both that
correlate as strongly: of all orders up to eight points, of 9999 random ones above. Otherwise it is
of Student's t with n - k - 2 degrees of freedom, exact for normal values, and near enough for ranks
with covariates (5 to 6 % of tests of nothing come below 0.05, from six points).

Source: Fisher (1924), "The distribution of the partial correlation coefficient"; Bonett and Wright
(2000), "Sample size requirements for estimating Pearson, Kendall and Spearman correlations".

Example:
    >>> import numpy as np
    >>> x, y = np.array([1.0, 2, 3, 4, 5, 6]), np.array([1.0, 3, 2, 4, 6, 5])
    >>> found = correlation(x, y, "spearman")
    >>> round(found.effect, 3), round(found.p_value, 3)
    (0.886, 0.033)
"""

from math import factorial, sqrt

import numpy as np
from jaxtyping import Float

from analysis.statistics.bootstrap import LEVEL, REPLICATES, batch_size, check_level
from analysis.statistics.results import Correlation, CorrelationKind, chosen
from analysis.statistics.tests import (
    ScaleError,
    check_finite,
    check_number,
    check_varied,
    without_rounding,
)
from probes.intervals import Interval

LEAST_POINTS = 4
"""Below it Fisher's interval does not exist."""
ALL_ORDERS = 8
"""Of so many points all orders are tried, of more some at random."""
_DIGITS = 12


def correlation(
    x: Float[np.ndarray, "point"],
    y: Float[np.ndarray, "point"],
    kind: CorrelationKind | str = CorrelationKind.SPEARMAN,
    *,
    level: float = LEVEL,
) -> Correlation:
    """Whether two things rise together.

    Args:
        x: one of them.
        y: the other, in the same order.
        kind: "pearson" or "spearman".
        level: of the interval.

    Raises:
        ValueError: there are fewer than four points, a value is not finite, one of both is the same
            throughout, or an option is out of range.
    """
    kind = chosen(CorrelationKind, kind, "kind")
    for values, name in ((x, "x"), (y, "y")):
        check_finite(values, name)
        check_varied(values, name, "a correlation")
    return tested_correlation(in_kind(x, kind), in_kind(y, kind), kind, 0, level)


def tested_correlation(
    x: Float[np.ndarray, "point"],
    y: Float[np.ndarray, "point"],
    kind: CorrelationKind,
    covariates: int,
    level: float,
) -> Correlation:
    """The correlation of values that are ready for it: ranked and fitted, where that is wanted."""
    from scipy.stats import pearsonr, t

    check_level(level)
    n, ranks = len(x), kind is CorrelationKind.SPEARMAN
    purpose = _named("an interval of a correlation", covariates)
    check_number(n, LEAST_POINTS + covariates, "points", purpose)
    # Rounded, since 1 is a case of its own.
    r = round(float(pearsonr(x, y).statistic), _DIGITS)
    interval = _fisher_interval(r, n, covariates, ranks, level)
    words = _named(f"{kind.title()}, {n} points", covariates)
    if ranks and not covariates:
        done = "all orders" if n <= ALL_ORDERS else f"{REPLICATES} random orders"
        return Correlation(r, interval, _over_orders(x, y), n, f"{words}, {done}")
    freedom = n - covariates - 2
    with np.errstate(divide="ignore"):
        p_value = 2 * t.sf(abs(r) * np.sqrt(np.divide(freedom, 1 - r**2)), freedom)
    return Correlation(r, interval, float(p_value), n, f"{words}, t of {freedom} degrees")


def in_kind(
    values: Float[np.ndarray, "point"], kind: CorrelationKind
) -> Float[np.ndarray, "point"]:
    """Values, or their ranks; values that differ by rounding alone are ties."""
    from scipy.stats import rankdata

    wide = values.astype(np.float64)
    if kind is CorrelationKind.SPEARMAN:
        scale = float(np.abs(wide).max(initial=0.0))
        return rankdata(without_rounding(wide, scale)).astype(np.float64)
    return wide


def residuals(
    values: Float[np.ndarray, "point"], given: Float[np.ndarray, "point covariate"], what: str
) -> Float[np.ndarray, "point"]:
    """What a least-squares fit of covariates and a constant leaves of values."""
    wide = values.astype(np.float64)
    check_finite(wide, what)
    check_varied(wide, what, "a correlation")
    centred, columns = wide - wide.mean(), given - given.mean(axis=0)
    scales = np.abs(columns).max(axis=0)
    if (scales == 0).any() or np.linalg.matrix_rank(columns / scales) < columns.shape[1]:
        raise ValueError(
            f"of {columns.shape[1]} covariates one is constant or follows from the others: leave "
            f"it out"
        )
    scaled = columns / scales
    fitted = centred - scaled @ np.linalg.lstsq(scaled, centred)[0]
    left = without_rounding(fitted, float(np.abs(wide).max()))
    if np.abs(left).max() <= 1e-10 * np.abs(centred).max():
        raise ScaleError(
            f"{what} follows wholly from what is held fixed: nothing is left to correlate"
        )
    return left


def _fisher_interval(r: float, n: int, k: int, ranks: bool, level: float) -> Interval:
    from scipy.stats import norm

    spread = sqrt((1 + r**2 / 2 if ranks else 1.0) / (n - k - 3))
    half = float(norm.ppf((1 + level) / 2)) * spread
    centre = fisher_z(r, n, ranks)
    low, high = float(np.tanh(centre - half)), float(np.tanh(centre + half))
    return Interval(-1.0 if r == -1 else low, 1.0 if r == 1 else high, level)


def fisher_z(r: float, n: int, ranks: bool) -> float:
    """Fisher's transformation, on which correlations are near normal."""
    most = 1 - half_step(n, ranks) if ranks else 1.0
    with np.errstate(divide="ignore"):
        return float(np.arctanh(max(min(r, most), -most)))


def half_step(n: int, ranks: bool) -> float:
    """Half of the smallest step between two correlations of n points: of
    ranks, or of digits kept.
    """
    return 6 / (n**3 - n) if ranks else 0.5 * 10**-_DIGITS


def _over_orders(ranks: Float[np.ndarray, "point"], others: Float[np.ndarray, "point"]) -> float:
    """The share of orders of the ranks that correlate as strongly with the others, either way."""
    from scipy.stats import permutation_test

    centred = others - others.mean()
    tested = permutation_test(
        (ranks,),
        lambda order, axis: (order * centred).sum(axis=axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=factorial(len(ranks)) if len(ranks) <= ALL_ORDERS else REPLICATES,
        batch=batch_size(len(ranks)),
        rng=np.random.default_rng(0),
    )
    return float(tested.pvalue)


def _named(words: str, covariates: int) -> str:
    if not covariates:
        return words
    return f"{words} given {covariates} covariate{'s' if covariates > 1 else ''}"
