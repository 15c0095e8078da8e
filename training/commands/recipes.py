"""Recipes: a run under a name, as a function that returns a frozen configuration.

A training command takes a recipe and changes of it: every field of the configuration is an option
whose default is the recipe's value, as `--help` shows. `with_defaults` makes the class of
arguments that the command line is parsed into; `changed` says what then differs from the recipe.

Example:
    >>> recipe_named("tny", {"tiny": dict, "lab": dict})
    Traceback (most recent call last):
    ValueError: there is no recipe 'tny'; did you mean tiny? There are tiny, lab
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Configuration = TypeVar("Configuration")
Recipes = Mapping[str, Callable[[], Any]]


def recipe_named(name: str, recipes: Mapping[str, Callable[[], Configuration]]) -> Configuration:
    """The configuration of a recipe."""
    if name in recipes:
        return recipes[name]()
    nearest = difflib.get_close_matches(name, recipes, n=1, cutoff=0)[0]
    known = ", ".join(recipes)
    raise ValueError(f"there is no recipe {name!r}; did you mean {nearest}? There are {known}")


def with_defaults(arguments: type[Any], configuration: Any, **others: Any) -> type[Any]:
    """A class of arguments with the values of a configuration as defaults."""
    values = plain_fields(configuration) | others
    fields: list[Any] = [
        (field.name, field.type, dataclasses.field(default=values[field.name]))
        for field in dataclasses.fields(arguments)
        if field.name in values
    ]
    made = dataclasses.make_dataclass(
        arguments.__name__,
        fields,
        bases=(arguments,),
        namespace={"__doc__": arguments.__doc__},
        frozen=True,
        kw_only=True,
    )
    # The help is read from the source of the class, which is the original's.
    made.__module__, made.__qualname__ = arguments.__module__, arguments.__qualname__
    return made


def option_value(argv: Sequence[str], flag: str) -> str | None:
    """What follows an option on a command line; None where it is not there."""
    for place, word in enumerate(argv):
        name, joined, value = word.partition("=")
        if name == flag:
            return value if joined else next(iter(argv[place + 1 :]), None)
    return None


def plain_fields(configuration: Any) -> dict[str, Any]:
    """The fields of a configuration and their values."""
    return {f.name: getattr(configuration, f.name) for f in dataclasses.fields(configuration)}


def as_json(configuration: Any) -> dict[str, Any]:
    """The fields of a configuration as JSON has them: what a manifest holds."""
    return {name: _json(value) for name, value in plain_fields(configuration).items()}


def from_json(kind: type[Configuration], stored: Mapping[str, Any]) -> Configuration:
    """A configuration from what a manifest holds."""
    hints = get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if differing := sorted(names ^ set(stored)):
        raise ValueError(
            f"the stored configuration and this version differ in {differing[0]!r}; go on with the "
            "version that began the run"
        )
    return kind(**{name: _restored(hints[name], value) for name, value in stored.items()})


def changed(configuration: Any, recipe: Any) -> list[str]:
    """The fields in which a configuration differs from its recipe."""
    ours, theirs = plain_fields(configuration), plain_fields(recipe)
    return [name for name, value in ours.items() if value != theirs[name]]


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(inner) for inner in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _restored(hint: Any, value: Any) -> Any:
    """A value from JSON as a field with this type has it: tuples, choices and paths."""
    if value is None:
        return None
    for kind in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        if get_origin(kind) is tuple:
            return tuple(_restored(get_args(kind)[0], one) for one in value)
        if isinstance(kind, type) and issubclass(kind, Enum | Path):
            return kind(value)
    return value
