"""Lazy exports: a package's public names, imported when they are first asked for.

So `import probes` costs nothing, and `python -m analysis.entropy --help` answers at once.

Example:
    >>> find, names = lazily("probes", {"knowledge_entropy": "probes.entropy"})
    >>> names(), find("knowledge_entropy").__module__
    (['knowledge_entropy'], 'probes.entropy')
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return find, lambda: sorted(homes)
