"""Refusals: a value in a few words, the name that was meant, and checks that load no PyTorch.

Example:
    >>> shown([1, 2, 3]), meant("knowlege", ["attention", "knowledge"])
    ('a list of 3', "did you mean 'knowledge'?")
"""

import difflib
import inspect
from collections.abc import Callable, Collection
from numbers import Integral
from os import PathLike
from typing import Any

Check = Callable[[Any], str | None]
"""What is wrong with a value, as what follows its name; None where nothing is."""

_SHOWN_LETTERS, _NAMED = 40, 12


def shown(value: Any) -> str:
    """A value in a few words, for a refusal."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str):
        text = value if len(value) <= _SHOWN_LETTERS else f"{value[:_SHOWN_LETTERS]}..."
        return f"the string {text!r}"
    if isinstance(value, bool | int | float):
        return f"the number {value}" if not isinstance(value, bool) else str(value)
    if isinstance(value, list | tuple | set | dict):
        return f"a {type(value).__name__} of {len(value)}"
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {list(value.shape)}"
    article = "an" if type(value).__name__[0] in "AEIOUaeiou" else "a"
    return f"{article} {type(value).__name__}"


def meant(name: str, known: Collection[str]) -> str:
    """The known name that another one is nearest to, or some of them."""
    near, listed = difflib.get_close_matches(name, list(known), n=1), sorted(known)
    few = ", ".join(listed[:_NAMED]) + ", ..." * (len(listed) > _NAMED)
    return f"did you mean {near[0]!r}?" if near else f"there are {few}"


class NoSuchName(AttributeError):
    """There is no such name; says which one is meant, when somebody reads it."""

    def __str__(self) -> str:
        kind = type(self.obj)
        instead = getattr(kind, "_instead", {}).get(self.name)
        public = [name for name in dir(self.obj) if not name.startswith("_")]
        return f"{kind.__name__} has no {self.name!r}; {instead or meant(str(self.name), public)}"


def whole_number(least: int = 1) -> Check:
    """A check for whole numbers that are not too small."""

    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, Integral):
            return f"{shown(value)}; give a whole number, {least} or more"
        return None if int(value) >= least else f"{value}: give {least} or more"

    return check


def not_callable_with(function: Callable[..., Any], *arguments: Any) -> TypeError | None:
    """Why a function cannot be called with these; None where it can, or has no signature."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return None
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return error
    return None


def tokenizer(value: Any) -> str | None:
    """What is wrong with a value as a tokenizer; None is for rows of token ids."""
    if value is None or (hasattr(value, "decode") and not isinstance(value, bytes)):
        return None
    own = ": model.tokenizer" if hasattr(value, "tokenizer") else ""
    return f"{shown(value)}; give a tokenizer, such as a model's{own}"


def path(value: Any) -> str | None:
    """What is wrong with a value as a path."""
    return None if isinstance(value, str | PathLike) else f"{shown(value)}; give a path"


def instance_of(kind: type[Any], how: str) -> Check:
    """A check for instances of a class."""

    def check(value: Any) -> str | None:
        # A class has the attributes of what it makes, but is none.
        is_one = isinstance(value, kind) and not isinstance(value, type)
        return None if is_one else f"{shown(value)}; give {how}"

    return check
