"""Which files are documents, of a folder, a pattern, or several of either; and the rows in them.

A folder is read recursively, in sorted order. Hidden files and folders and what editors leave
behind (`notes.txt~`) are no documents, nor is what a project says about itself (`LICENSE.txt`,
`requirements.txt`). Files of `.json` and `.csv` beside `.txt`, `.jsonl` or `.parquet` are taken for
notes on these. What is left out is named; a file that is asked for by its own name is read whatever
it is called. What cannot be read is a `ValueError` that names the file, the line or row, and what
to do.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

TOKEN_SUFFIX = ".npy"
PACKABLE = (".txt", ".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (".txt", ".jsonl", ".parquet", TOKEN_SUFFIX, ".json", ".csv", ".tsv")
ACCEPTED = f"{', '.join(SUFFIXES)}, texts also as .gz or .zst"
WITH_COLUMNS = frozenset({".jsonl", ".parquet", ".json", ".csv", ".tsv"})
_PACKED = (".gz", ".zst")
_NOTES = frozenset({".json", ".csv", ".tsv"})
"""Kinds that hold notes on the documents where these are of other kinds."""
_ABOUT = re.compile(
    r"(licen[sc]e|copying|notice|readme|changelog|authors|contributors|contributing|citation"
    r"|requirements|constraints|cmakelists)([-_.]\w+)?|dataset_(info|infos|dict)|package(-lock)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Found:
    """Files that are documents, and in words what was left out beside them."""

    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()


def kind_of(path: Path) -> str | None:
    """The ending that says how a file is read, without that of a packed file; None if unknown."""
    if path.suffix.lower() in _PACKED:
        inner = Path(path.stem).suffix.lower()
        return inner if inner in PACKABLE else None
    return path.suffix.lower() if path.suffix.lower() in SUFFIXES else None


def is_pattern(source: str | Path) -> bool:
    """Whether a name stands for all files that it matches."""
    return has_magic(str(source)) and not Path(source).expanduser().exists()


def corpus_files(sources: Sequence[str | Path]) -> Found:
    """The documents of files, folders and patterns."""
    found = [_documents_of(source) for source in sources]
    files = [file for one in found for file in one.files]
    seen: dict[Path, Path] = {}
    for file in files:
        plain = file.with_name(_unpacked_name(file)).resolve()
        if plain in seen:
            raise ValueError(
                f"{seen[plain]} and {file} would both be read and have one name: keep one of them"
            )
        seen[plain] = file
    if len({kind_of(file) == TOKEN_SUFFIX for file in files}) > 1:
        raise ValueError(
            f"{', '.join(map(str, sources))} mixes texts with rows of token ids (.npy): keep them "
            "in folders of their own"
        )
    return Found(tuple(files), tuple(words for one in found for words in one.left_out))


def is_dataset_folder(path: Path) -> bool:
    """Whether a folder declares itself a Hugging Face data set in its README.md."""
    readme = path / "README.md"
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8", errors="replace")
    front = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
    return bool(re.search(r"(?m)^(configs|dataset_info):", front))


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the library `datasets`."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def _documents_of(source: str | Path) -> Found:
    path = Path(source).expanduser()
    if path.is_file():
        if kind_of(path) is None:
            raise ValueError(f"{path}: found {path.suffix or path.name}: give {ACCEPTED} files")
        return Found((path,))
    if path.is_dir():
        root, inside = path, sorted(path.rglob("*"))
    elif is_pattern(source):
        # What is hidden above the pattern was asked for by its name.
        root = Path(*takewhile(lambda part: not has_magic(part), path.parts))
        inside = sorted(map(Path, glob(str(path), recursive=True)))
    else:
        raise ValueError(f"{source}: no such file or folder: give {ACCEPTED} files")
    there = [file.relative_to(root) for file in inside if file.is_file()]
    return _chosen_documents(str(source), root, there)


def _chosen_documents(name: str, folder: Path, candidates: Sequence[Path]) -> Found:
    seen = [file for file in candidates if not _is_hidden(file)]
    unread = [file for file in seen if kind_of(file) is None]
    known = [file for file in seen if kind_of(file) is not None]
    about = [file for file in known if _is_about(file)]
    documents = [file for file in known if not _is_about(file)]
    if any(kind_of(file) not in _NOTES for file in documents):
        about += [file for file in documents if kind_of(file) in _NOTES]
        documents = [file for file in documents if kind_of(file) not in _NOTES]
    if not documents:
        kinds = {file.suffix or file.name for file in unread} | {str(file) for file in about}
        hidden = ["hidden files"] * (len(seen) < len(candidates))
        there = [*sorted(kinds), *hidden] or ["nothing"]
        raise ValueError(f"{name}: found {', '.join(there)}: give {ACCEPTED} files")
    by_kind: dict[str, list[Path]] = defaultdict(list)
    for file in unread:
        by_kind[file.suffix.lower() or "other"].append(file)
    left_out = [
        f"{len(files)} {kind} file{'s' * (len(files) > 1)} ({files[0]})"
        for kind, files in sorted(by_kind.items())
    ]
    return Found(tuple(folder / file for file in documents), (*left_out, *map(str, about)))


def _is_hidden(file: Path) -> bool:
    """Whether a file is hidden, in a hidden folder, or what an editor leaves behind."""
    parts = [part for part in file.parts if part not in (".", "..")]
    leftover = file.name.endswith("~") or file.name.startswith(("#", "~$"))
    return leftover or any(part.startswith(".") for part in parts) or "__MACOSX" in parts


def _is_about(file: Path) -> bool:
    return _ABOUT.fullmatch(Path(_unpacked_name(file)).stem) is not None


def _unpacked_name(file: Path) -> str:
    return file.stem if file.suffix.lower() in _PACKED else file.name


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_FIELD = 2**31 - 1

_BEGINNING = 1024
_PARQUET_BATCH_ROWS = 256

Row = dict[str, Any]


@contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file's bytes, unpacked as they are read where its name ends in .gz or .zst."""
    try:
        with _opened_file(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: cannot be read ({first_line(error)}): see that it is whole and yours to read"
        ) from error


