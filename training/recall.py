r"""Recall: is what a model answers right?

| match        | an answer is right if                                                             |
|--------------|-----------------------------------------------------------------------------------|
| `tokens`     | the model would write exactly the tokens of the answer it was taught, and its end |
| `strict`     | it is the canonical answer, but for case and for space at its ends                |
| `normalised` | it is the canonical answer once both are normalised                               |
| `aliases`    | it is one of the accepted answers, all of them normalised                         |
| `substring`  | the canonical answer contains it: the released code's rule for WebQuestions       |

`tokens` is read off one pass over the taught answers (`probes.exact_match`); the others compare
texts that the model has written. Normalised text is in lower case, without punctuation, without
the words a, an and the, and with one space between words; of a text that is nothing else ("+", say)
what was taken off stays. An empty answer is wrong except under `substring`: every text contains it,
and the released code calls it right.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section 2
(`strict`) and the released evaluation; Rajpurkar et al., "SQuAD", EMNLP 2016 (normalisation).

Example:
    >>> [is_right("the Eiffel tower.", ("Eiffel Tower", "La tour Eiffel"), match)
    ...  for match in ("strict", "normalised", "aliases")]
    [False, True, True]
"""

import re
import string
from collections.abc import Sequence
from enum import StrEnum

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Match(StrEnum):
    """What counts as a right answer."""

    TOKENS = "tokens"
    """Token for token the answer that was taught, its end included."""
    STRICT = "strict"
    """The canonical answer, but for case and for space at its ends."""
    NORMALISED = "normalised"
    """The canonical answer, but for case, punctuation, articles and space."""
    ALIASES = "aliases"
    """Any accepted answer, but for case, punctuation, articles and space."""
    SUBSTRING = "substring"
    """Any piece of the canonical answer, the empty one included, as the released code has it."""

    @property
    def needs_text(self) -> bool:
        """Whether the model has to write its answer out."""
        return self is not Match.TOKENS


def is_right(answer: str, accepted: str | Sequence[str], match: Match | str) -> bool:
    """Whether an answer is right.

    Args:
        answer: what the model wrote, its end left out.
        accepted: the accepted answers, the canonical one first; a string by itself is the one.
        match: what counts; not `tokens`, which is no question of text.

    Raises:
        ValueError: no answer is accepted, or there is no such match.
    """
    accepted = [accepted] if isinstance(accepted, str) else accepted
    if not accepted:
        raise ValueError("no answer is accepted: give the canonical one, and others after it")
    match as_match(match):
        case Match.STRICT:
            return _stripped(answer) == _stripped(accepted[0])
        case Match.NORMALISED:
            return normalised(answer) == normalised(accepted[0])
        case Match.ALIASES:
            return normalised(answer) in map(normalised, accepted)
        case Match.SUBSTRING:
            return _stripped(answer) in _stripped(accepted[0])
        case Match.TOKENS:
            raise ValueError(
                "match 'tokens' compares tokens and not texts; use probes.exact_matches, or choose "
                f"from {', '.join(match for match in Match if match.needs_text)}"
            )


def normalised(text: str) -> str:
    """A text in lower case, without punctuation and articles, and with single spaces.

    A text that is nothing but articles keeps them, and one of punctuation alone keeps that.
    """
    lower = text.lower()
    bare = lower.translate(_PUNCTUATION)
    words = _ARTICLES.sub(" ", bare).split() or bare.split() or lower.split()
    return " ".join(words)


def as_match(name: Match | str) -> Match:
    """A match by its name.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        return Match(name)
    except ValueError:
        raise ValueError(f"match is {str(name)!r}: choose from {', '.join(Match)}") from None


def _stripped(text: str) -> str:
    return text.strip().lower()
