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

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from probes.corpus.readers import PARQUET_BATCH_ROWS
from probes.corpus.row_files import (
    BYTE_ORDER_MARK,
    Row,
    as_object,
    json_rows,
    parsed,
    separated_rows,
)


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
            return json_rows(path)
        case ".csv":
            return separated_rows(path, ",", list_columns)
        case ".tsv":
            return separated_rows(path, "\t", list_columns)
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
