r"""Generic passages: mixing data cut from ordinary text.

A document is split at white space; its first `words` words are the prompt, after

    Complete the following partial passage:\n\n

and the next `words` words are the answer, words parted by single spaces. Documents with fewer than
twice as many words are skipped. The order is drawn by the seed over all passages that there are, so
that the first items of a long mix are the short mix of the same seed.

Only the first `READ_DOCUMENTS` documents of a corpus are read, as in the released code. It takes
one passage of a document; where a corpus has too few documents that are long enough, more can be
cut from each, one after the other without overlap (`per_document`).

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section
4.1 and B.5.2, and the loaders of the released code.

Example:
    >>> corpus = Corpus.from_texts(["To be or not to be that is the question"])
    >>> item = generic_passages(corpus, 1, words=4, seed=0)[0]
    >>> item.turns[0].prompt.splitlines()[-1], item.turns[0].answer
    ('To be or not', 'to be that is')
"""

import random
from collections.abc import Iterator
from itertools import islice

from probes.corpus.sources import Corpus, load_corpus
from training.datasets.conversations import Conversation, Turn
from training.datasets.random_words import PAPER_WORDS, check_mix_numbers

GENERIC_PROMPT = "Complete the following partial passage:\n\n"
GENERIC_SOURCE = "generic"
READ_DOCUMENTS = 20_000


def generic_passages(
    corpus: Corpus | str,
    n: int,
    *,
    words: int = PAPER_WORDS,
    seed: int,
    per_document: int | None = 1,
    source: str = GENERIC_SOURCE,
) -> list[Conversation]:
    """Passages of a corpus, the second half of each to be told from the first.

    Args:
        corpus: a corpus of texts, or what `load_corpus` opens.
        n: how many items.
        words: words in the prompt, and in the answer.
        seed: of the order, and so of which passages are taken.
        per_document: at most so many passages of a document; None for all that fit.
        source: what the items count for, where losses are told apart.

    Raises:
        ValueError: a number is not positive, the corpus cannot be read or holds no texts, or it has
            fewer passages than `n` (says how many).
    """
    check_mix_numbers(n, words)
    if per_document is not None and per_document < 1:
        raise ValueError(f"per_document is {per_document}: give 1 or more, or None for all")
    opened = load_corpus(corpus) if isinstance(corpus, str) else corpus
    passages = list(_passages(opened, words, per_document, source))
    if len(passages) < n:
        raise ValueError(_too_few(opened.name, len(passages), n, words, per_document))
    random.Random(seed).shuffle(passages)
    return passages[:n]


def _passages(
    corpus: Corpus, words: int, per_document: int | None, source: str
) -> Iterator[Conversation]:
    """All passages, in the order of the corpus."""
    length = 2 * words
    cuts = -1 if per_document is None else per_document * length
    for place, text in enumerate(islice(corpus.documents(), READ_DOCUMENTS)):
        found = text.split(None, cuts)  # what is left uncut is one entry, too short for a passage
        for number, start in enumerate(range(0, len(found) - length + 1, length)):
            piece = found[start : start + length]
            turn = Turn(GENERIC_PROMPT + " ".join(piece[:words]), " ".join(piece[words:]))
            yield Conversation((turn,), f"{source}-{place}-{number}", source)


def _too_few(name: str, found: int, n: int, words: int, per_document: int | None) -> str:
    of_each = "" if per_document is None else f", at most {per_document} of a document"
    advice = "" if per_document is None else ", more passages of a document (per_document)"
    return (
        f"a mix of {n} passages was asked for, but {name} has {found} of {words} + {words} words"
        f"{of_each}: give a smaller mix, fewer words{advice} or another corpus"
    )
