"""The papers' claims, as data, and what measurements say about them.

| question | module |
|---|---|
| Which claims are there? | `analysis.claims.catalogue` |
| What is a claim? | `analysis.claims.claim` |
| What is it tested on? | `analysis.claims.measurements` |
| How is it tested? | `analysis.claims.designs`, `analysis.claims.following` |
| What is compared with what? | `analysis.claims.selection` |
| What came out? | `analysis.claims.verdicts` |
"""

from probes.lazy_exports import lazily

_PACKAGE = "analysis.claims"
_EXPORTS = {
    "CLAIMS": f"{_PACKAGE}.catalogue",
    "COLUMNS": f"{_PACKAGE}.measurements",
    "Claim": f"{_PACKAGE}.claim",
    "Evidence": f"{_PACKAGE}.evidence",
    "Finding": f"{_PACKAGE}.verdicts",
    "MEASURES": f"{_PACKAGE}.measurements",
    "Paper": f"{_PACKAGE}.choices",
    "Scale": f"{_PACKAGE}.evidence",
    "Table": f"{_PACKAGE}.measurements",
    "Verdict": f"{_PACKAGE}.choices",
    "claim_named": f"{_PACKAGE}.catalogue",
    "findings_table": f"{_PACKAGE}.verdicts",
    "judge": f"{_PACKAGE}.verdicts",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
