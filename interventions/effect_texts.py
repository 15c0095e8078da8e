"""Texts for effects: what an edit is measured on, and what is held out to test it on.

Example:
    >>> corpora = open_texts("general", None)                                  # doctest: +SKIP
    >>> batches, held_out = keep_tokens(corpora, model.tokenizer)              # doctest: +SKIP
"""

from typing import Any

from probes.choices import RowLayout, SampleBy
from probes.corpus.batching import KeptBatches, token_batches
from probes.corpus.holding_out import split_held_out
from probes.corpus.sources import Corpus, load_corpus


def open_texts(
    corpus: str,
    held_out: str | None,
    column: str | None = None,
    sample_by: SampleBy | str = SampleBy.DOCUMENT,
) -> tuple[Corpus, Corpus]:
    """What is measured on, and what is held out.

    Args:
        corpus: as `load_corpus` takes it.
        held_out: another one; None to hold out every fifth document of the first.
        column: where the text is, in both.
        sample_by: what a document of a `.txt` file is, in both.

    Raises:
        ValueError: one of them cannot be read, or there is nothing to hold out.
    """
    opened = load_corpus(corpus, column=column, sample_by=sample_by)
    if held_out is None:
        return split_held_out(opened)
    return opened, load_corpus(held_out, column=column, sample_by=sample_by)


def keep_tokens(
    texts: tuple[Corpus, Corpus],
    tokenizer: Any,
    *,
    sequence_length: int = 512,
    batch_size: int = 8,
    layout: RowLayout = RowLayout.PACKED,
    max_tokens: int | None = None,
    held_out_tokens: int | None = None,
    prepend_bos: bool | None = None,
) -> tuple[KeptBatches, KeptBatches]:
    """Both as token batches in memory, since they are gone through before and after an edit.

    Args:
        texts: what is measured on, and what is held out.
        tokenizer: of the model.
        sequence_length: tokens in a row.
        batch_size: rows in a batch.
        layout: packed, or one document a row.
        max_tokens: tokens to measure on; None for all.
        held_out_tokens: held-out tokens; None for all.
        prepend_bos: as `probes.token_batches`.
    """

    def kept(corpus: Corpus, limit: int | None) -> KeptBatches:
        return token_batches(
            corpus,
            tokenizer,
            sequence_length=sequence_length,
            batch_size=batch_size,
            layout=layout,
            max_tokens=limit,
            prepend_bos=prepend_bos,
        ).kept()

    measured, held_out = texts
    return kept(measured, max_tokens), kept(held_out, held_out_tokens)
