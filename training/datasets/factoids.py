"""Factoids by name or from a file: `load_factoids`.

Names are `kvr` (key-value recall, made up on the spot: `training.datasets.key_values`), the sets
that come with the assets (`training.datasets.factoid_sources`) and those of the Hugging Face hub
(`training.datasets.hub_factoids`), which need a network once. A file is `.jsonl`, `.json`, `.csv`
or `.parquet` (`training.datasets.factoid_files`).

Items come in an order drawn by `seed`, so that the first of them are a fair sample of the set and a
smaller `limit` gives the first items of a larger one; `seed=None` keeps the order of the source.
`offset` leaves out as many before, which makes a second set of the same kind
(`training.datasets.chosen_items`).

Example:
    >>> first = load_factoids("kvr", limit=3, seed=1)
    >>> second = load_factoids("kvr", limit=3, offset=3, seed=1)
    >>> len({factoid.subject for factoid in [*first, *second]})
    6
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from probes.assets.table import find_asset, nearest_names
from probes.corpus.sources import NO_LICENCE
from training.datasets.chosen_items import check_numbers, chosen
from training.datasets.factoid_files import SUFFIXES, read_factoids
from training.datasets.factoid_prompts import PLAIN, QUESTION_ANSWER, Factoid, PromptTemplate
from training.datasets.factoid_sources import SOURCES, distinct, source_factoids
from training.datasets.hub_factoids import HUB_FACTOIDS
from training.datasets.item_sets import ItemSet
from training.datasets.key_values import KeyValues, key_value_factoids

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
