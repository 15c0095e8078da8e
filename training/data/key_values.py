"""Key-value recall: pairs of random strings that no model can have met.

Keys and values are strings of one length over one charset, drawn uniformly; no string occurs twice,
be it as a key or as a value. Pairs are drawn one after the other, so the first of a long set are
the short set with the same seed, and later ones make a second set that shares nothing with it.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section 2
and B.5 (2,000 pairs of eight letters and digits; their generator is not released, and the example
they print is hexadecimal).

Example:
    >>> pair = key_value_factoids(1, KeyValues(Charset.HEX, length=8), seed=0)[0]
    >>> pair.question, pair.object
    ('The value of key dc6486c4 is?', '79e84c94')
"""

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from training.data.factoid_prompts import Factoid


class Charset(StrEnum):
    """What keys and values are made of."""

    HEX = "hex"
    """The sixteen digits 0 to 9 and a to f."""
    ALPHANUMERIC = "alphanumeric"
    """The digits 0 to 9 and the letters a to z, in lower case as scoring ignores case."""

    @property
    def characters(self) -> str:
        """The characters themselves."""
        letters = "abcdef" if self is Charset.HEX else string.ascii_lowercase
        return string.digits + letters


@dataclass(frozen=True)
class KeyValues:
    """The form of keys and values.

    Attributes:
        charset: "hex" or "alphanumeric".
        length: characters in a key, and in a value.
    """

    charset: Charset | str = Charset.HEX
    length: int = 8

    def __post_init__(self) -> None:
        if self.charset not in list(Charset):
            raise ValueError(f"charset is {self.charset!r}: choose from {', '.join(Charset)}")
        if self.length < 1:
            raise ValueError(f"keys and values have length {self.length}: give 1 or more")

    @property
    def strings(self) -> int:
        """How many strings of this form there are."""
        return len(self.characters) ** self.length

    @property
    def characters(self) -> str:
        """What they are made of."""
        return Charset(self.charset).characters


def key_value_factoids(n: int, form: KeyValues, seed: int) -> list[Factoid]:
    """Key-value pairs as factoids."""
    if 2 * n > form.strings:
        raise ValueError(
            f"{n} pairs need {2 * n} different strings, but {form.charset} of length "
            f"{form.length} has {form.strings}: give longer keys or fewer pairs"
        )
    fresh = _distinct_strings(form, random.Random(seed))
    return [_factoid(key=next(fresh), value=next(fresh)) for _ in range(n)]


def _factoid(key: str, value: str) -> Factoid:
    return Factoid(
        question=f"The value of key {key} is?",
        answers=(value,),
        identifier=f"kvr-{key}",
        subject=key,
        relation="value",
    )


def _distinct_strings(form: KeyValues, generator: random.Random) -> Iterator[str]:
    """Strings of a form, each at most once."""
    seen: set[str] = set()
    while True:
        text = "".join(generator.choices(form.characters, k=form.length))
        if text not in seen:
            seen.add(text)
            yield text
