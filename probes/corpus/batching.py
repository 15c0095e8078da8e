"""How documents become batches of token rows.

- **packed**: the documents' tokens, each document followed by the tokenizer's end-of-sequence
  token, are joined and cut into rows of exactly `sequence_length`. The last, incomplete row is kept
  and padded, so every token of every document appears exactly once.
- **document**: one document a row, cut off after `sequence_length` tokens, padded to the longest
  row of its batch.

A document (not a row) begins with a BOS token where `prepend_bos` says so, and with one of its own
gets no second; an end that the tokenizer would add is left out. Rows of token ids are used as they
are. Counts are in documents, tokens (ends included, pads not) and rows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from probes.choices import RowLayout, as_choice
from probes.corpus.readers import text_chunks
from probes.corpus.sources import ContentHash, Corpus, load_corpus
from probes.corpus.token_batch import (
    PaddingSide,
    Row,
    TokenBatch,
    collate,
    document_row,
    grouped,
    limited,
    packed_rows,
    row_limit,
)
from probes.prompts import Prompts
from probes.refusals import tokenizer as a_tokenizer
from probes.refusals import whole_number
from probes.shown import Shown

MINIMUM_SEQUENCE_LENGTH = 2


@dataclass(frozen=True)
class Batching:
    """The configuration of `token_batches`; see there for the fields."""

    sequence_length: int = 512
    batch_size: int = 8
    layout: RowLayout = RowLayout.PACKED
    max_tokens: int | None = None
    prepend_bos: bool | None = None
    padding_side: PaddingSide = PaddingSide.RIGHT

    def __post_init__(self) -> None:
        minima = {"sequence_length": MINIMUM_SEQUENCE_LENGTH, "batch_size": 1, "max_tokens": 1}
        for name, minimum in minima.items():
            value = getattr(self, name)
            if value is not None and (wrong := whole_number(minimum)(value)):
                raise ValueError(f"{name} is {wrong}")


@dataclass
class BatchCounts:
    """What a pass has produced so far."""

    documents: int = 0  # documents (or rows of a `.npy` corpus) that gave at least one token
    empty_documents: int = 0  # documents that the tokenizer turned into nothing
    tokens: int = 0  # real tokens in rows
    rows: int = 0


class TokenBatches(Shown):
    """Batches of a corpus, re-iterable; every pass reads the corpus anew."""

    def __init__(self, corpus: Corpus, tokenizer: Any, batching: Batching) -> None:
        self.corpus = corpus
        self.batching = batching
        self.counts = BatchCounts()
        self._tokenizer = tokenizer
        self._prompts = Prompts(tokenizer, prepend_bos=batching.prepend_bos)
        self._content = ContentHash()
        _check_tokenizer(corpus, tokenizer, batching)
        # Found out now, and not after a pass, whether there is such a BOS.
        _ = self.puts_bos

    @property
    def content_hash(self) -> str:
        """SHA-256 of the documents that the latest pass has consumed so far."""
        return self._content.value

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration and the name of the corpus, as plain values for a manifest."""
        left_out = {"left_out": list(self.corpus.left_out)} if self.corpus.left_out else {}
        begun = {"prepend_bos": self.puts_bos}
        return {"corpus": self.corpus.name, **left_out, **asdict(self.batching), **begun}

    @property
    def puts_bos(self) -> bool | None:
        """Whether documents begin with a BOS; None for rows of token ids, taken as they are."""
        return self._prompts.puts_bos if self.corpus.token_rows is None else None

    def kept(self) -> "KeptBatches":
        """The batches of one pass, kept in memory: for several models with one tokenizer."""
        batches = tuple(self)
        return KeptBatches(batches, self.corpus, self.configuration, self.content_hash)

    def __iter__(self) -> Iterator[TokenBatch]:
        counts, content = BatchCounts(), ContentHash()
        self.counts, self._content = counts, content
        for rows in grouped(self._rows(counts, content), self.batching.batch_size):
            counts.rows += len(rows)
            yield collate(rows, self.batching.padding_side, self._pad_id, self._width)
        if not counts.rows:
            raise ValueError(
                f"corpus {self.corpus.name} gave no token ({counts.empty_documents} documents "
                f"tokenise to nothing): give another corpus or tokenizer"
            )

    def _rows(self, counts: BatchCounts, content: ContentHash) -> Iterator[Row]:
        if self.corpus.token_rows is not None:
            yield from self._given_rows(counts, content)
            return
        encoded = limited(self._encoded(counts, content), self.batching.max_tokens)
        documents = _counted(encoded, counts)
        if self.batching.layout is RowLayout.PACKED:
            yield from packed_rows(documents, self.batching.sequence_length)
        else:
            yield from (document_row(ids, index) for index, ids in enumerate(documents))

    def _encoded(
        self, counts: BatchCounts, content: ContentHash
    ) -> Iterator[Int64[np.ndarray, " pos"]]:
        """The tokens of each document that has any, cut or ended as the layout asks."""
        is_packed = self.batching.layout is RowLayout.PACKED
        for texts in text_chunks(self.corpus.documents()):
            for text, ids in zip(texts, self._prompts.plain(texts), strict=True):
                content.add_text(text)
                if not ids:
                    counts.empty_documents += 1
                    continue
                begun = self._prompts.begun(ids)
                if is_packed:
                    row = (*begun, self._tokenizer.eos_token_id)
                else:
                    row = begun[: self.batching.sequence_length]
                yield np.asarray(row, dtype=np.int64)

    def _given_rows(self, counts: BatchCounts, content: ContentHash) -> Iterator[Row]:
        """The rows of a `.npy` corpus, whole ones only within `max_tokens`."""
        blocks = self.corpus.token_rows or ()
        limit = row_limit(blocks, self.batching.max_tokens)
        for block in blocks:
            for row in block[: limit - counts.documents]:
                ids = np.asarray(row, dtype=np.int64)
                if ids.min() < 0:
                    raise ValueError(
                        f"corpus {self.corpus.name}, row {counts.documents}: token id "
                        f"{ids.min()} is negative: give rows of token ids without pads"
                    )
                content.add_row(ids)
                counts.documents += 1
                counts.tokens += len(ids)
                yield document_row(ids, counts.documents - 1)

    @property
    def _width(self) -> int | None:
        is_packed = self.corpus.token_rows is None and self.batching.layout is RowLayout.PACKED
        return self.batching.sequence_length if is_packed else None

    @property
    def _pad_id(self) -> int:
        """What stands on pads: the tokenizer's pad, else its end of sequence, else 0."""
        names = ("pad_token_id", "eos_token_id")
        known = (getattr(self._tokenizer, name, None) for name in names)
        return next((pad for pad in known if pad is not None), 0)


