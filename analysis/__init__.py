"""Explain: read models and runs, compute, draw, report. May import everything.

Names are exported lazily, so that `python -m analysis.entropy --help` answers at once.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "ClusterBootstrap": "analysis.cluster_bootstrap",
    "ForgettingCurve": "analysis.forgetting_curve",
    "LensResult": "analysis.lens_result",
    "TrainingRun": "analysis.run_reading",
    "acquisition": "analysis.metrics",
    "effectivity": "analysis.encounter_gains",
    "entropy_figure": "analysis.figures",
    "fit_forgetting_curve": "analysis.forgetting_curve",
    "forgetting": "analysis.metrics",
    "knowledge_scores": "analysis.knowledge_tables",
    "learnability_threshold": "analysis.learnability",
    "lens": "analysis.lens_readouts",
    "log_spaced_offsets": "analysis.forgetting_curve",
    "net_gain": "analysis.encounter_gains",
    "read_run": "analysis.run_reading",
    "retainability": "analysis.encounter_gains",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
