"""What a document is in each kind of file and object, read one at a time.

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

A missing value (None, or NaN in a data frame) is an empty document, which whoever reads skips and
counts. Rows of token ids may differ in length. An iterator is read into memory.
"""

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
from probes.corpus.files import (
    contents,
    decoded,
    file_rows,
    first_line,
    is_saved_dataset,
    missing_column,
    placed,
)

CHUNK_DOCUMENTS = 64
CHUNK_CHARACTERS = 1 << 19
MINIMUM_ROW_TOKENS = 2
DEFAULT_COLUMN = "text"
NAME = "texts"
_MASK = "attention_mask"


def read_documents(path: Path, kind: str, column: str, sample_by: SampleBy) -> Iterator[str]:
    """The documents of a file of texts."""
    if kind != ".txt":
        yield from texts_of_rows(file_rows(path, kind, column), column)
        return
    text = decoded(contents(path), str(path))
    match sample_by:
        case SampleBy.LINE:
            yield from (line.removesuffix("\r") for line in text.split("\n"))
        case SampleBy.PARAGRAPH:
            yield from re.split(r"\n\s*\n", text)
        case _:
            yield text


def texts_of_rows(rows: Iterable[tuple[str, Any]], column: str) -> Iterator[str]:
    """The texts in `column` of rows with their places; a row that is None is an empty text."""
    for place, row in rows:
        if row is None:
            yield ""
            continue
        text = _value_in(row, column, place)
        if text is not None and not isinstance(text, str):
            raise ValueError(
                f"{place}: {column!r} holds {type(text).__name__}, not text: name a column of "
                "strings with column (--column)"
            )
        yield _checked(text, f"{place}: {column!r}")


def _value_in(row: Any, column: str, place: str) -> Any:
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: found {type(row).__name__}, not a mapping like the first one")
    if column not in row:
        raise ValueError(missing_column(column, row, place))
    return row[column]


def _texts(items: Iterable[Any], name: str) -> Iterator[str]:
    for place, text in placed(items, f"{name}, item"):
        if text is not None and not isinstance(text, str):
            raise ValueError(
                f"{place}: found {type(text).__name__}, not text: give strings, mappings with a "
                "column of strings, or lists of token ids"
            )
        yield _checked(text, place)


def _checked(text: str | None, place: str) -> str:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} holds half of a surrogate pair: correct or remove it") from error
    return text or ""


def open_hub(name: str, config: str | None, split: str, revision: str | None) -> Any:
    """A Hugging Face data set in streaming mode, or one that `save_to_disk` wrote."""
    import datasets

    try:
        if not is_saved_dataset(Path(name)):
            return datasets.load_dataset(
                name, name=config, split=split, revision=revision, streaming=True
            )
        found = datasets.load_from_disk(name)
        if not isinstance(found, datasets.DatasetDict):
            return found
        if split not in found:
            raise ValueError(f"found the splits {', '.join(found)}")
        return found[split]
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        asked = {"split": split, "config": config, "revision": revision}
        shown = ", ".join(f"{key} {value!r}" for key, value in asked.items() if value is not None)
        raise ValueError(
            f"cannot open data set {name!r} ({shown}): {first_line(error)}: check the names and "
            f"the network, or give a file"
        ) from error


def read_rows(rows: Iterable[Any], column: str, name: str) -> Iterator[str]:
    """The documents of a data set that is streamed or in memory."""
    return texts_of_rows(placed(rows, f"{name}, row"), column)


def open_token_rows(path: Path) -> Integer[np.ndarray, "row pos"]:
    """The token ids in a `.npy` file, mapped into memory."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path}: not a .npy array of numbers ({first_line(error)}): save one with numpy.save"
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
    # Nothing can be of a library's kinds that the script has not imported.
    dataset, frame = sys.modules.get("datasets"), sys.modules.get("pandas")
    if dataset is not None and isinstance(source, dataset.Dataset | dataset.IterableDataset):
        return _of_dataset(source, column or DEFAULT_COLUMN, most)
    if frame is not None and isinstance(source, frame.DataFrame):
        column = column or DEFAULT_COLUMN
        if column not in source.columns:
            raise ValueError(missing_column(column, map(str, source.columns), "data frame"))
        source, column = source[column], None
    if frame is not None and isinstance(source, frame.Series):
        source = [None if missing else x for x, missing in zip(source, source.isna(), strict=True)]
    items: Any = source if isinstance(source, Sized) else list(source)
    first = next(iter(items), None)
    if isinstance(first, Mapping):
        column = column or DEFAULT_COLUMN
        if _is_row(first.get(column)):
            return Opened(name, None, _rows(_rows_in_column(items, column, name), name, most))
        return Opened(
            name, lambda: texts_of_rows(placed(items, f"{name}, item"), column or DEFAULT_COLUMN)
        )
    if column is not None:
        raise ValueError(
            f"column {column!r} was asked for, but {name} have no columns: leave column out"
        )
    if _is_row(first):
        return Opened(name, None, _rows(items, name, most))
    return Opened(name, partial(_texts, items, name))


def _of_dataset(source: Any, column: str, most: int | None) -> Opened:
    info = source.info
    name = f"data set {info.dataset_name}" if info.dataset_name else "data set"
    if source.column_names is not None:
        if column not in source.column_names:
            raise ValueError(missing_column(column, source.column_names, name))
        # Columns that are not asked for, pictures say, are not decoded.
        kept = [column, *({_MASK} & set(source.column_names))]
        source = source.select_columns(list(dict.fromkeys(kept)))
    row: Mapping[str, Any] = next(iter(source), {})
    if _is_row(row.get(column)):
        rows = _rows(_rows_in_column(source, column, name), name, most)
        return Opened(name, None, rows, info.license)
    return Opened(name, partial(read_rows, source, column, name), None, info.license)


def _rows_in_column(items: Iterable[Any], column: str, name: str) -> Iterator[Any]:
    """The rows of ids in a column, none of them padded."""
    for place, row in placed(items, f"{name}, item"):
        ids = _value_in(row, column, place)
        if not np.all(np.asarray(row.get(_MASK, True))):
            raise ValueError(f"{place}: has pads ({_MASK} is 0): give rows without pads")
        yield ids


def _is_row(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return False
    return np.asarray(value).dtype.kind in "iufb" and np.ndim(value) > 0


def _rows(
    items: Iterable[Any], name: str, most: int | None
) -> tuple[Integer[np.ndarray, "_ _"], ...]:
    """Rows of token ids, in one array where they have one length."""
    rows = []
    for place, item in placed(islice(items, most), f"{name}, item"):
        ids = np.asarray(item)
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(ids) < MINIMUM_ROW_TOKENS:
            raise ValueError(
                f"{place}: found {ids.dtype} of shape {list(ids.shape)}: give a list of "
                f"{MINIMUM_ROW_TOKENS} token ids or more"
            )
        rows.append(ids.astype(np.int64))
    if len({len(row) for row in rows}) == 1:
        return (np.stack(rows),)
    return tuple(row[None] for row in rows)


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
