r"""What a document is in each kind of file and object, read one at a time.

| format | a document is |
|--------|---------------|
| `.txt` | the whole file, or each line or paragraph of it (`sample_by`) |
| `.jsonl` | a line; its text is in `column` |
| `.json` | an object of the list that the file holds, or as `.jsonl` |
| `.csv`, `.tsv` | a record below the header; as above |
| `.parquet` | a row; its text is in `column`; read one row group at a time |
| data set | a row of the streamed split; its text is in `column` |
| `.npy` | a row of token ids, mapped into memory, not read |
| list, tuple, array or column of strings | a string |
| list of mappings, `Dataset`, data frame | what is in `column` of a row |
| `IterableDataset` | the same, read anew in every pass |
| list of lists of ids, array `[row pos]` | a row, used as it is |

Texts may be packed, as `.jsonl.gz` or `.txt.zst`. Every reader is a generator that may yield empty
texts; `probes.corpus` skips and counts them. What cannot be read is a `ValueError` that names the
file, the line or row, and what to do.

A missing value (None, or NaN in a data frame) is an empty document. Rows of token ids may differ in
length. An iterator, which can be gone through once, is read into memory.

    >>> documents = opened([{"body": "one"}, {"body": None}], "body")
    >>> list(documents.open_texts())
    ['one', '']
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from probes.choices import SampleBy
from probes.corpus import readers
from probes.corpus.files import (
    BYTE_ORDER_MARK,
    is_saved_dataset,
    json_rows,
    separated_rows,
    unpacked,
)

CHUNK_DOCUMENTS = 64
CHUNK_CHARACTERS = 1 << 19
PARQUET_BATCH_ROWS = 256
_BEGINNING = 1024
MINIMUM_ROW_TOKENS = 2


def read_documents(path: Path, kind: str, column: str, sample_by: SampleBy) -> Iterator[str]:
    """The documents of a file of texts."""
    match kind:
        case ".txt":
            return read_txt(path, sample_by)
        case ".jsonl":
            return read_jsonl(path, column)
        case ".parquet":
            return read_parquet(path, column)
        case ".json" if not _begins_list(path):
            return read_jsonl(path, column)
        case ".json":
            rows = json_rows(path)
        case _:
            rows = separated_rows(path, "," if kind == ".csv" else "\t")
    return (text_of_row(row, column, place) for place, row in rows)


def _begins_list(path: Path) -> bool:
    """Whether a file begins with a list; JSON Lines are called `.json` as well."""
    with unpacked(path) as file:
        return file.read(_BEGINNING).removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"[")


def read_txt(path: Path, sample_by: SampleBy = SampleBy.DOCUMENT) -> Iterator[str]:
    """The documents of a text file: all of it as one, or its lines or paragraphs."""
    with unpacked(path) as file:
        data = file.read().removeprefix(BYTE_ORDER_MARK)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: not UTF-8 ({error.reason}): save the file as UTF-8"
        ) from error
    match sample_by:
        case SampleBy.LINE:
            yield from (line.removesuffix("\r") for line in text.split("\n"))
        case SampleBy.PARAGRAPH:
            yield from re.split(r"\n\s*\n", text)
        case _:
            yield text


def read_jsonl(path: Path, column: str) -> Iterator[str]:
    """The documents of a JSON Lines file; blank lines count as empty documents."""
    with unpacked(path) as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)
            yield text_of_line(line, column, f"{path}, line {number}") if line.strip() else ""


def text_of_line(line: bytes, column: str, place: str) -> str:
    """The text in `column` of one line of JSON; `place` says where it stands, for errors."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: not UTF-8 ({error.reason}): save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place}: not valid JSON ({error.msg} at character {error.pos + 1}): "
            f"correct or remove the line"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f"{place}: expected a JSON object with {column!r}, found {type(row).__name__}: write "
            f'lines such as {{"{column}": "..."}}'
        )
    return text_of_row(row, column, place)


def text_of_row(row: Mapping[str, Any], column: str, place: str) -> str:
    """The text in `column` of a row; a missing value (None) is an empty text."""
    if column not in row:
        raise ValueError(missing_column(column, row, place))
    text = row[column]
    if text is not None and not isinstance(text, str):
        raise ValueError(
            f"{place}: {column!r} holds {type(text).__name__}, not text: name a column of strings "
            f"with column (--column)"
        )
    return checked_text(text, f"{place}: {column!r}")


def checked_text(text: str | None, place: str) -> str:
    """A text itself; a missing one (None) is empty."""
    if text is None:
        return ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} holds half of a surrogate pair: correct or remove it") from error
    return text


