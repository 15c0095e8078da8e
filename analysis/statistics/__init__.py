"""Is it more than chance: intervals and tests, a module for each question.

| question | module |
|---|---|
| Do two measurements of the same items differ? | `analysis.statistics.tests` |
| Would other seeds do the same? | `analysis.statistics.tests` |
| Do two things rise together? | `analysis.statistics.correlations` |
| Do two drifting series? | `analysis.statistics.series` |
| Do they over checkpoints, with several seeds? | `analysis.statistics.series` |
| Which of many tests still count? | `analysis.statistics.tests` |

Every test returns a `Tested`: effect, interval, p-value, number, and what was done in words. Too
few data, or data that do not vary, are a `ScaleError`, never a result.
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "BootstrapMethod": "analysis.statistics.bootstrap",
    "CheckpointCluster": "analysis.statistics.results",
    "ClusterBootstrap": "analysis.statistics.bootstrap",
    "Comparison": "analysis.statistics.results",
    "Correlation": "analysis.statistics.results",
    "CorrelationKind": "analysis.statistics.results",
    "Direction": "analysis.statistics.results",
    "Estimate": "analysis.statistics.bootstrap",
    "ScaleError": "analysis.statistics.tests",
    "SeedTest": "analysis.statistics.results",
    "SeriesCorrelation": "analysis.statistics.series",
    "Tested": "analysis.statistics.results",
    "benjamini_hochberg": "analysis.statistics.tests",
    "bootstrap_interval": "analysis.statistics.bootstrap",
    "checkpoint_correlation": "analysis.statistics.series",
    "correlation": "analysis.statistics.correlations",
    "first_differences": "analysis.statistics.series",
    "holm": "analysis.statistics.tests",
    "mcnemar": "analysis.statistics.tests",
    "mean_over_seeds": "analysis.statistics.tests",
    "paired_permutation": "analysis.statistics.tests",
    "series_correlation": "analysis.statistics.series",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
