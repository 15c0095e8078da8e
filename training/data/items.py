"""Item sets: items in order, what identifies them, and the files and hub sets that hold them.

Factoids, instructions and mixes are such sets. A set is asked for by its name or by a file, of
which `limit`, `offset` and `seed` take some. Rows come with their place, for errors.

| format      | a row is                                                             |
|-------------|----------------------------------------------------------------------|
| `.jsonl`    | an object a line; blank lines are skipped                            |
| `.json`     | an object of the one list that the file holds                        |
| `.csv`      | a record below the header; named columns hold lists written as JSON  |
| `.tsv`      | the same, with tabs between the fields                               |
| `.parquet`  | a row, read some at a time                                           |
| `.arrow`    | a row of a stream, as `datasets` saves them                          |
| `.jsonl.gz` | the document of an evaluation request                                |
"""

import gzip
import json
import math
import random
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from functools import cache, cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from probes.assets.table import find_asset, nearest_names
from probes.corpus.files import (
    Row,
    first_line,
    json_lines,
    json_rows,
    parquet_rows,
    placed,
    separated_rows,
)
from probes.corpus.sources import NO_LICENCE, ContentHash

Rows = Iterable[tuple[str, Row]]  # rows with their places
_SHARD = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})(?P<rest>\..*)?")
Item = TypeVar("Item")


def hash_of(items: Sequence[Any]) -> str:
    """SHA-256 of dataclasses in order, all their fields included."""
    content = ContentHash()
    for item in items:
        content.add_text(json.dumps(asdict(item), sort_keys=True, ensure_ascii=False))
    return content.value


class Listed(Sequence[Item]):
    """A sequence of its `items`."""

    items: tuple[Item, ...]

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class ItemSet(Listed[Item]):
    """Items in order, and where they are from."""

    name: str  # what was asked for: a name or a path
    licence: str  # of the texts, as far as known
    source: str  # address, data set with its commit, file, or how they were made
    items: tuple[Item, ...] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """What else is to be known of the set, as plain values for a manifest."""

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the items in order, all their fields included."""
        return hash_of(self.items)

    @property
    def configuration(self) -> dict[str, Any]:
        """What identifies the items and where they are from, as plain values for a manifest."""
        return {
            "name": self.name,
            "licence": self.licence,
            "source": self.source,
            "items": len(self),
            "content_hash": self.content_hash,
            **self.settings,
        }


def refuse_options(limit: int | None, offset: int) -> None:
    """Refuse numbers that no set can meet."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give a positive number, or leave it out for all items")
    if offset < 0:
        raise ValueError(f"offset is {offset}: give 0 or more")


def found_file(
    name: str, file: str, set_of_name: str, names: Sequence[str], suffixes: tuple[str, ...]
) -> Path:
    """The file that a set is to be read from; what is neither a name nor a file is refused."""
    path = Path(name).expanduser()
    if not path.exists():
        if name.endswith(suffixes):
            raise ValueError(f"no {file} at {name}: check the path")
        raise ValueError(
            f"no {set_of_name} ({nearest_names(name, list(names))}), and no file of that name; "
            f"accepted files are {', '.join(suffixes)}"
        )
    if path.suffix not in suffixes or path.is_dir():
        raise ValueError(f"{path} is no {file}: give {', '.join(suffixes)}")
    return path


def share_of(items: int, ratio: float, what: str) -> int:
    """So many items are `ratio` times `items`, rounded down."""
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(
            f"{what} is {ratio:g}: give a positive number, or leave it out for no such items"
        )
    found = math.floor(round(items * ratio, 6))
    if found < 1:
        raise ValueError(
            f"{what} is {ratio:g}, which of {items} items is less than one: give a larger ratio or "
            f"more items, or leave it out"
        )
    return found