def missing_column(column: str, found: Iterable[str], place: str) -> str:
    """The message for a column that is not there."""
    return (
        f"{place}: no column {column!r}; found {', '.join(map(repr, found)) or 'none'}: name the "
        f"column with the text with column (--column)"
    )


def read_parquet(path: Path, column: str) -> Iterator[str]:
    """The documents of a Parquet file, read one row group at a time."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({_first_line(error)})") from error
    with file:
        if column not in file.schema_arrow.names:
            raise ValueError(missing_column(column, file.schema_arrow.names, str(path)))
        row = 0
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[column]):
            for value in batch.column(0).to_pylist():
                row += 1
                yield text_of_row({column: value}, column, f"{path}, row {row}")


def open_hub(name: str, config: str | None, split: str, revision: str | None) -> Any:
    """A Hugging Face data set in streaming mode."""
    import datasets

    try:
        if is_saved_dataset(Path(name)):
            return _saved(name, split)
        return datasets.load_dataset(
            name, name=config, split=split, revision=revision, streaming=True
        )
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        asked = ", ".join(
            f"{key} {value!r}"
            for key, value in (("split", split), ("config", config), ("revision", revision))
            if value is not None
        )
        raise ValueError(
            f"cannot open data set {name!r} ({asked}): {_first_line(error)}: check the names and "
            f"the network, or give a file"
        ) from error


def _saved(folder: str, split: str) -> Any:
    """A data set that was written by `save_to_disk`; of several splits the one asked for."""
    import datasets

    found = datasets.load_from_disk(folder)
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise ValueError(f"found the splits {', '.join(found)}")
    return found[split]


def read_rows(rows: Iterable[Mapping[str, Any]], column: str, name: str) -> Iterator[str]:
    """The documents of a data set that is streamed or in memory."""
    for number, row in enumerate(rows, start=1):
        yield text_of_row(row, column, f"{name}, row {number}")


def open_token_rows(path: Path) -> Integer[np.ndarray, "row pos"]:
    """The token ids in a `.npy` file, mapped into memory."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: not a .npy array of numbers ({_first_line(error)}): save one with numpy.save"
        ) from error
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            f"{path}: expected rows of token ids [row pos], found {rows.dtype} of shape "
            f"{list(rows.shape)}: save a two-dimensional array of integers"
        )
    if rows.shape[1] < MINIMUM_ROW_TOKENS:
        raise ValueError(
            f"{path}: rows have {rows.shape[1]} token(s): give rows of {MINIMUM_ROW_TOKENS} or more"
        )
    return rows


def limit_rows(
    blocks: Iterable[Integer[np.ndarray, "_ _"]], limit: int | None
) -> tuple[Integer[np.ndarray, "_ _"], ...]:
    """The first `limit` rows of several arrays, without reading them."""
    if limit is None:
        return tuple(blocks)
    kept = []
    for block in blocks:
        kept.append(block[:limit])
        limit -= len(kept[-1])
    return tuple(block for block in kept if len(block))


def text_chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists that the tokenizer takes at a time, bounded in number and characters."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        chunk.append(text)
        characters += len(text)
        if len(chunk) == CHUNK_DOCUMENTS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def first(items: Iterable[str]) -> str | None:
    """The first item, or None."""
    return next(iter(islice(items, 1)), None)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")


DEFAULT_COLUMN = "text"
NAME = "texts"
_MASK = "attention_mask"


@dataclass(frozen=True)
class Opened:
    """What an object in memory holds: texts, or rows of token ids."""

    name: str
    open_texts: Callable[[], Iterator[str]] | None = None
    token_rows: tuple[Integer[np.ndarray, "_ _"], ...] | None = None
    licence: str | None = None


def opened(source: Any, column: str | None, name: str = NAME, *, most: int | None = None) -> Opened:
    """What an object in memory holds."""
    _refuse_unordered(source)
    dataset, frame = _imported_library("datasets"), _imported_library("pandas")
    if dataset is not None and isinstance(source, dataset.Dataset | dataset.IterableDataset):
        return _of_dataset(source, column or DEFAULT_COLUMN, most)
    if frame is not None and isinstance(source, frame.DataFrame):
        source = _column_of_frame(source, column or DEFAULT_COLUMN)
        column = None
    if frame is not None and isinstance(source, frame.Series):
        source = [None if missing else x for x, missing in zip(source, source.isna(), strict=True)]
    items = source if isinstance(source, Sized) else list(source)
    return _of_items(items, column, name, most)


