r"""Files of rows, each row with its place for error messages, and files that are packed.

Corpora and sets of items share these readers. Text is UTF-8; a byte order mark at the start is
passed over.

Example:
    >>> from pathlib import Path
    >>> _ = Path("two.csv").write_text("text\none\n")                        # doctest: +SKIP
    >>> list(separated_rows(Path("two.csv"), ","))                            # doctest: +SKIP
    [('two.csv, line 2', {'text': 'one'})]
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_FIELD = 2**31 - 1

Row = dict[str, Any]


@contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file's bytes, unpacked as they are read where its name ends in .gz or .zst.

    Raises:
        ValueError: it is damaged or cut short, or cannot be read.
    """
    try:
        with _opened(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")
        raise ValueError(
            f"{path}: cannot be read ({reason}): see that it is whole and yours to read"
        ) from error


def _opened(path: Path) -> io.BufferedIOBase:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")
        case ".zst":
            import pyarrow

            return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of the one list that a `.json` file holds."""
    text = decoded(_bytes(path).removeprefix(BYTE_ORDER_MARK), str(path))
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, "
        raise ValueError(_not_json(str(path), error.msg, where, error.colno)) from error
    if not isinstance(items, list):
        raise ValueError(f"{path}: expected a list of objects, found {type(items).__name__}")
    for number, item in enumerate(items, start=1):
        place = f"{path}, item {number}"
        yield place, as_object(item, place)


def separated_rows(
    path: Path, separator: str, list_columns: Sequence[str] = ()
) -> Iterator[tuple[str, Row]]:
    """The records below the header of a `.csv` or `.tsv` file.

    Args:
        path: the file.
        separator: what stands between fields.
        list_columns: columns that hold lists written as JSON.

    Raises:
        ValueError: the file is not valid; the line is named.
    """
    text = decoded(_bytes(path).removeprefix(BYTE_ORDER_MARK), str(path))
    # A document may be longer than the library's usual limit of a field.
    csv.field_size_limit(_LONGEST_FIELD)
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


def _bytes(path: Path) -> bytes:
    with unpacked(path) as file:
        return file.read()


def as_object(value: Any, place: str) -> Row:
    """A value itself, refused if it is no object of JSON."""
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object, found {type(value).__name__}")
    return value


def _not_json(place: str, reason: str, where: str, column: int) -> str:
    return f"{place}: not valid JSON ({reason} at {where}character {column}): correct it"
