"""Which documents a measurement reads, and what identifies them.

A **corpus** is an ordered, re-iterable series of documents (texts), or rows of token ids that were
tokenised elsewhere. `load_corpus` takes the name of a built-in asset (`general`, `biomedical`, each
also `-train` and `-heldout`), a file (`.txt`, `.jsonl`, `.parquet`, `.npy`), a folder of these, or
the id of a Hugging Face data set ("namespace/name"), which is streamed. Documents are read as they
are asked for; the whole corpus is never held. `probes.corpus.readers` says what a document is in
each format.

    >>> from probes.corpus.sources import Corpus, load_corpus
    >>> corpus = load_corpus("general", max_documents=256)             # doctest: +SKIP
    >>> corpus = Corpus.from_texts(["One document.", "", "Another."])
    >>> list(corpus.documents()), corpus.counts.empty
    (['One document.', 'Another.'], 1)

The **content hash** is the SHA-256 of the documents themselves in order (each as its length and
its UTF-8 bytes), not of files: the same documents give the same hash from a `.jsonl`, a `.parquet`
or a list. Finding it costs one pass over the documents.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from probes.assets.table import AssetKind, asset_names, find_asset, nearest_names
from probes.corpus import readers

DEFAULT_COLUMN = "text"
DEFAULT_SPLIT = "train"
NO_LICENCE = "not stated"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HASHED_ROWS = 4096


class ContentHash:
    """SHA-256 over documents or rows of token ids, in order; see the module for the definition."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add_text(self, text: str) -> None:
        """Add one document."""
        data = text.encode()
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)

    def add_row(self, row: Integer[np.ndarray, " pos"]) -> None:
        """Add one row of token ids, as its length and little-endian 64-bit integers."""
        self._digest.update(len(row).to_bytes(8, "little"))
        self._digest.update(np.ascontiguousarray(row, dtype="<i8").tobytes())

    @property
    def value(self) -> str:
        """The hexadecimal digest of what was added so far."""
        return self._digest.hexdigest()


@dataclass
class ReadCounts:
    """What the latest pass over a corpus has met.

    Attributes:
        documents: documents with text.
        empty: documents skipped because they hold nothing but white space.
    """

    documents: int = 0
    empty: int = 0


