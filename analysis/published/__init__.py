"""What the papers report, as data, and whether results agree with it.

| question | module |
|---|---|
| What was reported, and what of it does not go together? | `.published_numbers` |
| Which runs stand for a number? | `.selectors`, `.result_rows` |
| What were these results made with? | `.result_settings` |
| Does a measurement agree with a number? | `.comparing` |
| Do results agree, and how is that shown? | `.verification` |
"""

from probes.lazy_exports import lazily

_PACKAGE = "analysis.published"
_EXPORTS = {
    "Agreement": f"{_PACKAGE}.comparing",
    "Comparison": f"{_PACKAGE}.comparing",
    "INCONSISTENCIES": f"{_PACKAGE}.published_numbers",
    "Inconsistency": f"{_PACKAGE}.published_numbers",
    "Measured": f"{_PACKAGE}.comparing",
    "PUBLISHED": f"{_PACKAGE}.published_numbers",
    "Published": f"{_PACKAGE}.published_numbers",
    "compare": f"{_PACKAGE}.comparing",
    "headline": f"{_PACKAGE}.verification",
    "published_named": f"{_PACKAGE}.published_numbers",
    "settings_of_results": f"{_PACKAGE}.result_settings",
    "verification_table": f"{_PACKAGE}.verification",
    "verify": f"{_PACKAGE}.verification",
    "verify_command": f"{_PACKAGE}.verification",
    "write_verification": f"{_PACKAGE}.verification",
}

__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazily(__name__, _EXPORTS)
