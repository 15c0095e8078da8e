"""Factoids by name or from a file: `load_factoids`.

Names are `kvr` (key-value recall, made up on the spot: `training.datasets.key_values`) and the sets
that come with the assets (`training.datasets.factoid_sources`). A file is `.jsonl`, `.json`, `.csv`
or `.parquet` (`training.datasets.factoid_files`).

Items come in an order drawn by `seed`, so that the first of them are a fair sample of the set and a
smaller `limit` gives the first items of a larger one; `seed=None` keeps the order of the source.
`offset` leaves out as many before: with one seed, `limit=2000` and `limit=2000, offset=2000` share
nothing, which makes a second set of the same kind.

Example:
    >>> first = load_factoids("kvr", limit=3, seed=1)
    >>> second = load_factoids("kvr", limit=3, offset=3, seed=1)
    >>> len({factoid.subject for factoid in [*first, *second]})
    6
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from probes.assets.table import find_asset, nearest_names
from probes.corpus.sources import NO_LICENCE, ContentHash
from training.datasets.factoid_files import SUFFIXES, read_factoids
from training.datasets.factoid_prompts import PLAIN, QUESTION_ANSWER, Factoid, PromptTemplate
from training.datasets.factoid_sources import SOURCES, source_factoids
from training.datasets.key_values import KeyValues, key_value_factoids

KEY_VALUE_RECALL = "kvr"
DEFAULT_KEY_VALUES = 2000
"""Pairs of key-value recall where no limit is given: the paper's number."""


@dataclass(frozen=True)
class FactoidSet(Sequence[Factoid]):
    """Factoids in order, and where they are from.

    Attributes:
        name: what was asked for: a name or a path.
        licence: the licence of the texts as far as known.
        source: address, file, or how they were made.
        factoids: the items.
        template: the prompt template that suits them.
    """

    name: str
    licence: str
    source: str
    factoids: tuple[Factoid, ...]
    template: PromptTemplate = QUESTION_ANSWER

    @overload
    def __getitem__(self, index: int) -> Factoid: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Factoid, ...]: ...
    def __getitem__(self, index: int | slice) -> Factoid | tuple[Factoid, ...]:
        return self.factoids[index]

    def __len__(self) -> int:
        return len(self.factoids)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the items in order, all their fields included."""
        content = ContentHash()
        for factoid in self.factoids:
            content.add_text(json.dumps(asdict(factoid), sort_keys=True, ensure_ascii=False))
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
            "template": asdict(self.template),
        }


def factoid_names() -> list[str]:
    """The names that `load_factoids` knows."""
    return [KEY_VALUE_RECALL, *SOURCES]


def load_factoids(
    source: str | Path,
    *,
    limit: int | None = None,
    offset: int = 0,
    seed: int | None = 0,
    key_values: KeyValues | None = None,
) -> FactoidSet:
    """Load a factoid set.

    Args:
        source: one of `factoid_names()`, or a file. A name wins over a file of that name: write
            `./kvr` for the file. A `Path` is always a file.
        limit: at most so many items; None for all, and for 2,000 of key-value recall.
        offset: leave out so many items first.
        seed: of the order, and of the pairs of key-value recall; None for the source's own order.
        key_values: charset and length of keys and values, for key-value recall alone.

    Raises:
        ValueError: the set is unknown, cannot be read or had, or has too few items; an option is
            out of range or does not apply.
    """
    name, is_path = str(source), isinstance(source, Path)
    is_recall = name == KEY_VALUE_RECALL and not is_path
    _check_numbers(limit, offset)
    _check_recall(name, is_recall, seed, key_values)
    if is_recall:
        assert seed is not None
        form, count = key_values or KeyValues(), limit or DEFAULT_KEY_VALUES
        pairs = key_value_factoids(offset + count, form, seed)[offset:]
        made = f"generated: {form.charset}, length {form.length}, seed {seed}, offset {offset}"
        return FactoidSet(name, "none needed (generated)", made, tuple(pairs), PLAIN)
    if name in SOURCES and not is_path:
        asset, factoids = find_asset(name), source_factoids(name)
        chosen = _chosen(name, factoids, limit, offset, seed)
        return FactoidSet(name, asset.licence, asset.sources[0].url, chosen)
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(_not_found(name))
    factoids, template = read_factoids(path)
    return FactoidSet(
        name, NO_LICENCE, name, _chosen(name, factoids, limit, offset, seed), template
    )


def _check_numbers(limit: int | None, offset: int) -> None:
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give a positive number, or leave it out for all items")
    if offset < 0:
        raise ValueError(f"offset is {offset}: give 0 or more")


def _check_recall(
    name: str, is_recall: bool, seed: int | None, key_values: KeyValues | None
) -> None:
    if is_recall and seed is None:
        raise ValueError(f"{name} is generated and has no order of its own: give a seed")
    if key_values is not None and not is_recall:
        raise ValueError(
            f"key_values was given, but {name} is not {KEY_VALUE_RECALL}: leave it out"
        )


def _chosen(
    name: str, factoids: list[Factoid], limit: int | None, offset: int, seed: int | None
) -> tuple[Factoid, ...]:
    """The items from `offset` on, at most `limit`, in the order of the seed."""
    if offset >= len(factoids):
        raise ValueError(
            f"offset is {offset}, but {name} has {len(factoids)} items: give a smaller one"
        )
    ordered = list(factoids)
    if seed is not None:
        random.Random(seed).shuffle(ordered)
    return tuple(ordered[offset:][:limit])


def _not_found(name: str) -> str:
    if name.endswith(SUFFIXES):
        return f"no factoid file at {name}: check the path"
    nearest = nearest_names(name, factoid_names())
    return (
        f"no factoid set {name!r} ({nearest}), and no file of that name; accepted files are "
        f"{', '.join(SUFFIXES)}"
    )
