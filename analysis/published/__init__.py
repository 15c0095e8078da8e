"""What the papers report, as data, and whether results agree with it.

| question | module |
|---|---|
| What was reported, and what do results say of it? | `.results` |
| Which results stand for a number? | `.selectors` |
| Do they agree, and how is that shown? | `.verification` |
"""

from probes.lazy_exports import lazily

_MODULES = {
    "results": (
        *("INCONSISTENCIES", "Inconsistency", "PUBLISHED", "Published"),
        *("Measured", "settings_of_results"),
    ),
    "verification": (
        *("Agreement", "Comparison", "compare", "headline", "verification_table", "verify"),
        *("verify_command", "write_verification"),
    ),
}
_EXPORTS = {name: f"{__name__}.{where}" for where, names in _MODULES.items() for name in names}

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
