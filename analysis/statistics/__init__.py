"""Is it more than chance: intervals and tests, a module for each question.

| question | module |
|---|---|
| How far would a statistic move with other passages? | `analysis.statistics.bootstrap` |
| Do two measurements of the same items differ? Would other seeds do the same? | `.tests` |
| Do two things, two drifting series, rise together? | `.correlations` |

Every test returns a `Tested`: effect, interval, p-value, number, and what was done in words. Too
few data, or data that do not vary, are a `ScaleError`, never a result.
"""

from probes.lazy_exports import lazily

_MODULES = {
    "bootstrap": ("ClusterBootstrap",),
    "correlations": (
        *("CheckpointCluster", "CorrelationKind", "SeriesCorrelation", "checkpoint_correlation"),
        *("correlation", "first_differences", "series_correlation"),
    ),
    "tests": (
        *("Comparison", "Correlation", "Direction", "ScaleError", "Tested"),
        *("holm", "mcnemar", "mean_over_seeds", "paired_permutation"),
    ),
}
_EXPORTS = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
