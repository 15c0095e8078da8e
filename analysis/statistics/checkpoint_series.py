r"""Do two things follow each other over checkpoints, with several seeds?

Of which other data the answer should hold decides what counts as one:

- `checkpoint`: seeds share the checkpoints of one pretraining run. They are averaged, which takes
  their noise off, and the number is that of the checkpoints: five seeds on eight checkpoints are
  eight points, not forty.
- `seed`: every seed has a pretraining run of its own. Each gives a correlation, and Student's t
  over Fisher's \(\operatorname{artanh} r\) of the seeds gives the interval; nothing is supposed of
  how points of one run hang together, only that runs are independent.

Either way `analysis.statistics.drifting_series` keeps what merely drifts apart from what follows.
With fewer than eight checkpoints or three seeds there is a `ScaleError`, not a result.

Example:
    >>> import numpy as np
    >>> ages, noise = np.arange(8.0), np.random.default_rng(0)
    >>> entropy = noise.normal(size=8) - ages
    >>> gains = entropy + 0.1 * noise.normal(size=(3, 8))
    >>> found = checkpoint_correlation(entropy[None], gains, ages)
    >>> found.p_value < 0.05, found.differences.n
    (True, 7)
"""

from collections.abc import Sequence
from math import sqrt

import numpy as np
from jaxtyping import Float, Real

from analysis.bootstrap import LEVEL
from analysis.statistics.checking import ScaleError, check_finite, is_constant
from analysis.statistics.choices import CheckpointCluster, CorrelationKind, chosen
from analysis.statistics.correlations import half_step
from analysis.statistics.drifting_series import SeriesCorrelation, series_correlation
from analysis.statistics.results import Correlation, Tested
from analysis.statistics.seeds import mean_over_seeds
from probes.intervals import Interval

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
