r"""Do two series follow each other, or does each merely drift? Correlations along a run.

Two random walks of ten points, that have nothing to do with each other, correlate beyond 0.6 in
every third draw; so do any two things that merely age. `series_correlation` gives three
correlations, and a p-value that takes two of them to be small:

- `levels`: of the series as they are. Its p-value takes the points for independent, which points of
  a run are not: it is there to be seen.
- `differences`: from each point to the next. Right where series wander (random walks); where they
  are noise about a line it finds too much (7 to 10 % of tests at the 5 % level), since differences
  of noise hang together. Where the points are not evenly spaced, gaps are held fixed.
- `detrended`: of what a line over the clock leaves of each. Right where series are noise about a
  line; where they wander it finds too much (9 % of tests on 8 points, 27 % on 20).

`p_value` is the larger one of the last two, and 1 where their signs differ: two series that wander,
or are noise about lines, or both in any measure, come below 0.05 in 1 to 4 % of cases (simulations
of 6 to 20 points), so never too often. A curve that both share, such as a decay that is fast at
first, is not taken off: choose a clock (the logarithm of steps, say) over which it is near a line.

Source: Yule (1926), "Why do we sometimes get nonsense-correlations between time-series?"; Granger
and Newbold (1974), "Spurious regressions in econometrics"; Berger (1982), for the larger p-value.

Example:
    >>> import numpy as np
    >>> steps = np.arange(9)
    >>> down, up = 9.0 - steps + np.sin(steps), 1.0 * steps + np.sin(5.0 * steps)
    >>> found = series_correlation(down, up, steps)
    >>> round(found.levels.effect, 2), round(found.differences.effect, 2)
    (-0.98, -0.1)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float, Real

from analysis.statistics.bootstrap import LEVEL
from analysis.statistics.correlations import (
    correlation,
    half_step,
    in_kind,
    residuals,
    tested_correlation,
)
from analysis.statistics.results import (
    CheckpointCluster,
    Correlation,
    CorrelationKind,
    Tested,
    chosen,
)
from analysis.statistics.tests import (
    ScaleError,
    check_finite,
    check_number,
    check_varied,
    is_constant,
    mean_over_seeds,
    without_rounding,
)
from probes.intervals import Interval

LEAST_SERIES = 6
"""Points of a series: five differences, and a covariate where gaps are uneven."""


@dataclass(frozen=True)
class SeriesCorrelation:
    """Two series against each other; see the module for what each correlation can show.

    Attributes:
        levels: of the series as they are.
        differences: of the steps from each point to the next.
        detrended: of what a line over the clock leaves.
    """

    levels: Correlation
    differences: Correlation
    detrended: Correlation

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
    """Whether two series of one run follow each other.

    Args:
        x: one of them, in the order of time.
        y: the other.
        clock: when each point is, rising: steps, tokens, or their logarithm.
        kind: "pearson" or "spearman" (ranks of levels, of differences, of residuals).
        level: of the intervals.

    Raises:
        ValueError: there are fewer than six points, the clock does not rise, a value is not finite,
            a series never moves or is a line, or an option is out of range.
    """
    kind = chosen(CorrelationKind, kind, "kind")
    check_number(len(clock), LEAST_SERIES, "points", "a correlation of series")
    times = _checked_clock(clock)
    steps_x, steps_y = first_differences(x, times, "x"), first_differences(y, times, "y")
    left_x, left_y = residuals(x, times[:, None], "x"), residuals(y, times[:, None], "y")
    return SeriesCorrelation(
        levels=correlation(x, y, kind, level=level),
        differences=tested_correlation(
            in_kind(steps_x, kind), in_kind(steps_y, kind), kind, int(_uneven(times)), level
        ),
        detrended=tested_correlation(in_kind(left_x, kind), in_kind(left_y, kind), kind, 1, level),
    )


def first_differences(
    values: Float[np.ndarray, "point"], clock: Real[np.ndarray, "point"], what: str = "the series"
) -> Float[np.ndarray, "difference"]:
    """Steps of a series from each point to the next.

    Args:
        values: in the order of time.
        clock: when each is, rising. Where gaps differ, what a fit of the gaps and a constant
            leaves is returned: a line over the clock has longer steps over longer gaps, and so
            would any other line.
        what: to call the series in a complaint.

    Raises:
        ValueError: there are fewer than three points, a value is not finite, the clock does not
            rise, or the series is the same throughout or a line over an uneven clock.
    """
    check_number(len(values), 3, "points", "a series of differences")
    check_finite(values, what)
    times = _checked_clock(clock)
    wide = values.astype(np.float64)
    steps = without_rounding(np.diff(wide), float(np.abs(wide).max()))
    check_varied(steps, f"the steps of {what}", "a correlation of differences")
    return residuals(steps, np.diff(times)[:, None], what) if _uneven(times) else steps


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


LEAST_CHECKPOINTS = 8
LEAST_SEEDS = 3


def checkpoint_correlation(
    x: Float[np.ndarray, "#seed checkpoint"],
    y: Float[np.ndarray, "seed checkpoint"],
    clock: Real[np.ndarray, "checkpoint"],
    cluster: CheckpointCluster | str = CheckpointCluster.CHECKPOINT,
    kind: CorrelationKind | str = CorrelationKind.SPEARMAN,
    *,
    level: float = LEVEL,
) -> SeriesCorrelation:
    """Whether two things follow each other over checkpoints.

    Args:
        x: one of them, such as knowledge entropy; one row where seeds share the checkpoints.
        y: the other, such as acquisition, one row a seed.
        clock: age of the checkpoints, rising: steps, tokens, or their logarithm.
        cluster: "checkpoint" where seeds share them, "seed" where each has its own.
        kind: "pearson" or "spearman".
        level: of the intervals.

    Raises:
        ScaleError: there are fewer than eight checkpoints or three seeds, a value is not finite,
            or a series never moves or is a line.
        ValueError: `cluster` is "seed" and x has one row, or an option is out of range.
    """
    cluster = chosen(CheckpointCluster, cluster, "cluster")
    kind = chosen(CorrelationKind, kind, "kind")
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
    return SeriesCorrelation(
        levels=_over_seeds([found.levels for found in each], kind, level),
        differences=_over_seeds([found.differences for found in each], kind, level),
        detrended=_over_seeds([found.detrended for found in each], kind, level),
    )


def _over_seeds(found: Sequence[Correlation], kind: CorrelationKind, level: float) -> Correlation:
    """The mean correlation on Fisher's scale, where those of seeds are near normal."""
    half = half_step(found[0].n, kind is CorrelationKind.SPEARMAN)
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
