"""JSON that holds numbers only: NaN and infinities, which are none, are refused by their place.

Whoever has a value that is rightly absent says so with None (`finite_or_none`).

Example:
    >>> json_text({"loss": [2.25, float("nan")]}, "the result")
    Traceback (most recent call last):
    ...
    ValueError: the result is not written: loss.1 is nan, which is no number
"""

import json
from collections.abc import Iterator
from math import isfinite
from typing import Any


def json_text(content: Any, what: str, **style: Any) -> str:
    """Content as JSON; the style is that of `json.dumps`.

    Raises:
        ValueError: a number in it is not finite.
    """
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, **style)
    except ValueError as error:
        if (found := next(_not_finite(content), None)) is None:
            raise
        place, value = found
        raise ValueError(
            f"{what} is not written: {place or 'it'} is {value}, which is no number"
        ) from error


def finite_or_none(value: Any) -> Any:
    """The same with None for what has no number, such as a share of nothing, at any depth."""
    if isinstance(value, dict):
        return {name: finite_or_none(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _not_finite(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    elif isinstance(value, float) and not isfinite(value):
        yield place, value
    for name, inner in pairs:
        yield from _not_finite(inner, f"{place}.{name}" if place else str(name))
