"""Do two things rise together? Pearson's and Spearman's correlation, also of series that drift.

Intervals are Fisher's, with Bonett and Wright's wider one for ranks. p-values are two-sided: of
Spearman's correlation the share of orders that correlate as strongly, otherwise of Student's t.

Points must be independent of each other, which points along a run are not: two random walks of ten
points correlate beyond 0.6 in every third draw. So `series_correlation` has three: `levels`, only
to be seen; `differences` from each point to the next, right where series wander; `detrended`, of
what a line over the clock leaves, right where series are noise about it. `p_value` is the larger
one of the last two, and 1 where their signs differ. In simulations of 6 to 20 points it came below
0.05 in 1 to 4 % of cases where nothing but drift was shared. A curve that both share is not taken
off: choose a clock (the logarithm of steps, say) over which it is a line.

Source: Fisher (1924), on the partial correlation coefficient; Bonett and Wright (2000), on Pearson,
Kendall and Spearman correlations; Yule (1926) and Granger and Newbold (1974), on series that
drift; Berger (1982), for the larger p-value.

Example:
    >>> import numpy as np
    >>> x, y = np.array([1.0, 2, 3, 4, 5, 6]), np.array([1.0, 3, 2, 4, 6, 5])
    >>> found = correlation(x, y, "spearman")
    >>> round(found.effect, 3), round(found.p_value, 3)
    (0.886, 0.033)
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from math import factorial, sqrt

import numpy as np
from jaxtyping import Float, Real

from analysis.significance import (
    LEVEL,
    REPLICATES,
    Correlation,
    ScaleError,
    Tested,
    batch_size,
    check_finite,
    check_level,
    check_number,
    check_varied,
    is_constant,
    mean_over_seeds,
    without_rounding,
)
from probes.choices import as_choice
from probes.corpus_means import Interval

LEAST_POINTS = 4  # below it Fisher's interval does not exist
LEAST_SERIES = 6  # points of a series: five differences, and a covariate where gaps are uneven
LEAST_CHECKPOINTS, LEAST_SEEDS = 8, 3
ALL_ORDERS = 8  # up to so many points all orders are tried, above that some at random
_DIGITS = 12


class CorrelationKind(StrEnum):
    """What rises together."""

    PEARSON = "pearson"  # the values: along a line
    # Their ranks: along any curve that rises or falls; one stray value counts as any other.
    SPEARMAN = "spearman"


class CheckpointCluster(StrEnum):
    """What is drawn anew when the correlation over checkpoints is asked of other data."""

    # Other checkpoints of the same pretraining run, which seeds share: they are averaged first.
    CHECKPOINT = "checkpoint"
    # Other pretraining runs: each seed has its own checkpoints and a correlation of its own.
    SEED = "seed"


def correlation(
    x: Float[np.ndarray, "point"],
    y: Float[np.ndarray, "point"],
    kind: CorrelationKind | str = CorrelationKind.SPEARMAN,
    *,
    level: float = LEVEL,
) -> Correlation:
    """Whether two things rise together."""
    kind = as_choice(CorrelationKind, kind, "kind")
    for values, name in ((x, "x"), (y, "y")):
        check_finite(values, name)
        check_varied(values, name, "a correlation")
    return _tested(x, y, kind, 0, level)


def _tested(
    x: Float[np.ndarray, "point"],
    y: Float[np.ndarray, "point"],
    kind: CorrelationKind,
    covariates: int,
    level: float,
) -> Correlation:
    """The correlation of values from which the covariates have been taken."""
    from scipy.stats import pearsonr, t

    check_level(level)
    n, ranks = len(x), kind is CorrelationKind.SPEARMAN
    given = f" given {covariates} covariate{'s' * (covariates > 1)}" if covariates else ""
    purpose = f"an interval of a correlation{given}"
    check_number(n, LEAST_POINTS + covariates, "points", purpose)
    x, y = in_kind(x, kind), in_kind(y, kind)
    # Rounded, since 1 is a case of its own.
    r = round(float(pearsonr(x, y).statistic), _DIGITS)
    interval = _fisher_interval(r, n, covariates, ranks, level)
    words = f"{kind.title()}, {n} points{given}"
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


def _residuals(
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
    # Fisher's transformation, on which correlations are near normal.
    most = 1 - _half_step(n, ranks) if ranks else 1.0
    with np.errstate(divide="ignore"):
        centre = float(np.arctanh(max(min(r, most), -most)))
    low, high = float(np.tanh(centre - half)), float(np.tanh(centre + half))
    return Interval(-1.0 if r == -1 else low, 1.0 if r == 1 else high, level)


def _half_step(n: int, ranks: bool) -> float:
    """Half of the smallest step between correlations of n points: of ranks, or of digits kept."""
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


@dataclass(frozen=True)
class SeriesCorrelation:
    """Two series against each other; see the module for what each correlation can show."""

    levels: Correlation  # the series as they are
    differences: Correlation  # of the steps from each point to the next
    detrended: Correlation  # what a line over the clock leaves

    @property
    def p_value(self) -> float:
        """Chance of both differences and residuals as extreme, if nothing but drift were shared."""
        if self.direction == 0:
            return 1.0
        return max(self.differences.p_value, self.detrended.p_value)

    @property
    def direction(self) -> int:
        """1 or -1 where differences and residuals rise together or against each other, else 0."""
        signs = {int(np.sign(each.effect)) for each in (self.differences, self.detrended)}
        return signs.pop() if len(signs) == 1 else 0


def series_correlation(
    x: Float[np.ndarray, "point"],
    y: Float[np.ndarray, "point"],
    clock: Real[np.ndarray, "point"],
    kind: CorrelationKind | str = CorrelationKind.SPEARMAN,
    *,
    level: float = LEVEL,
) -> SeriesCorrelation:
    """Whether two series of one run follow each other."""
    kind = as_choice(CorrelationKind, kind, "kind")
    check_number(len(clock), LEAST_SERIES, "points", "a correlation of series")
    times = _checked_clock(clock)
    steps_x, steps_y = first_differences(x, times, "x"), first_differences(y, times, "y")
    left_x, left_y = _residuals(x, times[:, None], "x"), _residuals(y, times[:, None], "y")
    return SeriesCorrelation(
        levels=correlation(x, y, kind, level=level),
        differences=_tested(steps_x, steps_y, kind, int(_uneven(times)), level),
        detrended=_tested(left_x, left_y, kind, 1, level),
    )


def first_differences(
    values: Float[np.ndarray, "point"], clock: Real[np.ndarray, "point"], what: str = "the series"
) -> Float[np.ndarray, "difference"]:
    """Steps of a series from each point to the next."""
    check_number(len(values), 3, "points", "a series of differences")
    check_finite(values, what)
    times = _checked_clock(clock)
    wide = values.astype(np.float64)
    steps = without_rounding(np.diff(wide), float(np.abs(wide).max()))
    check_varied(steps, f"the steps of {what}", "a correlation of differences")
    return _residuals(steps, np.diff(times)[:, None], what) if _uneven(times) else steps


def _checked_clock(clock: Real[np.ndarray, "point"]) -> Float[np.ndarray, "point"]:
    times = clock.astype(np.float64)
    check_finite(times, "the clock")
    if wrong := int((np.diff(times) <= 0).sum()):
        raise ValueError(
            f"the clock does not rise at {wrong} of {len(times) - 1} steps: sort the points by it, "
            "each once"
        )
    return times


def _uneven(times: Float[np.ndarray, "point"]) -> bool:
    return not is_constant(np.round(np.diff(times) / (times[-1] - times[0]), 9))


def checkpoint_correlation(
    x: Float[np.ndarray, "#seed checkpoint"],
    y: Float[np.ndarray, "seed checkpoint"],
    clock: Real[np.ndarray, "checkpoint"],
    cluster: CheckpointCluster | str = CheckpointCluster.CHECKPOINT,
    kind: CorrelationKind | str = CorrelationKind.SPEARMAN,
    *,
    level: float = LEVEL,
) -> SeriesCorrelation:
    """Whether two things follow each other over checkpoints."""
    cluster = as_choice(CheckpointCluster, cluster, "cluster")
    kind = as_choice(CorrelationKind, kind, "kind")
    seeds, checkpoints = y.shape
    if checkpoints < LEAST_CHECKPOINTS or seeds < LEAST_SEEDS:
        raise ScaleError(
            f"not tested at this scale: found {checkpoints} checkpoints and {seeds} seeds, a "
            f"correlation over checkpoints needs {LEAST_CHECKPOINTS} and {LEAST_SEEDS}"
        )
    check_finite(x, "x")
    check_finite(y, "y")
    if cluster is CheckpointCluster.CHECKPOINT:
        return series_correlation(x.mean(axis=0), y.mean(axis=0), clock, kind, level=level)
    if len(x) != seeds:
        raise ValueError(
            f"found one row of x for {seeds} seeds, which share their checkpoints: choose "
            f"{CheckpointCluster.CHECKPOINT.value!r}"
        )
    each = [series_correlation(*rows, clock, kind, level=level) for rows in zip(x, y, strict=True)]
    over = {
        part.name: _over_seeds([getattr(found, part.name) for found in each], kind, level)
        for part in fields(SeriesCorrelation)
    }
    return SeriesCorrelation(**over)


def _over_seeds(found: Sequence[Correlation], kind: CorrelationKind, level: float) -> Correlation:
    """The mean correlation on Fisher's scale, where those of seeds are near normal."""
    half = _half_step(found[0].n, kind is CorrelationKind.SPEARMAN)
    most = 1 - half
    each = np.arctanh(np.clip([one.effect for one in found], -most, most))
    alike = is_constant(each)
    over = _all_alike(each, half, level) if alike else mean_over_seeds(each, level=level)
    low, high = np.tanh([over.interval.low, over.interval.high])
    return Correlation(
        float(np.tanh(over.effect)),
        Interval(float(low), float(high), level),
        over.p_value,
        over.n,
        f"{found[0].test.split(', ')[0]} of {found[0].n} points, {over.test}",
    )


def _all_alike(each: Float[np.ndarray, "seed"], half: float, level: float) -> Tested:
    """The t-test of equal values, with the largest spread that steps of a correlation hide."""
    from scipy.stats import t

    centre, freedom = float(each[0]), len(each) - 1
    hidden = abs(centre) - np.arctanh(np.tanh(abs(centre)) - half)
    error = float(hidden) / sqrt(freedom)
    reach = float(t.ppf((1 + level) / 2, freedom)) * error
    return Tested(
        centre,
        Interval(centre - reach, centre + reach, level),
        float(2 * t.sf(abs(centre) / error, freedom)),
        len(each),
        f"t-test over {len(each)} seeds, two-sided, all alike: as far apart as steps of r can hide",
    )
