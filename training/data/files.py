r"""Files of data sets, here and in the Hugging Face hub: rows, each with its place for errors.

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

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path
from typing import Any

from probes.corpus.files import BYTE_ORDER_MARK, Row, as_object, json_rows, parsed, separated_rows
from probes.corpus.readers import PARQUET_BATCH_ROWS

Rows = Iterable[tuple[str, Row]]
"""Rows with their places."""
_SHARD = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})(?P<rest>\..*)?")


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
        batches = file.iter_batches(batch_size=PARQUET_BATCH_ROWS)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}, row {number}", row


def arrow_rows(path: Path, columns: list[str]) -> list[Row]:
    """The rows of an Arrow stream, as `datasets` saves them."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        return pyarrow.ipc.open_stream(file).read_all().select(columns).to_pylist()


def request_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The documents of a packed file of evaluation requests."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            yield f"{path}, line {number}", json.loads(line)["doc"]


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
class HubSet:
    """Files of one data set of the hub."""

    dataset: str
    revision: str
    """Commit, branch or tag."""
    files: tuple[str, ...]
    """Patterns, each of which must be met; rows come in their order, then in that of the paths."""
    licence: str
    max_rows: int | None = None
    """Only so many rows of its start."""
    unverified: bool = True
    """Nobody could try it against the hub."""

    def read(self, revision: str | None = None) -> tuple[Iterator[tuple[str, Row]], str]:
        """The rows, from the hub or its local cache, and which commit they are from."""
        asked = revision or self.revision
        folder = hub_snapshot(self.dataset, asked, self.files)
        paths = _wanted_files(folder, self.files, f"{self.dataset!r}, revision {asked!r}")
        rows = chain.from_iterable(map(read_rows, paths))
        return islice(rows, self.max_rows), f"data set {self.dataset}, commit {folder.name}"


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
    shards = [shard for name in wanted if (shard := _SHARD.fullmatch(name))]
    for shard in shards:
        same = [other for other in shards if other.group(1, 2, 3) == shard.group(1, 2, 3)]
        if len(same) != int(shard["count"]):
            raise ValueError(
                f"data set {asked} has {len(same)} of {int(shard['count'])} parts of "
                f"{shard['stem']!r}: fetch it again with a network"
            )
    return [folder / name for name in wanted]
