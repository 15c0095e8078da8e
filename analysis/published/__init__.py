"""What the papers report, as data, and whether a measurement agrees with it.

| question | module |
|---|---|
| What was reported? | `analysis.published.catalogue`, and a module for each paper |
| What does not go together? | `analysis.published.inconsistencies` |
| Does a measurement agree? | `analysis.published.comparing` |
| Do results agree? | `analysis.published.measured`, and a module for each sort of number |
| What is shown of that? | `analysis.published.verification`, and the same with `_texts` |
"""

from probes.lazy_exports import lazily

_PACKAGE = "analysis.published"
_EXPORTS = {
    "Agreement": f"{_PACKAGE}.comparing",
    "Comparison": f"{_PACKAGE}.measured",
    "Compared": f"{_PACKAGE}.comparing",
    "INCONSISTENCIES": f"{_PACKAGE}.inconsistencies",
    "Inconsistency": f"{_PACKAGE}.inconsistencies",
    "Measured": f"{_PACKAGE}.comparing",
    "PUBLISHED": f"{_PACKAGE}.catalogue",
    "Published": f"{_PACKAGE}.records",
    "compare": f"{_PACKAGE}.comparing",
    "inconsistencies_of": f"{_PACKAGE}.inconsistencies",
    "published_named": f"{_PACKAGE}.catalogue",
    "settings_of_results": f"{_PACKAGE}.result_settings",
    "verification_table": f"{_PACKAGE}.verification",
    "verify": f"{_PACKAGE}.measured",
    "verify_tables": f"{_PACKAGE}.verification",
    "verify_command": f"{_PACKAGE}.verification",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
