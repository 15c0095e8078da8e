"""Lazy exports: a package's public names, imported when they are first asked for.

So `import probes` costs nothing, and `python -m analysis.entropy --help` answers at once. Packages
have no `__all__`, of which `help` would print every docstring: it lists names, a line each.

Example:
    >>> import probes
    >>> probes.knowledge_entropy.__module__, "knowledge_entropy" in dir(probes)
    ('probes.entropy', True)
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from probes.refusals import meant

_WIDTH = 88  # characters of a line about a name


class _Package(ModuleType):
    """A package whose `help` lists what it exports."""

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        about = self.__dict__["__doc__"].rstrip()
        lines = [f"    {name}: {_line(getattr(self, name))}" for name in dir(self)]
        head = f"Names; help({self.__name__}.NAME) says more:"
        return "\n".join([about, "", head, *lines])


_HOMES: dict[str, Mapping[str, str]] = {}  # what every package that was imported exports
_NAMES_OF_OTHERS = {
    "HookedTransformer": "probes.load_model",
    "TransformerBridge": "probes.load_model",
    "ActivationCache": "model.run_with_cache",
}


def _instead(name: str, homes: Mapping[str, str]) -> str:
    """What stands for a name that a package does not have."""
    elsewhere = [f"{package}.{name}" for package, names in _HOMES.items() if name in names]
    here = _NAMES_OF_OTHERS.get(name) or next(iter(elsewhere), None)
    return f"it is {here}" if here else meant(name, homes)


def _line(exported: Any) -> str:
    said = (exported.__doc__ or "").strip().partition("\n")[0]
    return said if len(said) <= _WIDTH else f"{said[: _WIDTH - 3]}..."


def lazily(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"{package} has no {name!r}; {_instead(name, homes)}")
        with warnings.catch_warnings():
            # In a notebook tqdm asks for widgets, which are not needed.
            warnings.filterwarnings("ignore", message="IProgress not found")
            module = import_module(homes[name])
        # A package inside of it is exported whole.
        return module if homes[name] == f"{package}.{name}" else getattr(module, name)

    _HOMES[package] = homes
    sys.modules[package].__class__ = _Package
    return find, lambda: sorted(homes)
