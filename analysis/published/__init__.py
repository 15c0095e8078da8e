"""What the papers report, as data, and whether a measurement agrees with it.

| question | module |
|---|---|
| What was reported? | `analysis.published.catalogue`, and a module for each paper |
| What does not go together? | `analysis.published.inconsistencies` |
| Does a measurement agree? | `analysis.published.comparing` |
"""

from probes.lazy_exports import lazily

_PACKAGE = "analysis.published"
_EXPORTS = {
    "Agreement": f"{_PACKAGE}.comparing",
    "Compared": f"{_PACKAGE}.comparing",
    "INCONSISTENCIES": f"{_PACKAGE}.inconsistencies",
    "Inconsistency": f"{_PACKAGE}.inconsistencies",
    "Measured": f"{_PACKAGE}.comparing",
    "PUBLISHED": f"{_PACKAGE}.catalogue",
    "Published": f"{_PACKAGE}.records",
    "compare": f"{_PACKAGE}.comparing",
    "inconsistencies_of": f"{_PACKAGE}.inconsistencies",
    "published_named": f"{_PACKAGE}.catalogue",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
