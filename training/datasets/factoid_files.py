r"""Factoids from files: which columns are read, and what is refused.

| column                       | holds                                                          |
|------------------------------|----------------------------------------------------------------|
| `question` or `prompt`       | a question, or a text to be continued; one of the two          |
| `answer`, `target`, `object` | the canonical answer; at most one of the three                 |
| `answers` or `aliases`       | list of what is accepted; its first is canonical if none is    |
| `subject`, `relation`        | optional                                                       |
| `id` or `identifier`         | optional; else the name of the file and the number of the item |

Other columns are ignored; white space around texts is taken off. A `prompt` is put to the model as
it is, a `question` between "Question:" and "Answer:" (`training.datasets.factoid_prompts`).

Files are `.jsonl` (an object a line; blank lines are skipped), `.json` (a list of objects), `.csv`
(with a header; lists written as JSON) and `.parquet`, all in UTF-8.

Example:
    >>> from pathlib import Path
    >>> _ = Path("one.jsonl").write_text('{"prompt": "The capital of France is", '
    ...                                  '"target": "Paris"}\n')        # doctest: +SKIP
    >>> factoids, template = read_factoids(Path("one.jsonl"))           # doctest: +SKIP
    >>> factoids[0].object                                              # doctest: +SKIP
    'Paris'
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from probes.corpus.readers import BYTE_ORDER_MARK
from training.datasets.factoid_prompts import PLAIN, QUESTION_ANSWER, Factoid, PromptTemplate
from training.datasets.factoid_sources import answers_of

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
QUESTION_COLUMNS = ("question", "prompt")
CANONICAL_COLUMNS = ("answer", "target", "object")
ACCEPTED_COLUMNS = ("answers", "aliases")
IDENTIFIER_COLUMNS = ("id", "identifier")

Row = dict[str, Any]


def read_factoids(path: Path) -> tuple[list[Factoid], PromptTemplate]:
    """The factoids of a file in its order, and the template that suits them.

    Raises:
        ValueError: the file is of another kind, or an item in it cannot be read; the line (or
            the number of the item) is named.
    """
    readers = dict(zip(SUFFIXES, (_jsonl_rows, _json_rows, _csv_rows, _parquet_rows), strict=True))
    if path.suffix not in readers or path.is_dir():
        raise ValueError(f"{path} is no factoid file: give {', '.join(SUFFIXES)}")
    factoids: list[Factoid] = []
    places: dict[str, str] = {}
    asked = ""
    for place, row in readers[path.suffix](path):
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
        question=_text(row, question, place),
        answers=answers_of(_text(row, canonical, place) if canonical else accepted[0], accepted),
        identifier=str(row[identifier]).strip() if identifier else default_id,
        subject=_text(row, "subject", place) if _has(row, "subject") else None,
        relation=_text(row, "relation", place) if _has(row, "relation") else None,
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


def _text(row: Row, column: str, place: str) -> str:
    if not isinstance(row[column], str):
        raise ValueError(f"{place}: {column!r} holds {type(row[column]).__name__}: give text")
    return _stripped(row[column], column, place)


def _texts(row: Row, column: str, place: str) -> list[str]:
    values = row[column]
    is_list = isinstance(values, list)
    if not is_list or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(
            f"{place}: {column!r} must be a list of texts, none of them empty; for a single answer "
            f"use 'answer'"
        )
    return [_stripped(value, column, place) for value in values]


def _stripped(text: str, column: str, place: str) -> str:
    """Text without white space around it, refused if it cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{place}: {column!r} holds half of a surrogate pair: correct or remove it"
        ) from error
    return text.strip()


def _lacks(wanted: str, row: Row) -> str:
    found = ", ".join(repr(column) for column in row if _has(row, column)) or "nothing"
    return f"no {wanted}; found {found}: add it"


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            if line.strip():
                yield place, _object(_parsed(line.rstrip(), place), place)


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    items = _parsed(path.read_bytes().removeprefix(BYTE_ORDER_MARK), str(path))
    if not isinstance(items, list):
        raise ValueError(f"{path}: expected a list of objects, found {type(items).__name__}")
    for number, item in enumerate(items, start=1):
        place = f"{path}, item {number}"
        yield place, _object(item, place)


def _csv_rows(path: Path) -> Iterator[tuple[str, Row]]:
    text = _decoded(path.read_bytes().removeprefix(BYTE_ORDER_MARK), str(path))
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{place}: has another number of fields than the header: quote it")
            for column in ACCEPTED_COLUMNS:
                if _has(row, column):
                    row[column] = _parsed(row[column].encode(), f"{place}, column {column!r}")
            yield place, row
    except csv.Error as error:
        line = reader.reader.line_num  # DictReader's own stays at the last good row
        raise ValueError(f"{path}, line {line}: not valid CSV ({error}): correct it") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _object(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object, found {type(value).__name__}")
    return value


def _parsed(data: bytes, place: str) -> Any:
    try:
        return json.loads(_decoded(data, place))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(
            f"{place}: not valid JSON ({error.msg} at {where}character {error.colno}): correct it"
        ) from error


def _decoded(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n")
        where = f"{place}, line {line + 1}" if line else place
        raise ValueError(f"{where}: not UTF-8 ({error.reason}): save it as UTF-8") from error
