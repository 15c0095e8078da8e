"""Documents that a script has in memory, and what a document is in each kind of object.

| object                                      | a document is                          |
|---------------------------------------------|----------------------------------------|
| list, tuple, array or column of strings     | a string                               |
| list of mappings, `Dataset`, data frame     | what is in `column` of a row           |
| `IterableDataset`                           | the same, read anew in every pass      |
| list of lists of token ids, array `[row pos]` | a row, used as it is                 |

A missing value (None, or NaN in a data frame) is an empty document. Rows of token ids may differ in
length. An iterator, which can be gone through once, is read into memory.

    >>> documents = opened([{"body": "one"}, {"body": None}], "body")
    >>> list(documents.open_texts())
    ['one', '']
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Integer

from probes.corpus import readers

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
    dataset, frame = _loaded("datasets"), _loaded("pandas")
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
        return Opened(name, None, _rows(_values(source, column, name), name, most), info.license)
    texts = partial(readers.read_rows, source, column, name)
    return Opened(name, texts, None, info.license)


def _of_items(items: Any, column: str | None, name: str, most: int | None) -> Opened:
    first = next(iter(items), None)
    if isinstance(first, Mapping):
        column = column or DEFAULT_COLUMN
        if _is_row(first.get(column)):
            return Opened(name, None, _rows(_values(items, column, name), name, most))
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


def _values(items: Iterable[Any], column: str, name: str) -> Iterator[Any]:
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


def _loaded(library: str) -> Any:
    """A library, if the script has imported it; nothing can be of its kinds otherwise."""
    return sys.modules.get(library)
