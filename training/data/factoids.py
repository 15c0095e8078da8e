"""Factoids by name or from a file: `load_factoids`.

Names are `kvr` (key-value recall, made up on the spot: `training.data.key_values`), the sets
that come with the assets (`training.data.factoid_sources`) and those of the Hugging Face hub
(`training.data.factoid_sources`), which need a network once. A file is `.jsonl`, `.json`, `.csv`
or `.parquet` (`training.data.factoids`).

Items come in an order drawn by `seed`, so that the first of them are a fair sample of the set and a
smaller `limit` gives the first items of a larger one; `seed=None` keeps the order of the source.
`offset` leaves out as many before, which makes a second set of the same kind
(`training.data.items`).

Example:
    >>> first = load_factoids("kvr", limit=3, seed=1)
    >>> second = load_factoids("kvr", limit=3, offset=3, seed=1)
    >>> len({factoid.subject for factoid in [*first, *second]})
    6
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from probes.assets.table import find_asset, nearest_names
from probes.corpus.sources import NO_LICENCE
from training.data.factoid_prompts import PLAIN, QUESTION_ANSWER, Factoid, PromptTemplate
from training.data.factoid_sources import (
    HUB_FACTOIDS,
    SOURCES,
    answers_of,
    distinct,
    source_factoids,
)
from training.data.files import Row, read_rows, text_of
from training.data.items import ItemSet, check_numbers, chosen
from training.data.key_values import KeyValues, key_value_factoids

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
QUESTION_COLUMNS = ("question", "prompt")
CANONICAL_COLUMNS = ("answer", "target", "object")
ACCEPTED_COLUMNS = ("answers", "aliases")
IDENTIFIER_COLUMNS = ("id", "identifier")


def read_factoids(path: Path) -> tuple[list[Factoid], PromptTemplate]:
    """The factoids of a file in its order, and the template that suits them."""
    if path.suffix not in SUFFIXES or path.is_dir():
        raise ValueError(f"{path} is no factoid file: give {', '.join(SUFFIXES)}")
    factoids: list[Factoid] = []
    places: dict[str, str] = {}
    asked = ""
    for place, row in read_rows(path, list_columns=ACCEPTED_COLUMNS):
        column, factoid = _factoid(row, place, default_id=f"{path.name}-{len(factoids)}")
        asked = asked or column
        if column != asked:
            raise ValueError(f"{place}: has {column!r} after items with {asked!r}: use one of them")
        if factoid.identifier in places:
            raise ValueError(
                f"{place}: identifier {factoid.identifier!r} is that of "
                f"{places[factoid.identifier]}: give each item its own"
            )
        places[factoid.identifier] = place
        factoids.append(factoid)
    if not factoids:
        raise ValueError(f"{path} holds no factoid: give items with a question and an answer")
    return factoids, PLAIN if asked == "prompt" else QUESTION_ANSWER


def _factoid(row: Row, place: str, default_id: str) -> tuple[str, Factoid]:
    """The factoid of a row, and the name of the column with its question."""
    question = _only_one(row, QUESTION_COLUMNS, place)
    if question is None:
        raise ValueError(f"{place}: {_lacks('question or prompt', row)}")
    canonical = _only_one(row, CANONICAL_COLUMNS, place)
    accepted_in = _only_one(row, ACCEPTED_COLUMNS, place)
    accepted = _texts(row, accepted_in, place) if accepted_in else []
    if canonical is None and not accepted:
        raise ValueError(f"{place}: {_lacks('answer, target or answers', row)}")
    identifier = _only_one(row, IDENTIFIER_COLUMNS, place)
    factoid = Factoid(
        question=text_of(row[question], question, place),
        answers=answers_of(
            text_of(row[canonical], canonical, place) if canonical else accepted[0], accepted
        ),
        identifier=str(row[identifier]).strip() if identifier else default_id,
        subject=text_of(row["subject"], "subject", place) if _has(row, "subject") else None,
        relation=text_of(row["relation"], "relation", place) if _has(row, "relation") else None,
    )
    return question, factoid


def _has(row: Row, column: str) -> bool:
    value = row.get(column)
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [])


def _only_one(row: Row, columns: Sequence[str], place: str) -> str | None:
    """The one of some columns that a row fills, None where it fills none."""
    filled = [column for column in columns if _has(row, column)]
    if len(filled) > 1:
        raise ValueError(f"{place}: has {' and '.join(map(repr, filled))}: keep one of them")
    return filled[0] if filled else None


def _texts(row: Row, column: str, place: str) -> list[str]:
    values = row[column]
    is_list = isinstance(values, list)
    if not is_list or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(
            f"{place}: {column!r} must be a list of texts, none of them empty; for a single answer "
            f"use 'answer'"
        )
    return [text_of(value, column, place) for value in values]


def _lacks(wanted: str, row: Row) -> str:
    found = ", ".join(repr(column) for column in row if _has(row, column)) or "nothing"
    return f"no {wanted}; found {found}: add it"


KEY_VALUE_RECALL = "kvr"
DEFAULT_KEY_VALUES = 2000
"""Pairs of key-value recall where no limit is given: the paper's number."""


