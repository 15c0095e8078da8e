"""Recipes: a run under a name, as a function that returns a frozen configuration.

Every field of a configuration is an option of its command, whose default is the recipe's value.
What several commands can be asked stands in `training.options`.

Example:
    >>> recipe_named("tny", {"tiny": dict, "lab": dict})
    Traceback (most recent call last):
    ValueError: there is no recipe 'tny'; did you mean tiny? There are tiny, lab
"""

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Configuration = TypeVar("Configuration")
NOT_DECISIVE = ("device", "resume_every")
"""Fields of a configuration that a run may be gone on with in another way."""


def recipe_named(name: str, recipes: Mapping[str, Callable[[], Configuration]]) -> Configuration:
    """The configuration of a recipe."""
    if name in recipes:
        return recipes[name]()
    question = "".join(f"did you mean {n}? " for n in difflib.get_close_matches(name, recipes, n=1))
    raise ValueError(f"there is no recipe {name!r}; {question}There are {', '.join(recipes)}")


def beginning_of(words: Sequence[str]) -> argparse.Namespace:
    """What decides the defaults of a command line's options: `recipe`, `out` and `resume`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", nargs="?")
    parser.add_argument("--out", nargs="?")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_known_args(words)[0]


def as_json(configuration: Any) -> dict[str, Any]:
    """The fields of a configuration as JSON has them: what a manifest holds."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(inner) for inner in value]
        if isinstance(value, Enum):
            return value.value
        return str(value) if isinstance(value, Path) else value

    return {name: plain(value) for name, value in vars(configuration).items()}


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
    return [name for name, value in vars(configuration).items() if value != getattr(recipe, name)]


def command_words(configuration: Any, recipe: Any, name: str) -> list[str]:
    """The words of a command line that ask for a configuration, as changes of a named recipe."""
    stored = as_json(configuration)
    return option_words({"recipe": name, **{k: stored[k] for k in changed(configuration, recipe)}})


def option_words(options: Mapping[str, Any]) -> list[str]:
    """The words of a command line for options, by their names."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(flag(name if value else f"no_{name}"))
        else:
            words += [flag(name), *map(str, value if isinstance(value, list) else [value])]
    return words


def flag(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


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