@dataclass(frozen=True)
class Corpus:
    """Documents to measure on. Made by `load_corpus` or `Corpus.from_texts`.

    Attributes:
        name: the source as it was asked for, with the revision of a data set.
        licence: the licence of the texts as far as known, else "not stated".
        open_texts: opens the texts anew; None for rows of token ids.
        token_rows: arrays of token ids of one width, `[row pos]`; None for texts.
        max_documents: the most documents (or rows) to read; None for all.
        counts: what the latest pass over `documents()` has met.
    """

    name: str
    licence: str = NO_LICENCE
    open_texts: Callable[[], Iterator[str]] | None = field(default=None, repr=False)
    token_rows: tuple[Integer[np.ndarray, "_ pos"], ...] | None = field(default=None, repr=False)
    max_documents: int | None = None
    counts: ReadCounts = field(default_factory=ReadCounts, compare=False)

    @classmethod
    def from_texts(cls, texts: Sequence[str], name: str = "texts") -> "Corpus":
        """A corpus of texts that are already in memory.

        Raises:
            ValueError: none of them holds any text.
        """
        return _checked(cls(name, open_texts=lambda: iter(texts)))

    def documents(self) -> Iterator[str]:
        """The documents in order, read as they are asked for; empty ones are skipped and counted.

        Raises:
            ValueError: the corpus is rows of token ids, or a document cannot be read.
        """
        if self.open_texts is None:
            raise ValueError(
                f"corpus {self.name} holds rows of token ids, not texts: read token_rows instead"
            )
        counts = self.counts
        counts.documents = counts.empty = 0
        for text in self.open_texts():
            if not text.strip():
                counts.empty += 1
                continue
            counts.documents += 1
            yield text
            if counts.documents == self.max_documents:
                return

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the documents or rows in order; reads all of them once."""
        content = ContentHash()
        if self.token_rows is None:
            for text in self.documents():
                content.add_text(text)
        else:
            for block in self.token_rows:
                for row in block:
                    content.add_row(row)
        return content.value


def load_corpus(
    source: str | Path,
    *,
    column: str | None = None,
    split: str = DEFAULT_SPLIT,
    revision: str | None = None,
    config: str | None = None,
    max_documents: int | None = None,
) -> Corpus:
    """Open a corpus.

    Args:
        source: a built-in corpus, a file, a folder or a data set id; a built-in name wins over a
            file of that name (write `./general` for the file). In a folder all files of the known
            kinds are read, recursively and in sorted order; a folder laid out as a Hugging Face
            data set (front matter in its README.md) is read as one.
        column: where the text is in `.jsonl`, `.parquet` and data sets; "text" by default.
        split: split of a data set.
        revision: branch, tag or commit of a data set.
        config: configuration of a data set.
        max_documents: read at most so many documents (or rows of token ids).

    Raises:
        ValueError: nothing readable is there, the corpus is empty, or an option does not apply.
    """
    if max_documents is not None and max_documents < 1:
        raise ValueError(
            f"max_documents is {max_documents}: give a positive number, or leave it out to read all"
        )
    path = Path(source).expanduser()
    hub_options = {"split": split, "revision": revision, "config": config}
    if str(source) in asset_names(AssetKind.CORPUS):
        _refuse_hub_options(str(source), hub_options)
        corpus = _asset_corpus(str(source), column, max_documents)
    elif path.exists() and not readers.is_dataset_folder(path):
        _refuse_hub_options(str(source), hub_options)
        corpus = _file_corpus(str(source), readers.corpus_files(path), column, max_documents)
    elif path.exists() or _is_hub_id(source):
        corpus = _hub_corpus(str(source), column, hub_options, max_documents)
    else:
        raise ValueError(_not_found(str(source)))
    return _checked(corpus)


def _checked(corpus: Corpus) -> Corpus:
    """The corpus itself, refused if it holds nothing."""
    if corpus.token_rows is not None:
        is_empty = not any(map(len, corpus.token_rows))
    else:
        is_empty = readers.first(corpus.documents()) is None
    if is_empty:
        raise ValueError(
            f"corpus {corpus.name} is empty (documents without text: {corpus.counts.empty}): give "
            f"one that holds text"
        )
    return corpus


def _asset_corpus(name: str, column: str | None, max_documents: int | None) -> Corpus:
    from probes.assets import fetch

    path = fetch(name)
    texts = partial(readers.read_jsonl, path, column or DEFAULT_COLUMN)
    return Corpus(name, find_asset(name).licence, texts, max_documents=max_documents)


def _file_corpus(
    name: str, files: list[Path], column: str | None, max_documents: int | None
) -> Corpus:
    """A corpus of files that are all texts or all rows of token ids."""
    suffixes = {path.suffix for path in files}
    if column is not None and not suffixes & {".jsonl", ".parquet"}:
        raise ValueError(
            f"column {column!r} was asked for, but {name} has {', '.join(sorted(suffixes))} files: "
            f"leave column out"
        )
    if suffixes == {readers.TOKEN_SUFFIX}:
        return Corpus(name, token_rows=_token_blocks(files, max_documents))
    texts = partial(_read_files, files, column or DEFAULT_COLUMN)
    return Corpus(name, open_texts=texts, max_documents=max_documents)


def _read_files(files: Iterable[Path], column: str) -> Iterator[str]:
    for path in files:
        match path.suffix:
            case ".txt":
                yield from readers.read_txt(path)
            case ".jsonl":
                yield from readers.read_jsonl(path, column)
            case _:
                yield from readers.read_parquet(path, column)


def _token_blocks(
    files: list[Path], max_documents: int | None
) -> tuple[Integer[np.ndarray, "_ pos"], ...]:
    """The arrays in `files`, which must have rows of one width."""
    blocks = [readers.open_token_rows(path) for path in files]
    for path, block in zip(files, blocks, strict=True):
        if block.shape[1] != blocks[0].shape[1]:
            raise ValueError(
                f"{path} has rows of {block.shape[1]} tokens, {files[0]} of {blocks[0].shape[1]}: "
                f"give files with rows of one width"
            )
    return readers.limit_rows(blocks, max_documents)


def _is_hub_id(source: str | Path) -> bool:
    """Whether `source` is written like "namespace/name" and not like a path."""
    text = str(source)
    looks_like_path = (
        isinstance(source, Path) or text.startswith(".") or text.endswith(readers.SUFFIXES)
    )
    return not looks_like_path and HUB_ID.fullmatch(text) is not None


def _hub_corpus(
    source: str, column: str | None, options: dict[str, str | None], max_documents: int | None
) -> Corpus:
    split = options["split"] or DEFAULT_SPLIT
    revision = options["revision"]
    stream = readers.open_hub(source, options["config"], split, revision)
    name = f"{source}@{revision}" if revision else source
    texts = partial(readers.read_hub, stream, column or DEFAULT_COLUMN, name)
    licence = (stream.info.license if stream.info else None) or NO_LICENCE
    return Corpus(name, licence, texts, max_documents=max_documents)


def _refuse_hub_options(source: str, options: dict[str, str | None]) -> None:
    given = [name for name, value in options.items() if value not in (None, DEFAULT_SPLIT)]
    if given:
        raise ValueError(
            f"{', '.join(given)} was asked for, but {source} is not a Hugging Face data set: leave "
            f"it out"
        )


def _not_found(source: str) -> str:
    nearest = nearest_names(source, asset_names(AssetKind.CORPUS))
    return (
        f"no corpus {source!r}: not a built-in corpus ({nearest}), not a file or folder, and not a "
        f"data set id (namespace/name); accepted files are {', '.join(readers.SUFFIXES)}"
    )