def _opened_file(path: Path) -> io.BufferedIOBase:
    match path.suffix.lower():
        case ".gz":
            return gzip.open(path, "rb")
        case ".zst":
            import pyarrow

            return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def first_line(error: BaseException) -> str:
    """What a library says of an error, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".:")


def contents(path: Path) -> bytes:
    """All of a file, without a byte order mark."""
    with unpacked(path) as file:
        return file.read().removeprefix(BYTE_ORDER_MARK)


def file_rows(path: Path, kind: str, column: str) -> Iterator[tuple[str, Row | None]]:
    """The place and the row of each line of a file of some kind; None for a blank line."""
    match kind:
        case ".parquet":
            return parquet_rows(path, column)
        case ".csv" | ".tsv":
            return separated_rows(path, "," if kind == ".csv" else "\t")
        case ".json":
            with unpacked(path) as file:
                beginning = file.read(_BEGINNING).removeprefix(BYTE_ORDER_MARK)
            # JSON Lines are called `.json` as well.
            if beginning.lstrip().startswith(b"["):
                return json_rows(path)
    return json_lines(path)


def placed(items: Iterable[Any], what: str) -> Iterator[tuple[str, Any]]:
    """Items with their places, counted from 1."""
    return ((f"{what} {number}", item) for number, item in enumerate(items, start=1))


def json_lines(path: Path) -> Iterator[tuple[str, Row | None]]:
    """The objects of a file of JSON Lines; None for a blank line."""
    with unpacked(path) as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            yield place, as_object(parsed(line.rstrip(), place), place) if line.strip() else None


def parquet_rows(path: Path, column: str | None = None) -> Iterator[tuple[str, Row]]:
    """The rows of a Parquet file, or what one column of it holds."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file ({first_line(error)})") from error
    with file:
        if column is not None and column not in file.schema_arrow.names:
            raise ValueError(missing_column(column, file.schema_arrow.names, str(path)))
        columns = None if column is None else [column]
        batches = file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=columns)
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        yield from placed(rows, f"{path}, row")


def missing_column(column: str, found: Iterable[str], place: str) -> str:
    """The message for a column that is not there."""
    return (
        f"{place}: no column {column!r}; found {', '.join(map(repr, found)) or 'none'}: name the "
        f"column with the text with column (--column)"
    )


def json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The objects of the one list that a `.json` file holds."""
    items = parsed(contents(path), str(path))
    if not isinstance(items, list):
        raise ValueError(f"{path}: expected a list of objects, found {type(items).__name__}")
    for place, item in placed(items, f"{path}, item"):
        yield place, as_object(item, place)


def separated_rows(
    path: Path, separator: str, list_columns: Sequence[str] = ()
) -> Iterator[tuple[str, Row]]:
    """The records below the header of a `.csv` or `.tsv` file."""
    # A document may be longer than the library's usual limit of a field.
    csv.field_size_limit(_LONGEST_FIELD)
    lines = io.StringIO(decoded(contents(path), str(path)), newline="")
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
        raise ValueError(
            f"{place}: not valid JSON ({error.msg} at {where}character {error.colno}): correct it"
        ) from error


def decoded(data: bytes, place: str) -> str:
    """Text from its UTF-8 bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n")
        where = f"{place}, line {line + 1}" if line else place
        raise ValueError(f"{where}: not UTF-8 ({error.reason}): save it as UTF-8") from error


def as_object(value: Any, place: str) -> Row:
    """A value itself, refused if it is no object of JSON."""
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected an object, found {type(value).__name__}")
    return value