@dataclass(frozen=True)
class FactoidSet(ItemSet[Factoid]):
    """Factoids in order, and where they are from; see `ItemSet`.

    Attributes:
        factoids: the items.
        template: the prompt template that suits them.
    """

    factoids: tuple[Factoid, ...]
    template: PromptTemplate = QUESTION_ANSWER

    @property
    def items(self) -> tuple[Factoid, ...]:
        """The factoids."""
        return self.factoids

    @property
    def settings(self) -> dict[str, Any]:
        """The template."""
        return {"template": asdict(self.template)}


def factoid_names() -> list[str]:
    """The names that `load_factoids` knows."""
    return [KEY_VALUE_RECALL, *SOURCES, *HUB_FACTOIDS]


def load_factoids(
    source: str | Path,
    *,
    limit: int | None = None,
    offset: int = 0,
    seed: int | None = 0,
    key_values: KeyValues | None = None,
    revision: str | None = None,
) -> FactoidSet:
    """Load a factoid set.

    Args:
        source: one of `factoid_names()`, or a file. A name wins over a file of that name: write
            `./kvr` for the file. A `Path` is always a file.
        limit: at most so many items; None for all, and for 2,000 of key-value recall.
        offset: leave out so many items first.
        seed: of the order, and of the pairs of key-value recall; None for the source's own order.
        key_values: charset and length of keys and values, for key-value recall alone.
        revision: branch, tag or commit of a set of the hub, where not the pinned one.

    Raises:
        ValueError: the set is unknown, cannot be read or had, or has too few items; an option is
            out of range or does not apply.
    """
    name, is_path = str(source), isinstance(source, Path)
    known = None if is_path else name
    check_numbers(limit, offset)
    _check_recall(name, known == KEY_VALUE_RECALL, seed, key_values)
    if revision is not None and known not in HUB_FACTOIDS:
        raise ValueError(f"revision was given, but {name} is no set of the hub: leave it out")
    if known == KEY_VALUE_RECALL:
        assert seed is not None
        form = key_values or KeyValues()
        return _key_values(form, limit or DEFAULT_KEY_VALUES, offset, seed)
    whole = _whole_set(name, known, revision)
    items = chosen(name, whole.factoids, limit=limit, offset=offset, seed=seed)
    return replace(whole, factoids=items)


def _key_values(form: KeyValues, count: int, offset: int, seed: int) -> FactoidSet:
    pairs = key_value_factoids(offset + count, form, seed)[offset:]
    made = f"generated: {form.charset}, length {form.length}, seed {seed}, offset {offset}"
    return FactoidSet(KEY_VALUE_RECALL, "none needed (generated)", made, tuple(pairs), PLAIN)


def _whole_set(name: str, known: str | None, revision: str | None) -> FactoidSet:
    """All items of a built-in set, of one of the hub or of a file, in the order of the source."""
    if known in SOURCES:
        asset = find_asset(name)
        return FactoidSet(name, asset.licence, asset.sources[0].url, tuple(source_factoids(name)))
    if known in HUB_FACTOIDS:
        hub_set = HUB_FACTOIDS[name]
        found = hub_set.hub.read(revision)
        factoids = tuple(distinct(hub_set.read(found.rows)))
        source = f"data set {hub_set.hub.dataset}, commit {found.commit}"
        return FactoidSet(name, hub_set.hub.licence, source, factoids, hub_set.template)
    path = Path(name).expanduser()
    if not path.exists():
        raise ValueError(_not_found(name))
    items, template = read_factoids(path)
    return FactoidSet(name, NO_LICENCE, name, tuple(items), template)


def _check_recall(
    name: str, is_recall: bool, seed: int | None, key_values: KeyValues | None
) -> None:
    if is_recall and seed is None:
        raise ValueError(f"{name} is generated and has no order of its own: give a seed")
    if key_values is not None and not is_recall:
        raise ValueError(
            f"key_values was given, but {name} is not {KEY_VALUE_RECALL}: leave it out"
        )


def _not_found(name: str) -> str:
    if name.endswith(SUFFIXES):
        return f"no factoid file at {name}: check the path"
    nearest = nearest_names(name, factoid_names())
    return (
        f"no factoid set {name!r} ({nearest}), and no file of that name; accepted files are "
        f"{', '.join(SUFFIXES)}"
    )
