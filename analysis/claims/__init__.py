"""The papers' claims, as data, and what measurements say about them.

| question | module |
|---|---|
| Which claims are there, and what is one? | `analysis.claims.catalogue`, `analysis.claims.papers` |
| What is it tested on? | `analysis.measurements` |
| What is compared with what? | `analysis.claims.selection` |
| How is it tested? | `analysis.claims.designs` |
| What came out? | `analysis.claims.judging` |
| How is that written, read and shown? | `analysis.claims.ledger` |
"""

from probes.lazy_exports import lazily

_PACKAGE = "analysis.claims"
_EXPORTS = {
    "CLAIMS": f"{_PACKAGE}.catalogue",
    "COLUMNS": "analysis.measurements",
    "Claim": f"{_PACKAGE}.catalogue",
    "Evidence": f"{_PACKAGE}.designs",
    "Finding": f"{_PACKAGE}.judging",
    "MEASURES": "analysis.measurements",
    "Paper": f"{_PACKAGE}.choices",
    "Scale": f"{_PACKAGE}.designs",
    "Table": "analysis.measurements",
    "Verdict": f"{_PACKAGE}.choices",
    "claim_named": f"{_PACKAGE}.catalogue",
    "Ledger": f"{_PACKAGE}.ledger",
    "judge": f"{_PACKAGE}.judging",
    "read_ledger": f"{_PACKAGE}.ledger",
    "write_ledger": f"{_PACKAGE}.ledger",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
