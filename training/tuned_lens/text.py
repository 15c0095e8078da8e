"""Which text a tuned lens learns from, and which it is judged on.

Without a corpus of its own for the second, every eighth document is held out and never learnt from.

Example:
    >>> corpora = learning_and_heldout("general-train", "general-heldout")      # doctest: +SKIP
    >>> corpora = learning_and_heldout("notes.jsonl", None)                     # doctest: +SKIP
    >>> corpora.heldout.name                                                    # doctest: +SKIP
    'notes.jsonl (held out)'
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from probes.choices import SampleBy
from probes.corpus.holding_out import MORE_DOCUMENTS
from probes.corpus.sources import Corpus, ReadCounts, load_corpus

HELD_OUT_OF = 8
"""One document in so many is held out."""


@dataclass(frozen=True)
class LensCorpora:
    """What to learn from and what to judge on."""

    learning: Corpus
    heldout: Corpus


def learning_and_heldout(
    corpus: str,
    heldout: str | None,
    *,
    column: str | None,
    sample_by: SampleBy = SampleBy.DOCUMENT,
) -> LensCorpora:
    """Open the two corpora of a tuned lens.

    Args:
        corpus: what to learn from.
        heldout: what to judge on; None for every eighth document of the other.
        column: of the text, in both.
        sample_by: what a document of a `.txt` file is, in both.

    Raises:
        ValueError: a corpus cannot be opened, both are the same, or there is nothing to hold out.
    """
    if heldout == corpus:
        raise ValueError(f"--heldout {heldout} is the corpus itself; give another, or leave it out")
    learning = load_corpus(corpus, column=column, sample_by=sample_by)
    if heldout is not None:
        return LensCorpora(learning, load_corpus(heldout, column=column, sample_by=sample_by))
    if learning.open_texts is None:
        raise ValueError(
            f"{corpus} holds rows of token ids, of which none is known to be another document; "
            "name the text to judge on with --heldout"
        )
    if sum(1 for _, _ in zip(range(HELD_OUT_OF), learning.documents(), strict=False)) < HELD_OUT_OF:
        raise ValueError(
            f"{corpus} has fewer than {HELD_OUT_OF} documents, too few to hold any out; name the "
            f"text to judge on with --heldout, or {MORE_DOCUMENTS}"
        )
    return LensCorpora(_part(learning, heldout=False), _part(learning, heldout=True))


def _part(corpus: Corpus, *, heldout: bool) -> Corpus:
    name = f"{corpus.name} (held out)" if heldout else f"{corpus.name} (without held out)"
    texts = partial(_texts, corpus, heldout=heldout)
    return replace(corpus, name=name, open_texts=texts, counts=ReadCounts())


def _texts(corpus: Corpus, *, heldout: bool) -> Iterator[str]:
    for index, text in enumerate(corpus.documents()):
        if (index % HELD_OUT_OF == HELD_OUT_OF - 1) == heldout:
            yield text