def _of_dataset(source: Any, column: str, most: int | None) -> Opened:
    info = source.info
    name = f"data set {info.dataset_name}" if info.dataset_name else "data set"
    if source.column_names is not None:
        if column not in source.column_names:
            raise ValueError(readers.missing_column(column, source.column_names, name))
        # Columns that are not asked for, pictures say, are not decoded.
        kept = [column, *({_MASK} & set(source.column_names))]
        source = source.select_columns(list(dict.fromkeys(kept)))
    row: Mapping[str, Any] = next(iter(source), {})
    first = row.get(column)
    if _is_row(first):
        return Opened(
            name, None, _rows(_rows_in_column(source, column, name), name, most), info.license
        )
    texts = partial(readers.read_rows, source, column, name)
    return Opened(name, texts, None, info.license)


def _of_items(items: Any, column: str | None, name: str, most: int | None) -> Opened:
    first = next(iter(items), None)
    if isinstance(first, Mapping):
        column = column or DEFAULT_COLUMN
        if _is_row(first.get(column)):
            return Opened(name, None, _rows(_rows_in_column(items, column, name), name, most))
        return Opened(name, partial(_texts_of_mappings, items, column, name))
    if column is not None:
        raise ValueError(
            f"column {column!r} was asked for, but {name} have no columns: leave column out"
        )
    if _is_row(first):
        return Opened(name, None, _rows(items, name, most))
    return Opened(name, partial(_texts, items, name))


def _texts(items: Iterable[Any], name: str) -> Iterator[str]:
    for number, text in enumerate(items, start=1):
        place = f"{name}, item {number}"
        if text is not None and not isinstance(text, str):
            raise ValueError(
                f"{place}: found {type(text).__name__}, not text: give strings, mappings with a "
                "column of strings, or lists of token ids"
            )
        yield readers.checked_text(text, place)


def _texts_of_mappings(items: Iterable[Any], column: str, name: str) -> Iterator[str]:
    for number, row in enumerate(items, start=1):
        place = f"{name}, item {number}"
        yield readers.text_of_row(_mapping(row, place), column, place)


def _rows_in_column(items: Iterable[Any], column: str, name: str) -> Iterator[Any]:
    """The rows of ids in a column, none of them padded."""
    for number, row in enumerate(items, start=1):
        place = f"{name}, item {number}"
        if column not in _mapping(row, place):
            raise ValueError(readers.missing_column(column, row, place))
        if not np.all(np.asarray(row.get(_MASK, True))):
            raise ValueError(f"{place}: has pads ({_MASK} is 0): give rows without pads")
        yield row[column]


def _mapping(row: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: found {type(row).__name__}, not a mapping like the first one")
    return row


def _is_row(value: Any) -> bool:
    """Whether a value is a row of numbers, and not one text or number."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return False
    return np.asarray(value).dtype.kind in "iufb" and np.ndim(value) > 0


def _rows(
    items: Iterable[Any], name: str, most: int | None
) -> tuple[Integer[np.ndarray, "_ _"], ...]:
    """Rows of token ids, in one array where they have one length."""
    rows = []
    for number, item in enumerate(islice(items, most), start=1):
        ids = np.asarray(item)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) < readers.MINIMUM_ROW_TOKENS:
            raise ValueError(
                f"{name}, item {number}: found {ids.dtype} of shape {list(ids.shape)}: give a list "
                f"of {readers.MINIMUM_ROW_TOKENS} token ids or more"
            )
        rows.append(ids.astype(np.int64))
    if len({len(row) for row in rows}) == 1:
        return (np.stack(rows),)
    return tuple(row[None] for row in rows)


def _column_of_frame(frame: Any, column: str) -> Any:
    if column not in frame.columns:
        raise ValueError(readers.missing_column(column, map(str, frame.columns), "data frame"))
    return frame[column]


def _refuse_unordered(source: Any) -> None:
    """Refuse what has no order of documents, or is several things at once."""
    if isinstance(source, Mapping):
        keys = ", ".join(map(repr, islice(source, 4)))
        raise ValueError(
            f"the corpus is one {type(source).__name__} with {keys}: give one of these (a split or "
            "a column), or a list of mappings"
        )
    if isinstance(source, set | frozenset):
        raise ValueError("the corpus is a set, which has no order: give a list")
    if isinstance(source, bytes) or not isinstance(source, Iterable):
        raise ValueError(
            f"the corpus is {type(source).__name__}: give a name, a path, or a list of texts"
        )


def _imported_library(library: str) -> Any:
    """A library, if the script has imported it; nothing can be of its kinds otherwise."""
    return sys.modules.get(library)
