r"""Rows of a file, each with its place for error messages: what all readers of data sets share.

| format     | a row is                                                              |
|------------|-----------------------------------------------------------------------|
| `.jsonl`   | an object a line; blank lines are skipped                             |
| `.json`    | an object of the one list that the file holds                         |
| `.csv`     | a record below the header; named columns hold lists written as JSON   |
| `.tsv`     | the same, with tabs between the fields                                |
| `.parquet` | a row, read some at a time                                            |

Text is UTF-8; a byte order mark at the start is passed over. Rows are read as they are asked for
wherever the format allows it. What a row must hold is for the reader of the set to say.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path
from typing import Any

from probes.corpus.files import BYTE_ORDER_MARK, Row, as_object, json_rows, parsed, separated_rows
from probes.corpus.readers import PARQUET_BATCH_ROWS


def read_rows(path: Path, *, list_columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """The rows of a file in order, each with its place."""
    match path.suffix:
        case ".jsonl":
            return _jsonl_rows(path)
        case ".json":
            return json_rows(path)
        case ".csv":
            return separated_rows(path, ",", list_columns)
        case ".tsv":
            return separated_rows(path, "\t", list_columns)
    assert path.suffix == ".parquet", f"no reader of rows for {path.suffix}"
    return _parquet_rows(path)


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


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if line.strip():
                yield place, as_object(parsed(line.rstrip(), place), place)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error
    with file:
        number = 0
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


_SHARD = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})(?P<rest>\..*)?")


@dataclass(frozen=True)
class HubRows:
    """What was found.

    Attributes:
        commit: the commit that was read.
        rows: the rows in order, each with its place; read as they are asked for, once.
    """

    commit: str
    rows: Iterator[tuple[str, Row]]


@dataclass(frozen=True)
class HubSet:
    """Files of one data set.

    Attributes:
        dataset: its id in the hub, "namespace/name".
        revision: commit, branch or tag.
        files: patterns of the paths of its files; each must be met. Rows come in the order of the
            patterns, then of the paths.
        licence: of the data, as far as known.
        max_rows: only so many rows of its start; None for all.
        unverified: nobody could try it against the hub.
    """

    dataset: str
    revision: str
    files: tuple[str, ...]
    licence: str
    max_rows: int | None = None
    unverified: bool = True

    def read(self, revision: str | None = None) -> HubRows:
        """The rows, from the hub or its local cache."""
        asked = revision or self.revision
        folder = hub_snapshot(self.dataset, asked, self.files)
        paths = _wanted_files(folder, self.files, f"{self.dataset!r}, revision {asked!r}")
        rows = chain.from_iterable(map(read_rows, paths))
        return HubRows(folder.name, islice(rows, self.max_rows))


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
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")
        asked = f"{name!r}, revision {revision!r}" if revision else repr(name)
        raise ValueError(
            f"cannot open data set {asked}: {reason}: check the name and the network, or give a "
            "file"
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
    _refuse_missing_shards(list(wanted), asked)
    return [folder / name for name in wanted]


def _refuse_missing_shards(names: Sequence[str], asked: str) -> None:
    """Refuse files of which only some parts are there."""
    shards = [found for name in names if (found := _SHARD.fullmatch(name))]
    for shard in shards:
        same = [other for other in shards if other.group(1, 2, 3) == shard.group(1, 2, 3)]
        if len(same) != int(shard["count"]):
            raise ValueError(
                f"data set {asked} has {len(same)} of {int(shard['count'])} parts of "
                f"{shard['stem']!r}: fetch it again with a network"
            )
