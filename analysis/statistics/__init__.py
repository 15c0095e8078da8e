"""Is it more than chance: intervals and tests, a module for each question.

| question | module |
|---|---|
| Do two measurements of the same items differ? | `analysis.statistics.paired` |
| Would other seeds do the same? | `analysis.statistics.seeds` |
| Do two things rise together? | `analysis.statistics.correlations` |
| Do two drifting series? | `analysis.statistics.drifting_series` |
| Do they over checkpoints, with several seeds? | `analysis.statistics.checkpoint_series` |
| Which of many tests still count? | `analysis.statistics.families` |

Every test returns a `Tested`: effect, interval, p-value, number, and what was done in words. Too
few data, or data that do not vary, are a `ScaleError`, never a result.
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "BootstrapMethod": "analysis.bootstrap",
    "CheckpointCluster": "analysis.statistics.choices",
    "ClusterBootstrap": "analysis.cluster_bootstrap",
    "Comparison": "analysis.statistics.results",
    "Correlation": "analysis.statistics.results",
    "CorrelationKind": "analysis.statistics.choices",
    "Direction": "analysis.statistics.choices",
    "Estimate": "analysis.bootstrap",
    "ScaleError": "analysis.statistics.checking",
    "SeedTest": "analysis.statistics.choices",
    "SeriesCorrelation": "analysis.statistics.drifting_series",
    "Tested": "analysis.statistics.results",
    "benjamini_hochberg": "analysis.statistics.families",
    "bootstrap_interval": "analysis.bootstrap",
    "checkpoint_correlation": "analysis.statistics.checkpoint_series",
    "correlation": "analysis.statistics.correlations",
    "first_differences": "analysis.statistics.drifting_series",
    "holm": "analysis.statistics.families",
    "mcnemar": "analysis.statistics.paired",
    "mean_over_seeds": "analysis.statistics.seeds",
    "paired_permutation": "analysis.statistics.paired",
    "series_correlation": "analysis.statistics.drifting_series",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
