"""Does the mixing data hold the facts that are to be kept in memory?

A factoid **overlaps** with a mix in its answer if one of its accepted answers occurs in an item of
the mix, in its subject if its subject does, and in the pair if both occur in one item. Texts are
compared as runs of whole words without regard to case, white space or punctuation; prompt and
answer of an item are one text, the line that asks for a passage left out. Short answers ("1",
"May") overlap by chance: the pair says whether a fact could be learned from the mix, and the paper
reports it as below 1.3 %. Many sets name no subject; their pairs are not known, and shares are
taken of the factoids that name one.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: B.6.

Example:
    >>> from training.data.conversations import Turn
    >>> fact = Factoid("Who wrote Emma?", ("Jane Austen", "Austen"), "1", subject="Emma")
    >>> item = Conversation((Turn("Complete:", "In Emma, Austen jests."),), "0")
    >>> overlap([fact], [item]).pair_share
    1.0
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from training.data.conversations import Conversation, Turn
from training.data.factoid_prompts import Factoid
from training.data.mixes import GENERIC_PROMPT, RANDOM_PROMPT

_WORD = re.compile(r"\w+")

Phrase = tuple[str, ...]


@dataclass(frozen=True)
class OverlapReport:
    """Which factoids a mix holds, in part or whole.

    Attributes:
        factoids: how many there are.
        with_subject: how many of them name a subject.
        mix_items: how many items the mix has.
        answers: identifiers of factoids with an accepted answer in the mix.
        subjects: identifiers of factoids with their subject in the mix.
        pairs: identifiers of factoids with subject and answer in one item of the mix.
    """

    factoids: int
    with_subject: int
    mix_items: int
    answers: tuple[str, ...]
    subjects: tuple[str, ...]
    pairs: tuple[str, ...]

    @property
    def answer_share(self) -> float | None:
        """Share of the factoids; None where there are none."""
        return len(self.answers) / self.factoids if self.factoids else None

    @property
    def subject_share(self) -> float | None:
        """Share of the factoids that name a subject; None where none does."""
        return len(self.subjects) / self.with_subject if self.with_subject else None

    @property
    def pair_share(self) -> float | None:
        """Share of the factoids that name a subject; None where none does."""
        return len(self.pairs) / self.with_subject if self.with_subject else None


def overlap(factoids: Sequence[Factoid], mix: Sequence[Conversation]) -> OverlapReport:
    """Which factoids occur in the items of a mix.

    An answer or a subject without any letter or digit is never found.
    """
    answers, subjects = _Phrases(), _Phrases()
    for number, factoid in enumerate(factoids):
        for answer in factoid.answers:
            answers.add(_words(answer), number)
        if factoid.subject:
            subjects.add(_words(factoid.subject), number)
    with_answer: set[int] = set()
    with_subject: set[int] = set()
    with_both: set[int] = set()
    for conversation in mix:
        words = _words("\n".join(map(_told, conversation.turns)))
        in_answer, in_subject = answers.found_in(words), subjects.found_in(words)
        with_answer |= in_answer
        with_subject |= in_subject
        with_both |= in_answer & in_subject
    return OverlapReport(
        factoids=len(factoids),
        with_subject=sum(bool(factoid.subject) for factoid in factoids),
        mix_items=len(mix),
        answers=tuple(_identifiers(factoids, with_answer)),
        subjects=tuple(_identifiers(factoids, with_subject)),
        pairs=tuple(_identifiers(factoids, with_both)),
    )


def _told(turn: Turn) -> str:
    """What a turn says, without the words by which every item of a mix is asked for."""
    prompt = turn.prompt.removeprefix(GENERIC_PROMPT).removeprefix(RANDOM_PROMPT)
    return f"{prompt}\n{turn.answer}"


def _words(text: str) -> Phrase:
    return tuple(_WORD.findall(text.casefold()))


def _identifiers(factoids: Sequence[Factoid], numbers: Iterable[int]) -> Iterator[str]:
    return (factoids[number].identifier for number in sorted(numbers))


@dataclass
class _Phrases:
    """Phrases to look for, each with the numbers of the factoids that it belongs to."""

    owners: dict[Phrase, set[int]] = field(default_factory=dict)
    # Only these lengths need to be tried where a word is met.
    lengths: dict[str, set[int]] = field(default_factory=dict)

    def add(self, phrase: Phrase, owner: int) -> None:
        if phrase:
            self.owners.setdefault(phrase, set()).add(owner)
            self.lengths.setdefault(phrase[0], set()).add(len(phrase))

    def found_in(self, words: Phrase) -> set[int]:
        """The owners of all phrases that occur in a text."""
        found: set[int] = set()
        for start, word in enumerate(words):
            for length in self.lengths.get(word, ()):
                found |= self.owners.get(words[start : start + length], set())
        return found
