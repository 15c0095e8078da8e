"""Packed rows: a corpus as rows of one length, to train on.

Documents, each followed by the tokenizer's end token, are joined in the order of the corpus and cut
into rows; what does not fill a last row is dropped, and counted by `describe`. With a document mask
rows carry document numbers, so that attention stays inside a document, and the first token of a
document is not trained on. A corpus of `.npy` rows has no documents to tell apart; a row is one.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer

from probes.corpus.batching import token_batches
from probes.corpus.sources import Corpus
from probes.refusals import instance_of
from training.batches import IGNORED, RowSource, TrainingBatch

READ_ROWS = 256  # rows that are asked for at a time while a corpus is read; it decides nothing


@dataclass(frozen=True, eq=False)
class PackedRows:
    """The rows of a corpus, and where they are from."""

    ids: Integer[np.ndarray, "row pos"]
    segments: Integer[np.ndarray, "row pos"]
    """The running index of the document that each token is of."""
    configuration: dict[str, Any]  # where the rows are from, as plain values for a manifest


def packed_corpus(
    corpus: Corpus,
    tokenizer: Any,
    row_length: int,
    *,
    max_rows: int | None = None,
    positions: int | None = None,
    prepend_bos: bool | None = None,
) -> PackedRows:
    """The rows of a corpus, in memory."""
    if wrong := instance_of(Corpus, "probes.load_corpus(...)")(corpus):
        raise ValueError(f"corpus is {wrong}")
    check_row_length(row_length, positions)
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows is {max_rows}: give 1 or more, or leave it out for all")
    widths = {block.shape[1] for block in corpus.token_rows or ()} - {row_length}
    if widths:
        raise ValueError(
            f"corpus {corpus.name} has rows of {min(widths)} tokens, but {row_length} were asked "
            f"for: give a row_length of {min(widths)}"
        )
    batches = token_batches(
        corpus,
        tokenizer,
        sequence_length=row_length,
        batch_size=READ_ROWS,
        max_tokens=None if max_rows is None else max_rows * row_length,
        prepend_bos=prepend_bos,
    )
    ids, segments, dropped = [], [], 0
    for batch in batches:
        full = batch.attention_mask.bool().all(dim=1)
        ids.append(batch.input_ids[full].to(torch.int32).numpy())
        segments.append(batch.segment_ids[full].to(torch.int32).numpy())
        dropped += int(batch.attention_mask[~full].sum())
    rows = np.concatenate(ids)
    if not len(rows):
        raise ValueError(
            f"corpus {corpus.name} has {dropped} tokens, which do not fill one row of "
            f"{row_length}: give more text or shorter rows"
        )
    configuration = {
        "corpus": corpus.name,
        "licence": corpus.licence,
        "content_hash": batches.content_hash,
        "documents": batches.counts.documents,
        "dropped_tokens": dropped,
        # Left out where there is none, as in manifests from before there was a choice.
        **({"prepend_bos": True} if batches.puts_bos else {}),
    }
    return PackedRows(rows, np.concatenate(segments), configuration)


def corpus_source(
    corpus: Corpus,
    tokenizer: Any,
    row_length: int,
    batch_size: int,
    *,
    epochs: int = 1,
    shuffle_seed: int | None = None,
    max_rows: int | None = None,
    positions: int | None = None,
    document_mask: bool = False,
    prepend_bos: bool | None = None,
) -> "CorpusSource":
    """Batches of `batch_size` rows of a corpus, of `row_length` tokens each, to train on.

    `positions` is what the model takes at most (`HookedModel.n_positions`); `document_mask` keeps
    the documents of a row apart; `shuffle_seed=None` keeps the order of the corpus.

    Raises:
        ValueError: rows are longer than the model takes, or not those of the corpus; they do not
            fill one batch.
    """
    packed = packed_corpus(
        corpus,
        tokenizer,
        row_length,
        max_rows=max_rows,
        positions=positions,
        prepend_bos=prepend_bos,
    )
    return CorpusSource(
        packed, batch_size, epochs=epochs, shuffle_seed=shuffle_seed, document_mask=document_mask
    )


class CorpusSource(RowSource):
    """Batches of the rows of a corpus."""

    def __init__(
        self, packed: PackedRows, batch_size: int, *, document_mask: bool = False, **options: Any
    ) -> None:
        super().__init__(packed.ids, batch_size, **options)
        self.packed = packed
        self._document_mask = document_mask

    def batch(self, step: int) -> TrainingBatch:
        plain = super().batch(step)
        if not self._document_mask:
            return plain
        segments = torch.from_numpy(self.packed.segments[self.rows_at(step)].astype(np.int64))
        begins = torch.zeros_like(segments, dtype=torch.bool)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        return replace(
            plain, labels=plain.labels.masked_fill(begins, IGNORED), segment_ids=segments
        )

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            **self.packed.configuration,
            "kind": "corpus",
            "document_mask": self._document_mask,
        }


def check_row_length(row_length: int, positions: int | None) -> None:
    """Refuse rows that are longer than a model takes."""
    if positions is not None and row_length > positions:
        raise ValueError(
            f"rows of {row_length} tokens are longer than the {positions} positions of the model: "
            f"give a row_length of at most {positions}"
        )