@dataclass(frozen=True)
class KeptBatches(Shown):
    """Batches in memory, with what tells where they are from; see `TokenBatches`."""

    batches: tuple[TokenBatch, ...]
    corpus: Corpus
    configuration: dict[str, Any]
    content_hash: str

    @property
    def tokens(self) -> int:
        return sum(int(batch.attention_mask.sum()) for batch in self.batches)

    def __iter__(self) -> Iterator[TokenBatch]:
        return iter(self.batches)


def token_batches(
    corpus: Corpus | Iterable[Any],
    tokenizer: Any,
    *,
    column: str | None = None,
    sequence_length: int = 512,
    batch_size: int = 8,
    layout: RowLayout | str = RowLayout.PACKED,
    max_tokens: int | None = None,
    prepend_bos: bool | None = None,
    padding_side: PaddingSide | str = PaddingSide.RIGHT,
) -> TokenBatches:
    """Batches of token rows over a corpus.

    Args:
        corpus: a `Corpus`, or documents in memory as `load_corpus` takes them.
        tokenizer: a Hugging Face tokenizer; may be None for a `.npy` corpus.
        column: where the text is in the rows of documents in memory; "text" by default.
        sequence_length: tokens in a row (packed), or at most (document); ignored for rows of token
            ids.
        batch_size: rows in a batch; the last batch may have fewer.
        layout: "packed" or "document".
        max_tokens: end the stream after exactly so many tokens (for `.npy`, before the row that
            would exceed it); None for the whole corpus.
        prepend_bos: whether every document begins with a BOS; None for the tokenizer's own habit.
        padding_side: "right" or "left".

    Returns:
        A re-iterable of `TokenBatch`, int64 on the CPU.

    Raises:
        ValueError: a number too small, an unknown choice, a text corpus without a tokenizer, the
            packed layout without an end-of-sequence token, or a BOS that the tokenizer has not.
    """
    if wrong := a_tokenizer(tokenizer):
        raise ValueError(f"token_batches: tokenizer is {wrong}")
    if isinstance(corpus, str):
        raise ValueError(
            f"corpus is the text {corpus[:20]!r}: open it with load_corpus, or give a list of texts"
        )
    if not isinstance(corpus, Corpus):
        corpus = load_corpus(corpus, column=column)
    elif column is not None:
        raise ValueError(f"column {column!r} is for documents in memory: give it to load_corpus")
    batching = Batching(
        sequence_length,
        batch_size,
        as_choice(RowLayout, layout, "layout"),
        max_tokens,
        prepend_bos,
        as_choice(PaddingSide, padding_side, "padding_side"),
    )
    return TokenBatches(corpus, tokenizer, batching)


def _check_tokenizer(corpus: Corpus, tokenizer: Any, batching: Batching) -> None:
    """Refuse texts without a tokenizer, and packing without an end-of-sequence token."""
    if corpus.token_rows is not None:
        row_limit(corpus.token_rows, batching.max_tokens)
        return
    if tokenizer is None:
        raise ValueError(
            f"corpus {corpus.name} holds texts but there is no tokenizer: give one, or a .npy "
            f"corpus of token ids"
        )
    if batching.layout is RowLayout.PACKED and tokenizer.eos_token_id is None:
        raise ValueError(
            "the packed layout separates documents by an end-of-sequence token and this tokenizer "
            "has none: set tokenizer.eos_token, or choose layout='document'"
        )


def _counted(
    documents: Iterable[Int64[np.ndarray, "_"]], counts: BatchCounts
) -> Iterator[Int64[np.ndarray, "_"]]:
    for ids in documents:
        counts.documents += 1
        counts.tokens += len(ids)
        yield ids
