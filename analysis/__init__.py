"""Explain: read models and runs, compute, draw, report. May import everything.

Names are exported lazily, so that `python -m analysis.entropy --help` answers at once.
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "ClusterBootstrap": "analysis.cluster_bootstrap",
    "ForgettingCurve": "analysis.forgetting_curve",
    "LensResult": "analysis.logit_lens.result",
    "TrainingRun": "analysis.run_reading",
    "acquisition": "analysis.metrics",
    "checkpoint_ranks": "analysis.checkpoint_depth",
    "depth_change": "analysis.fact_depth",
    "depth_changes": "analysis.fact_depth",
    "depth_table": "analysis.checkpoint_depth",
    "effectivity": "analysis.encounter_gains",
    "entropy_figure": "analysis.figures",
    "fit_forgetting_curve": "analysis.forgetting_curve",
    "forgetting": "analysis.metrics",
    "kept_share": "analysis.retention",
    "knowledge_scores": "analysis.knowledge_tables",
    "learnability_threshold": "analysis.learnability",
    "lens": "analysis.logit_lens.readouts",
    "log_spaced_offsets": "analysis.forgetting_curve",
    "net_gain": "analysis.encounter_gains",
    "read_run": "analysis.run_reading",
    "retainability": "analysis.encounter_gains",
    "retention_difference": "analysis.retention",
    "retention_of": "analysis.retention",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
