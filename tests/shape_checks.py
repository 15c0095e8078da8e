"""Annotations of the four packages are checked while tests run: shapes by jaxtyping, types by beartype.

jaxtyping's own import hook wraps every function, and a function within another anew whenever that
one is called, which took most of the time of a test. Here it wraps what has annotations of arrays.
Other functions of modules and classes get beartype's wrapper alone, those within functions none.
"""

import ast
import dataclasses
import sys
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import cache_from_source
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

import jaxtyping
from beartype import beartype

PACKAGES = ("probes", "interventions", "training", "analysis")
_CACHE = "checked1"
"""Names the compiled files; another number after every change to what `_Decorated` does."""


def _names_arrays(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(_names_arrays(part) for part in get_args(hint))


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """An annotation without strings; anything where these name what is not there at run time."""

    def made(value: hint) -> None: ...

    try:
        return get_type_hints(made, names, include_extras=True)["value"]
    except Exception:
        return Any


def checked_within(made: Any) -> Any:
    """Check a function or dataclass if one of its annotations is an array's."""
    if any(map(_names_arrays, getattr(made, "__annotations__", {}).values())):
        return jaxtyping.jaxtyped(typechecker=beartype)(made)
    return made


def checked(made: Any) -> Any:
    """Check a function or dataclass, with shapes if one of its annotations is an array's."""
    if isinstance(made, type):
        if dataclasses.is_dataclass(made) and "__init__" in vars(made):
            made.__init__ = checked(made.__init__)
        return made
    given = made.__annotations__
    made.__annotations__ = {name: _resolved(hint, made.__globals__) for name, hint in given.items()}
    found = checked_within(made)
    found = beartype(made) if found is made else found
    made.__annotations__ = found.__annotations__ = given
    return found


class _Decorated(ast.NodeTransformer):
    """Puts the checks before a class's other decorators and after a function's."""

    depth = 0

    def _decorator(self, node: ast.AST) -> ast.expr:
        name = "checked_within" if self.depth else "checked"
        made = ast.parse(f"__import__('sys').modules['{__name__}'].{name}").body[0].value
        return ast.copy_location(made, node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.decorator_list.insert(0, self._decorator(node))
        self.generic_visit(node)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if node.returns or any(
            one.annotation for one in ast.walk(node.args) if isinstance(one, ast.arg)
        ):
            node.decorator_list.append(self._decorator(node))
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node


class _Loader(SourceFileLoader):
    def source_to_code(self, data: bytes, path: str, *, _optimize: int = -1) -> Any:
        tree = _Decorated().visit(ast.parse(data))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: Any) -> None:
        named = partial(cache_from_source, optimization=_CACHE)
        with patch("importlib._bootstrap_external.cache_from_source", named):
            super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Check what is imported from now on."""
    early = [name for name in PACKAGES if name in sys.modules]
    assert not early, f"imported before they could be checked: {early}"
    sys.meta_path.insert(0, _Finder())
