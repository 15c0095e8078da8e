"""Tables that claims are tested on, from results: runs, sweeps and measurements on disk.

What stands in their columns is said in `analysis.claims.measurements`.
"""

from probes.lazy_exports import lazily

_EXPORTS = {
    "Results": "analysis.claim_tables.folders",
    "acquisition_table": "analysis.claim_tables.acquisition",
    "find_results": "analysis.claim_tables.folders",
    "memorization_table": "analysis.claim_tables.memorization",
    "pretraining_table": "analysis.claim_tables.pretraining",
    "tables_of": "analysis.claim_tables.folders",
    "updates_table": "analysis.claim_tables.pretraining",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
