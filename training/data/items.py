"""Item sets: items in order, where they are from, and what identifies them.

Factoids, instructions and mixes are such sets; each says what its items are and what else decides
them.

Example:
    >>> from training.data.factoid_sources import load_factoids
    >>> found = load_factoids("kvr", limit=3)
    >>> isinstance(found, ItemSet), len(found), found.configuration["items"]
    (True, 3, 3)
"""

import json
import math
import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeVar, overload

from probes.assets.table import nearest_names
from probes.corpus.sources import ContentHash

Item = TypeVar("Item")
_DECIMALS = 6


@dataclass(frozen=True)
class ItemSet(Sequence[Item]):
    """Items in order, and where they are from."""

    name: str
    """What was asked for: a name or a path."""
    licence: str
    """Of the texts, as far as known."""
    source: str
    """Address, data set with its commit, file, or how they were made."""

    @property
    @abstractmethod
    def items(self) -> tuple[Item, ...]:
        """The items."""

    @property
    def settings(self) -> dict[str, Any]:
        """What else is to be known of the set, as plain values for a manifest."""
        return {}

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the items in order, all their fields included."""
        content = ContentHash()
        for item in self.items:
            fields = asdict(item)  # type: ignore[call-overload]
            content.add_text(json.dumps(fields, sort_keys=True, ensure_ascii=False))
        return content.value

    @property
    def configuration(self) -> dict[str, Any]:
        """Where the items are from and what identifies them, as plain values for a manifest."""
        return {
            "name": self.name,
            "licence": self.licence,
            "source": self.source,
            "items": len(self),
            "content_hash": self.content_hash,
            **self.settings,
        }


def check_numbers(limit: int | None, offset: int) -> None:
    """Refuse a limit or an offset that no set can meet."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give a positive number, or leave it out for all items")
    if offset < 0:
        raise ValueError(f"offset is {offset}: give 0 or more")


def refuse_revision(name: str, revision: str | None, is_hub: bool) -> None:
    """Refuse a revision of what is not in the hub."""
    if revision is not None and not is_hub:
        raise ValueError(f"revision was given, but {name} is no set of the hub: leave it out")


def not_found(
    name: str, file: str, set_of_name: str, names: Sequence[str], suffixes: tuple[str, ...]
) -> str:
    """The message for what is neither the name of a set nor a file."""
    if name.endswith(suffixes):
        return f"no {file} at {name}: check the path"
    return (
        f"no {set_of_name} ({nearest_names(name, list(names))}), and no file of that name; "
        f"accepted files are {', '.join(suffixes)}"
    )


def chosen(
    name: str, items: Sequence[Item], *, limit: int | None, offset: int, seed: int | None
) -> tuple[Item, ...]:
    """The items from `offset` on, at most `limit`, in the order of the seed."""
    if offset >= len(items):
        raise ValueError(
            f"offset is {offset}, but {name} has {len(items)} items: give a smaller one"
        )
    ordered = list(items)
    if seed is not None:
        random.Random(seed).shuffle(ordered)
    return tuple(ordered[offset:][:limit])


def share_of(items: int, ratio: float, what: str) -> int:
    """So many items are `ratio` times `items`, rounded down."""
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(
            f"{what} is {ratio:g}: give a positive number, or leave it out for no such items"
        )
    found = math.floor(round(items * ratio, _DECIMALS))
    if found < 1:
        raise ValueError(
            f"{what} is {ratio:g}, which of {items} items is less than one: give a larger ratio or "
            f"more items, or leave it out"
        )
    return found
