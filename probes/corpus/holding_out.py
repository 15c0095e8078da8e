"""Holding out: which documents of a corpus are kept back from a measurement, to test it on.

The second of every few documents is held out, so that both parts run through the whole corpus and
two documents are enough to have both. The corpus is read as before, a document at a time.

Example:
    >>> from probes.corpus.sources import Corpus
    >>> rest, held_out = split_held_out(Corpus.from_texts(["a", "b", "c"]), every=2)
    >>> list(rest.documents()), list(held_out.documents())
    (['a', 'c'], ['b'])
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Integer

from probes.corpus.readers import first
from probes.corpus.sources import Corpus, ReadCounts

EVERY = 5
MORE_DOCUMENTS = "make each line of a .txt file a document with sample_by='line' (--sample-by line)"
"""What to do about a text that is one document."""
HELD_OUT = 1
"""The place of the document that is held out, among so many."""


def split_held_out(corpus: Corpus, every: int = EVERY) -> tuple[Corpus, Corpus]:
    """Part a corpus into what is measured on and what is held out."""
    if every < 2:
        raise ValueError(f"one of every {every} documents was to be held out; give 2 or more")
    rest = _part(corpus, [place for place in range(every) if place != HELD_OUT], every)
    held_out = _part(corpus, [HELD_OUT], every)
    is_empty = (
        not held_out.token_rows
        if held_out.token_rows is not None
        else first(held_out.documents()) is None
    )
    if is_empty:
        raise ValueError(
            f"corpus {corpus.name} has one document only, so none can be held out: "
            f"name a corpus to hold out (--held-out), or {MORE_DOCUMENTS}"
        )
    return rest, held_out


def _part(corpus: Corpus, places: Sequence[int], every: int) -> Corpus:
    def texts() -> Iterator[str]:
        for index, text in enumerate(corpus.documents()):
            if index % every in places:
                yield text

    rows = corpus.token_rows
    return replace(
        corpus,
        name=f"{corpus.name} ({len(places)} of {every} documents)",
        open_texts=texts if rows is None else None,
        token_rows=None if rows is None else tuple(_rows(rows, places, every)),
        # The corpus itself stops there.
        max_documents=None,
        counts=ReadCounts(),
    )


def _rows(
    blocks: Sequence[Integer[np.ndarray, "_ pos"]], places: Sequence[int], every: int
) -> Iterator[Integer[np.ndarray, "_ pos"]]:
    """Every so many rows, as slices: arrays mapped into memory are not read."""
    seen = 0
    for block in blocks:
        parts = (block[(place - seen) % every :: every] for place in places)
        yield from (part for part in parts if len(part))
        seen += len(block)
