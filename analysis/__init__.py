"""Explain: read models and runs, compute, draw, report. May import everything.

Names are exported lazily, so that `python -m analysis.entropy --help` answers at once.
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "ClusterBootstrap": "analysis.significance",
    "ForgettingCurve": "analysis.forgetting_curve",
    "LensResult": "analysis.lens_result",
    "PatchingResult": "probes.activation_patching",
    "TrainingRun": "analysis.runs",
    "acquisition": "analysis.metrics",
    "checkpoint_ranks": "analysis.depth",
    "compare_lenses": "analysis.lens_tables",
    "depth_change": "analysis.depth",
    "depth_table": "analysis.depth",
    "effectivity": "analysis.encounters",
    "entropy_figure": "analysis.entropy_figures",
    "fit_forgetting_curve": "analysis.forgetting_curve",
    "forgetting": "analysis.metrics",
    "kept_share": "analysis.remix_measures",
    "knowledge_scores": "analysis.ckl_measures",
    "learnability_threshold": "analysis.encounters",
    "lens": "analysis.lens_result",
    "lens_heatmap": "analysis.lens_figures",
    "lens_table": "analysis.lens_tables",
    "log_spaced_offsets": "analysis.forgetting_curve",
    "net_gain": "analysis.encounters",
    "patching": "probes.activation_patching",
    "plot_result": "analysis.plots",
    "read_run": "analysis.runs",
    "retainability": "analysis.encounters",
    "retention_difference": "analysis.remix_measures",
    "retention_of": "analysis.remix_measures",
    "save_lens": "analysis.lens_page",
    "sweep": "analysis.trajectory",
}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
