"""Explain: read models and runs, compute, draw, report. May import everything.

Names are exported lazily, so that `python -m analysis.entropy --help` answers at once.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "LensResult": "analysis.lens_result",
    "entropy_figure": "analysis.figures",
    "lens": "analysis.lens_readouts",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
