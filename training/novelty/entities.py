"""Entities of a text, by a plain rule: spans of words that are written like names.

A word is written like a name if it has a capital letter, or letters next to digits (`p53`); the
pronoun "I" does not count. A span is a run of such words with nothing but single spaces between
them; `of`, `de`, `van` and the like may stand inside. The first word of a sentence has a capital
whatever it is: with that capital alone it counts only if the same word is written like a name
within some sentence of the texts, and never in lower case.

This is no recogniser: it misses names in lower case, takes titles and abbreviations for names, and
knows no types. It needs no model and gives the same spans everywhere.

Example:
    >>> text = "Marie Brisk left Tolm in 1921. The p53 gene was named later. Tolm was quiet."
    >>> [text[start:stop] for start, stop in entity_spans(text, known_names([text]))]
    ['Brisk', 'Tolm', 'p53', 'Tolm']
"""

import re
from collections.abc import Collection, Iterable

WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
LETTER_BY_DIGIT = re.compile(r"[^\W\d_]\d|\d[^\W\d_]")
JOINERS = ("of", "de", "la", "le", "du", "van", "von", "der", "den", "di", "da", "del", "y")
SENTENCE_END = '.!?:;\n"()[]\u201c\u201d'
OPENING = " \t\"'([\u2018\u2019\u201c\u201d"
"""What may stand between the end of a sentence and the next one's first word."""


def known_names(texts: Iterable[str]) -> frozenset[str]:
    """The words that have a capital within sentences of some texts, and never do without."""
    names: set[str] = set()
    ordinary: set[str] = set()
    for text in texts:
        for found in WORD.finditer(text):
            word = found[0]
            if word.islower():
                ordinary.add(word)
            elif not _begins_sentence(text, found.start()):
                names.add(word)
    return frozenset(name for name in names if name.lower() not in ordinary)


def entity_spans(text: str, names: Collection[str]) -> list[tuple[int, int]]:
    """The spans of a text that are written like names.

    Args:
        text: the text.
        names: words that count at the beginning of a sentence as well (`known_names`).

    Returns:
        `(start, stop)` in characters, in order, without overlap.
    """
    spans: list[tuple[int, int]] = []
    end = None
    for found in WORD.finditer(text):
        start, stop = found.span()
        follows = end is not None and text[end:start] == " "
        if _is_name(text, found, names):
            if follows:
                spans[-1] = spans[-1][0], stop
            else:
                spans.append((start, stop))
            end = stop
        else:
            end = stop if follows and found[0] in JOINERS else None
    return spans


def _is_name(text: str, found: re.Match[str], names: Collection[str]) -> bool:
    word = found[0]
    if any(map(str.isupper, word[1:])) or LETTER_BY_DIGIT.search(word):
        return True
    if not word[0].isupper() or word == "I":
        return False
    return word in names or not _begins_sentence(text, found.start())


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(OPENING)
    return not before or before[-1] in SENTENCE_END