def read_rows(path: Path, *, list_columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """The rows of a file in order, each with its place for errors."""
    match path.suffix:
        case ".jsonl":
            return ((place, row) for place, row in json_lines(path) if row is not None)
        case ".json":
            return json_rows(path)
        case ".csv" | ".tsv":
            return separated_rows(path, "," if path.suffix == ".csv" else "\t", list_columns)
        case ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                documents = [json.loads(line)["doc"] for line in lines]
            return placed(documents, f"{path}, line")
        case ".arrow":
            import pyarrow

            with pyarrow.memory_map(str(path)) as file:
                rows = pyarrow.ipc.open_stream(file).read_all().to_pylist()
            return placed(rows, f"{path}, row")
    assert path.suffix == ".parquet", f"no reader of rows for {path.suffix}"
    return parquet_rows(path)


def field_of(row: Row, column: str, place: str, advice: str) -> Any:
    """What a row holds in a column; it is refused without."""
    if row.get(column) is None:
        found = ", ".join(map(repr, row)) or "nothing"
        raise ValueError(f"{place}: no {column!r}; found {found}: {advice}")
    return row[column]


def text_of(value: Any, column: str, place: str) -> str:
    """A value as text without white space around it."""
    if not isinstance(value, str) or not value.strip():
        found = "an empty text" if isinstance(value, str) else type(value).__name__
        raise ValueError(f"{place}: {column!r} holds {found}: give text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: {column!r} holds half of a surrogate pair: correct or remove it"
        ) from error
    return value.strip()


@dataclass(frozen=True)
class AssetSet:
    """Files of an asset, in order."""

    asset: str
    files: tuple[str, ...]
    licence: str
    url: str

    def read(self, revision: str | None = None) -> tuple[Iterator[tuple[str, Row]], str]:
        from probes.assets import fetch

        assert revision is None
        folder = fetch(self.asset)
        return chain.from_iterable(read_rows(folder / name) for name in self.files), self.url


@dataclass(frozen=True)
class HubSet:
    """Files of one data set of the hub."""

    dataset: str
    revision: str  # commit, branch or tag
    files: tuple[str, ...]
    """Patterns, each of which must be met; rows come in their order, then in that of the paths."""
    licence: str
    found: str  # the pages on which id, files and columns were looked up, and what could not be
    max_rows: int | None = None  # only so many rows of its start

    def read(self, revision: str | None = None) -> tuple[Iterator[tuple[str, Row]], str]:
        """The rows, from the hub or its local cache, and which commit they are from."""
        asked = revision or self.revision
        folder = hub_snapshot(self.dataset, asked, self.files)
        paths = _wanted_files(folder, self.files, f"{self.dataset!r}, revision {asked!r}")
        rows = chain.from_iterable(map(read_rows, paths))
        return islice(rows, self.max_rows), f"data set {self.dataset}, commit {folder.name}"


def files_of(name: str) -> AssetSet | HubSet:
    """The files of a set as the table beside this module has them, or of an asset of that name."""
    if (fields := _table().get(name)) is None:
        asset = find_asset(name)
        return AssetSet(name, ("",), asset.licence, asset.sources[0].url)
    kind: type[AssetSet | HubSet] = AssetSet if "asset" in fields else HubSet
    return kind(**{**fields, "files": tuple(fields["files"])})


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("sets.toml").read_text(encoding="utf-8"))


Read = tuple[Sequence[Item], dict[str, Any]]  # items, and what else is to be known of them


@dataclass(frozen=True)
class NamedSet(Generic[Item]):
    """A set: its files, and how their rows become items."""

    files: AssetSet | HubSet
    read: Callable[[Rows], Read[Item]]


def load_items(
    source: str | Path,
    sets: Mapping[str, NamedSet[Item]],
    read_file: Callable[[str], Read[Item]],
    *,
    limit: int | None,
    offset: int,
    seed: int | None,
    revision: str | None,
) -> ItemSet[Item]:
    """Some items of a set, by its name or else of a file, in the order of the seed."""
    name, known = str(source), None if isinstance(source, Path) else sets.get(source)
    refuse_options(limit, offset)
    if revision is not None and not (known and isinstance(known.files, HubSet)):
        raise ValueError(f"revision was given, but {name} is no set of the hub: leave it out")
    licence, origin = NO_LICENCE, name
    if known is None:
        items, settings = read_file(name)
    else:
        rows, origin = known.files.read(revision)
        items, settings = known.read(rows)
        licence = known.files.licence
    if offset >= len(items):
        raise ValueError(
            f"offset is {offset}, but {name} has {len(items)} items: give a smaller one"
        )
    ordered = list(items)
    if seed is not None:
        random.Random(seed).shuffle(ordered)
    chosen = tuple(ordered[offset:][:limit])
    return ItemSet(name, licence, origin, chosen, settings=settings)


def hub_snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder with files of a data set, from the hub or its local cache."""
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, repo_type="dataset", revision=revision, allow_patterns=list(patterns)
            )
        )
    except (OSError, ValueError) as error:
        asked = f"{name!r}, revision {revision!r}" if revision else repr(name)
        raise ValueError(
            f"cannot open data set {asked}: {first_line(error)}: check the name and the network, "
            "or give a file"
        ) from error


def _wanted_files(folder: Path, patterns: Sequence[str], asked: str) -> list[Path]:
    """The files that the patterns name; the cache may hold only some of a data set."""
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    wanted: dict[str, None] = {}
    for pattern in patterns:
        met = [name for name in there if fnmatch(name, pattern)]
        if not met:
            found = ", ".join(there[:5]) or "nothing"
            raise ValueError(
                f"data set {asked} has no file {pattern!r}, found {found}: check the revision, or "
                "download the file you want and give its path"
            )
        wanted |= dict.fromkeys(met)
    shards = [shard.group(1, 2, 3) for name in wanted if (shard := _SHARD.fullmatch(name))]
    for (stem, count, _), parts in Counter(shards).items():
        if parts != int(count):
            raise ValueError(
                f"data set {asked} has {parts} of {int(count)} parts of {stem!r}: fetch it again "
                "with a network"
            )
    return [folder / name for name in wanted]
