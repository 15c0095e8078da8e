"""Is it more than chance: intervals and tests, a module for each question.

| question | module |
|---|---|
| Do two measurements of the same items differ? | `analysis.statistics.paired` |
| Would other seeds do the same? | `analysis.statistics.seeds` |
| Would other passages do the same? | `analysis.statistics.clusters` |
| Do two things rise together? | `analysis.statistics.correlations` |
| Do two drifting series? | `analysis.statistics.drifting_series` |
| Do they over checkpoints, with several seeds? | `analysis.statistics.checkpoint_series` |
| Is there a trend, or a majority? | `analysis.statistics.trends` |
| Is the one in the middle best? | `analysis.statistics.peaks` |
| Are two things the same, for all that matters? | `analysis.statistics.equivalence` |
| Which of many tests still count? | `analysis.statistics.families` |

Every test returns a `Tested`: effect, interval, p-value, number, and what was done in words. Too
few data, or data that do not vary, are a `ScaleError`, never a result.
"""

from probes.lazy_exports import lazily

_PACKAGE = "analysis.statistics"
_EXPORTS = {
    "BootstrapMethod": "analysis.bootstrap",
    "CheckpointCluster": f"{_PACKAGE}.choices",
    "ClusterBootstrap": "analysis.cluster_bootstrap",
    "Comparison": f"{_PACKAGE}.results",
    "Correlation": f"{_PACKAGE}.results",
    "CorrelationKind": f"{_PACKAGE}.choices",
    "Direction": f"{_PACKAGE}.choices",
    "Equivalence": f"{_PACKAGE}.results",
    "Estimate": "analysis.bootstrap",
    "Family": f"{_PACKAGE}.choices",
    "ScaleError": f"{_PACKAGE}.checking",
    "SeedTest": f"{_PACKAGE}.choices",
    "SeriesCorrelation": f"{_PACKAGE}.drifting_series",
    "Tested": f"{_PACKAGE}.results",
    "adjusted_together": f"{_PACKAGE}.families",
    "benjamini_hochberg": f"{_PACKAGE}.families",
    "block_jackknife": f"{_PACKAGE}.clusters",
    "bootstrap_interval": "analysis.bootstrap",
    "checkpoint_correlation": f"{_PACKAGE}.checkpoint_series",
    "cluster_interval": f"{_PACKAGE}.clusters",
    "correlation": f"{_PACKAGE}.correlations",
    "equivalent_answers": f"{_PACKAGE}.equivalence",
    "equivalent_means": f"{_PACKAGE}.equivalence",
    "equivalent_pairs": f"{_PACKAGE}.equivalence",
    "equivalent_shares": f"{_PACKAGE}.equivalence",
    "first_differences": f"{_PACKAGE}.drifting_series",
    "holm": f"{_PACKAGE}.families",
    "mcnemar": f"{_PACKAGE}.paired",
    "mean_over_seeds": f"{_PACKAGE}.seeds",
    "paired_permutation": f"{_PACKAGE}.paired",
    "partial_correlation": f"{_PACKAGE}.correlations",
    "peak_test": f"{_PACKAGE}.peaks",
    "series_correlation": f"{_PACKAGE}.drifting_series",
    "series_trend": f"{_PACKAGE}.trends",
    "sign_test": f"{_PACKAGE}.trends",
    "trend_over_seeds": f"{_PACKAGE}.trends",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
