"""Item sets: items in order, where they are from, and what identifies them.

Factoids, instructions and mixes are such sets; each says what its items are and what else decides
them.

Example:
    >>> from training.datasets.factoids import load_factoids
    >>> found = load_factoids("kvr", limit=3)
    >>> isinstance(found, ItemSet), len(found), found.configuration["items"]
    (True, 3, 3)
"""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeVar, overload

from probes.corpus.sources import ContentHash

Item = TypeVar("Item")


@dataclass(frozen=True)
class ItemSet(Sequence[Item]):
    """Items in order, and where they are from.

    Attributes:
        name: what was asked for: a name or a path.
        licence: the licence of the texts as far as known.
        source: address, data set with its commit, file, or how they were made.
    """

    name: str
    licence: str
    source: str

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
