"""Which documents a measurement reads, and what identifies them.

A **corpus** is an ordered, re-iterable series of documents (texts), or rows of token ids that were
tokenised elsewhere. Documents are read as they are asked for; the whole corpus is never held.

    >>> rest, held_out = split_held_out(Corpus.from_texts(["a", "b", "c"]), every=2)
    >>> list(rest.documents()), list(held_out.documents())
    (['a', 'c'], ['b'])

The **content hash** is the SHA-256 of the documents themselves in order (each as its length and
its UTF-8 bytes), not of files: the same documents give the same hash from a `.jsonl`, a `.parquet`
or a list. Finding it costs one pass over the documents.
"""

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from probes.assets.table import HUB_CORPORA, AssetKind, asset_names, find_asset, nearest_names
from probes.choices import SampleBy, as_choice
from probes.corpus import files, readers
from probes.corpus.readers import DEFAULT_COLUMN
from probes.shown import Shown

DEFAULT_SPLIT = "train"
NO_LICENCE = "not stated"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST_NAME = 256


class ContentHash:
    """SHA-256 over documents or rows of token ids, in order; see the module for the definition."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add_text(self, text: str) -> None:
        data = text.encode()
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)

    def add_row(self, row: Integer[np.ndarray, " pos"]) -> None:
        """Add one row of token ids, as its length and little-endian 64-bit integers."""
        self._digest.update(len(row).to_bytes(8, "little"))
        self._digest.update(np.ascontiguousarray(row, dtype="<i8").tobytes())

    @property
    def value(self) -> str:
        return self._digest.hexdigest()


@dataclass
class ReadCounts:
    """What the latest pass over a corpus has met."""

    documents: int = 0  # documents with text
    empty: int = 0  # documents skipped because they hold nothing but white space


@dataclass(frozen=True)
class Corpus(Shown):
    """Documents to measure on. Made by `load_corpus` or `Corpus.from_texts`."""

    name: str
    """The source as it was asked for, with the revision of a data set."""
    licence: str = NO_LICENCE
    """The licence of the texts, as far as known."""
    open_texts: Callable[[], Iterator[str]] | None = field(default=None, repr=False)
    """Opens the texts anew; None for rows of token ids."""
    token_rows: tuple[Integer[np.ndarray, "_ _"], ...] | None = field(default=None, repr=False)
    """Arrays of token ids `[row pos]`, each of one width; None for texts."""
    max_documents: int | None = None
    """The most documents (or rows) to read; None for all."""
    left_out: tuple[str, ...] = ()
    """In words, what lies beside the documents and is not read."""
    counts: ReadCounts = field(default_factory=ReadCounts, compare=False)
    """What the latest pass over `documents()` has met."""

    @classmethod
    def from_texts(cls, texts: Sequence[str], name: str = "texts") -> "Corpus":
        """A corpus of texts that are already in memory.

        Raises:
            ValueError: none of them holds any text, or one is no text.
        """
        opened = readers.opened(texts, None, name)
        return _not_empty(cls(name, open_texts=opened.open_texts, token_rows=opened.token_rows))

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
    source: str | Path | Iterable[Any],
    *,
    column: str | None = None,
    split: str = DEFAULT_SPLIT,
    revision: str | None = None,
    config: str | None = None,
    sample_by: SampleBy | str = SampleBy.DOCUMENT,
    max_documents: int | None = None,
) -> Corpus:
    """Open a corpus.

    Args:
        source: a built-in corpus, one of `HUB_CORPORA`, a file, a folder, a pattern such as
            `texts/*.jsonl.gz`, a list of `Path`, or a data set id; a name wins over a file of that
            name (write `./general` for the file), and options over those of a named data set. In a
            folder files of the known kinds are read, recursively
            and in sorted order; what is left out is named on the error stream and in `left_out`. A
            folder laid out as a Hugging Face data set (front matter in its README.md), or saved as
            one, is read as one. Or documents in memory: a list of strings, of mappings or of lists
            of token ids, a `Dataset`, an `IterableDataset`, a data frame or a column of one.
        column: where the text is in `.jsonl`, `.json`, `.csv`, `.parquet`, data sets and mappings;
            "text" by default.
        split: split of a data set.
        revision: branch, tag or commit of a data set.
        config: configuration of a data set.
        sample_by: what a document of a `.txt` file is: the whole file ("document"), each "line", or
            each "paragraph"; other kinds say themselves what their documents are.
        max_documents: read at most so many documents (or rows of token ids).

    Raises:
        ValueError: nothing readable is there, the corpus is empty, or an option does not apply.
    """
    if max_documents is not None and max_documents < 1:
        raise ValueError(
            f"max_documents is {max_documents}: give a positive number, or leave it out to read all"
        )
    by = as_choice(SampleBy, sample_by, "sample_by")
    hub_options = {"split": split, "revision": revision, "config": config}
    if not isinstance(source, str | Path):
        return _memory_or_files(source, column, hub_options, by, max_documents)
    path = Path(source).expanduser()
    is_dataset = files.is_dataset_folder(path) or files.is_saved_dataset(path)
    if str(source) in asset_names(AssetKind.CORPUS):
        _refuse_options(str(source), hub_options)
        from probes.assets import fetch

        name = str(source)
        asset = fetch(name), ".jsonl", column or DEFAULT_COLUMN, by
        texts = partial(readers.read_documents, *asset)
        corpus = Corpus(name, find_asset(name).licence, texts, max_documents=max_documents)
    elif isinstance(source, str) and (hub := HUB_CORPORA.get(source)):
        hub_options = {
            "split": split,
            "revision": revision or hub.revision,
            "config": config or hub.config,
        }
        column = column or hub.column
        corpus = _hub_corpus(hub.dataset, column, hub_options, max_documents, hub.licence)
    elif files.is_pattern(source) or (path.exists() and not is_dataset):
        _refuse_options(str(source), hub_options)
        corpus = _file_corpus(str(source), [source], column, by, max_documents)
    elif path.exists() or is_hub_corpus(source):
        corpus = _hub_corpus(str(source), column, hub_options, max_documents)
    else:
        names = [*asset_names(AssetKind.CORPUS), *HUB_CORPORA]
        nearest = nearest_names(str(source), names)
        raise ValueError(
            f"no corpus {str(source)!r}: not a named corpus ({nearest}), not a file or folder, "
            f"and not a data set id (namespace/name); accepted files are {files.ACCEPTED}"
        )
    return _not_empty(corpus)


def is_hub_corpus(source: str | Path) -> bool:
    """Whether a name is that of a data set of the hub."""
    if not isinstance(source, str) or source in asset_names(AssetKind.CORPUS):
        return False
    path = Path(source)
    is_id = not source.startswith(".") and files.kind_of(path) is None
    is_id = is_id and HUB_ID.fullmatch(source) is not None and not path.expanduser().exists()
    return source in HUB_CORPORA or is_id


def _memory_or_files(
    source: Iterable[Any],
    column: str | None,
    hub_options: dict[str, str | None],
    by: SampleBy,
    max_documents: int | None,
) -> Corpus:
    """Documents that a script has in memory, or the files that it has listed."""
    listed = list(source) if isinstance(source, list | tuple) else []
    if listed and all(isinstance(one, Path) for one in listed):
        name = " + ".join(map(str, listed))
        _refuse_options(name, hub_options)
        return _not_empty(_file_corpus(name, listed, column, by, max_documents))
    texts = (one for one in listed if isinstance(one, str) and "\n" not in one)
    names = (one for one in texts if len(one) < _LONGEST_NAME and files.kind_of(Path(one)))
    if path := next((one for one in names if Path(one).is_file()), None):
        raise ValueError(
            f"the texts have {path!r} among them, which is a file: give Path({path!r}) to read it, "
            "or a pattern for several"
        )
    _refuse_options("what is in memory", hub_options)
    found = readers.opened(source, column, most=max_documents)
    rows = found.token_rows
    return _not_empty(
        Corpus(
            found.name,
            found.licence or NO_LICENCE,
            found.open_texts,
            None if rows is None else readers.limit_rows(rows, max_documents),
            max_documents,
        )
    )


def _not_empty(corpus: Corpus) -> Corpus:
    if corpus.token_rows is not None:
        is_empty = not any(map(len, corpus.token_rows))
    else:
        is_empty = next(corpus.documents(), None) is None
    if is_empty:
        raise ValueError(
            f"corpus {corpus.name} is empty (documents without text: {corpus.counts.empty}): give "
            f"one that holds text"
        )
    return corpus


def _file_corpus(
    name: str,
    sources: Sequence[str | Path],
    column: str | None,
    by: SampleBy,
    max_documents: int | None,
) -> Corpus:
    """A corpus of files that are all texts or all rows of token ids."""
    found = files.corpus_files(sources)
    if found.left_out:
        print(f"left out of corpus {name}: {', '.join(found.left_out)}", file=sys.stderr)
    kinds = [files.kind_of(path) or "" for path in found.files]
    if column is not None and not files.WITH_COLUMNS.intersection(kinds):
        raise ValueError(
            f"column {column!r} was asked for, but {name} has {', '.join(sorted(set(kinds)))} "
            "files: leave column out"
        )
    if files.TOKEN_SUFFIX in kinds:
        blocks = [readers.open_token_rows(path) for path in found.files]
        for path, block in zip(found.files, blocks, strict=True):
            if block.shape[1] != blocks[0].shape[1]:
                raise ValueError(
                    f"{path} has rows of {block.shape[1]} tokens, {found.files[0]} of "
                    f"{blocks[0].shape[1]}: give files with rows of one width"
                )
        rows = readers.limit_rows(blocks, max_documents)
        return Corpus(name, token_rows=rows, left_out=found.left_out)

    def texts() -> Iterator[str]:
        for path, kind in zip(found.files, kinds, strict=True):
            yield from readers.read_documents(path, kind, column or DEFAULT_COLUMN, by)

    return Corpus(name, open_texts=texts, max_documents=max_documents, left_out=found.left_out)


def _hub_corpus(
    source: str,
    column: str | None,
    options: dict[str, str | None],
    max_documents: int | None,
    licence: str = NO_LICENCE,
) -> Corpus:
    split = options["split"] or DEFAULT_SPLIT
    revision = options["revision"]
    stream = readers.open_hub(source, options["config"], split, revision)
    name = f"{source}@{revision}" if revision else source
    texts = partial(readers.read_rows, stream, column or DEFAULT_COLUMN, f"data set {name}")
    licence = (stream.info.license if stream.info else None) or licence
    return Corpus(name, licence, texts, max_documents=max_documents)


def _refuse_options(source: str, hub_options: dict[str, str | None]) -> None:
    given = [name for name, value in hub_options.items() if value not in (None, DEFAULT_SPLIT)]
    if given:
        raise ValueError(
            f"{', '.join(given)} was asked for, but {source} is not a Hugging Face data set: leave "
            f"it out"
        )


EVERY = 5
MORE_DOCUMENTS = "make each line of a .txt file a document with sample_by='line' (--sample-by line)"
"""What to do about a text that is one document."""
HELD_OUT = 1  # the place of the document that is held out, among so many


def split_held_out(corpus: Corpus, every: int = EVERY) -> tuple[Corpus, Corpus]:
    """Part a corpus into what is measured on and what is held out."""
    if every < 2:
        raise ValueError(f"one of every {every} documents was to be held out; give 2 or more")
    rest = _part_of_corpus(corpus, [place for place in range(every) if place != HELD_OUT], every)
    held_out = _part_of_corpus(corpus, [HELD_OUT], every)
    rows = held_out.token_rows
    if not rows if rows is not None else next(held_out.documents(), None) is None:
        raise ValueError(
            f"corpus {corpus.name} has one document only, so none can be held out: "
            f"name a corpus to hold out (--held-out), or {MORE_DOCUMENTS}"
        )
    return rest, held_out


def _part_of_corpus(corpus: Corpus, places: Sequence[int], every: int) -> Corpus:
    def texts() -> Iterator[str]:
        for index, text in enumerate(corpus.documents()):
            if index % every in places:
                yield text

    rows = corpus.token_rows
    return replace(
        corpus,
        name=f"{corpus.name} ({len(places)} of {every} documents)",
        open_texts=texts if rows is None else None,
        token_rows=None if rows is None else tuple(_rows_of_part(rows, places, every)),
        # The corpus itself stops there.
        max_documents=None,
        counts=ReadCounts(),
    )


def _rows_of_part(
    blocks: Sequence[Integer[np.ndarray, "_ pos"]], places: Sequence[int], every: int
) -> Iterator[Integer[np.ndarray, "_ pos"]]:
    """Every so many rows, as slices: arrays mapped into memory are not read."""
    seen = 0
    for block in blocks:
        parts = (block[(place - seen) % every :: every] for place in places)
        yield from (part for part in parts if len(part))
        seen += len(block)
