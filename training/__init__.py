"""Train and record: data sets, and what is learnt from them. May import probes and interventions.

Names are exported lazily, so that `python -m training.tuned_lens --help` answers at once.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "Factoid": "training.datasets.factoid_prompts",
    "FactoidSet": "training.datasets.factoids",
    "TranslatorOptimizer": "training.choices",
    "load_factoids": "training.datasets.factoids",
    "train_translators": "training.tuned_lens_training",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
