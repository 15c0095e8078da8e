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

Example:
    >>> from pathlib import Path
    >>> _ = Path("one.jsonl").write_text('{"key": "a"}\n')              # doctest: +SKIP
    >>> list(read_rows(Path("one.jsonl")))                              # doctest: +SKIP
    [('one.jsonl, line 1', {'key': 'a'})]
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from probes.corpus.readers import BYTE_ORDER_MARK, PARQUET_BATCH_ROWS

Row = dict[str, Any]


def read_rows(path: Path, *, list_columns: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """The rows of a file in order, each with its place.

    Args:
        path: a file whose name ends as the table of the module says.
        list_columns: columns of `.csv` and `.tsv` files that hold lists written as JSON.

    Raises:
        ValueError: the file is not valid; the line, item or row is named.
    """
    match path.suffix:
        case ".jsonl":
            return _jsonl_rows(path)
        case ".json":
            return _json_rows(path)
        case ".csv":
            return _separated_rows(path, ",", list_columns)
        case ".tsv":
            return _separated_rows(path, "\t", list_columns)
    assert path.suffix == ".parquet", f"no reader of rows for {path.suffix}"
    return _parquet_rows(path)


def text_of(value: Any, column: str, place: str) -> str:
    """A value as text without white space around it.

    Args:
        value: what stands there.
        column: in which column, for errors.
        place: in which row, for errors.

    Raises:
        ValueError: it is no text, an empty one, or one that cannot be written as UTF-8.
    """
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


def parsed(data: bytes, place: str) -> Any:
    """What some JSON says; `place` is that of the line or of the field it fills."""
    try:
        return json.loads(decoded(data, place))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(_not_json(place, error.msg, where, error.colno)) from error


def decoded(data: bytes, place: str) -> str:
    """Text from its UTF-8 bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n")
        where = f"{place}, line {line + 1}" if line else place
        raise ValueError(f"{where}: not UTF-8 ({error.reason}): save it as UTF-8") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if line.strip():
                yield place, _object(parsed(line.rstrip(), place), place)


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    text = decoded(path.read_bytes().removeprefix(BYTE_ORDER_MARK), str(path))
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, "
        raise ValueError(_not_json(str(path), error.msg, where, error.colno)) from error
    if not isinstance(items, list):
        raise ValueError(f"{path}: expected a list of objects, found {type(items).__name__}")
    for number, item in enumerate(items, start=1):
        place = f"{path}, item {number}"
        yield place, _object(item, place)


def _separated_rows(
    path: Path, separator: str, list_columns: Sequence[str]
) -> Iterator[tuple[str, Row]]:
    text = decoded(path.read_bytes().removeprefix(BYTE_ORDER_MARK), str(path))
    lines = io.StringIO(text, newline="")
    reader = csv.DictReader(lines, delimiter=separator, strict=True)
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{place}: has another number of fields than the header: quote it")
            lists = {column: row[column] for column in list_columns if row.get(column, "").strip()}
            parsed_lists = {
                column: parsed(value.encode(), f"{place}, column {column!r}")
                for column, value in lists.items()
            }
            yield place, row | parsed_lists
    except csv.Error as error:
        line = reader.reader.line_num  # DictReader's own stays at the last good row
        raise ValueError(f"{path}, line {line}: not valid CSV ({error}): correct it") from error


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


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object, found {type(value).__name__}")
    return value


def _not_json(place: str, reason: str, where: str, column: int) -> str:
    return f"{place}: not valid JSON ({reason} at {where}character {column}): correct it"
