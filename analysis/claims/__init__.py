"""The papers' claims, as data, and what measurements say about them."""

from probes.lazy_exports import lazily

_MODULES = {
    "analysis.claims.selection": ("Age", "Pretrained"),
    "analysis.claims.catalogue": ("CLAIMS", "Claim", "claim_named"),
    "analysis.claims.choices": ("Paper", "Verdict"),
    "analysis.claims.designs": ("Evidence", "Scale"),
    "analysis.claims.judging": ("Finding", "judge"),
    "analysis.claims.ledger": ("Ledger", "read_ledger", "write_ledger"),
    "analysis.measurements": ("COLUMNS", "MEASURES", "Table"),
}
_EXPORTS = {name: where for where, names in _MODULES.items() for name in names}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
