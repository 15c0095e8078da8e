"""Telling: one passage's facts as a text, in one genre, in about so many words.

A `Story` holds what is true of one subject and is told once per version. It remembers what it has
used: a frame of a fact, or a remark, comes up again only when all others have been used, so that no
two versions are put alike. Remarks, which hold no names, bring a text up to the length asked for.

Example:
    >>> from training.datasets.fictional_genres import genres
    >>> from training.datasets.fictional_subjects import subjects
    >>> story = Story(subjects()[0], NameSource(seed=0), random.Random(0))
    >>> len(story.text(genres()[3], words=200).split()) in range(185, 216)
    True
"""

import random
import re
from collections.abc import Sequence

from training.datasets.fictional_genres import (
    Form,
    Genre,
    Order,
    general_details,
    ordered_facts,
)
from training.datasets.fictional_names import NameSource
from training.datasets.fictional_subjects import SLOT, Fact, Subject

LEAD_CHANCE = 0.5
"""That something stands before a sentence, in genres that have that; never twice in a row."""
ASIDE_CHANCE = 0.5
"""That an onward fact is told as an apposition where it can be."""
TRIES = 8
"""How often facts that take more words than there is room for are put again, more shortly."""
ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
CAPITALS_KEPT = ("Mount ", "Lake ")


class Story:
    """What is true of one invented subject, and what of it has been put in which words.

    Args:
        subject: what sort of thing it is.
        names: gives it its names.
        draw: decides everything else.

    Attributes:
        values: what each fact names, by key, and the subject itself as `S`.
    """

    def __init__(self, subject: Subject, names: NameSource, draw: random.Random) -> None:
        self.subject = subject
        self.values = {fact.key: names.value(fact.type) for fact in subject.facts}
        self.values["S"] = subject.title.format(name=names.value(subject.named))
        self.values["gloss"] = subject.gloss
        self._draw = draw
        self._pools = {name: draw.choice(words) for name, words in subject.pools.items()}
        self._details = [
            *draw.sample(subject.details, len(subject.details)),
            *draw.sample(general_details(), len(general_details())),
        ]
        self._unused: dict[Sequence[str], list[str]] = {}

    def prompt(self, text: str) -> str:
        """The beginning of a sentence, as a probe asks with it."""
        return _sentence_case(self._filled(text))

    def text(self, genre: Genre, words: int, sentences: dict[str, str] | None = None) -> str:
        """The passage in one genre.

        Args:
            genre: how to tell it.
            words: about how long.
            sentences: how to state some of the facts, by key; others are put freely.
        """
        first = _sentence_case(self._filled(self._fresh(genre.openings or self.subject.openings)))
        facts = self._facts(genre, sentences or {})
        for _ in range(TRIES):
            if _words(first, *facts) <= words:
                break
            facts = min(facts, self._facts(genre, sentences or {}), key=lambda one: _words(*one))
        last = _sentence_case(self._filled(self._fresh(genre.closings)))
        room = words - _words(first, *facts)
        ending = [last] if room >= _words(last) // 2 else []
        details = self._remarks(room - _words(*ending))
        if genre.form is Form.SHEET:
            return "\n".join([first, *facts, *_noted(details), *ending])
        if genre.form is Form.QUESTIONS:
            return "\n".join([first, *facts, *_answered(details), *ending])
        body = list(facts)
        for detail in details:
            body.insert(self._draw.randint(1, len(body)), detail)
        return " ".join([first, *body, *ending])

    def _facts(self, genre: Genre, sentences: dict[str, str]) -> list[str]:
        """The facts in the order and the form of a genre."""
        facts = ordered_facts(self.subject, genre.order, self._draw)
        match genre.form:
            case Form.SHEET:
                return [_stopped(f"{self._filled(f.label)}: {self.values[f.key]}") for f in facts]
            case Form.QUESTIONS:
                return [
                    f"{self._filled(fact.question)} "
                    + (_stopped(self._capital(fact)) if number % 2 else self._stated(fact))
                    for number, fact in enumerate(facts)
                ]
        return self._sentences(facts, genre, sentences)

    def _sentences(
        self, facts: Sequence[Fact], genre: Genre, sentences: dict[str, str]
    ) -> list[str]:
        found: list[str] = []
        told: set[str] = set()
        led = True
        for fact in facts:
            if fact.key in told:
                continue
            told.add(fact.key)
            if fact.key in sentences:
                found.append(sentences[fact.key])
                continue
            aside = None if genre.order is Order.ONWARD_FIRST else self._aside(fact, told)
            frame = self._fresh(_with_aside(fact) if aside else fact.frames)
            if aside is not None:
                told.add(aside.key)
            led = not led and bool(genre.leads) and self._draw.random() < LEAD_CHANCE
            found.append(self._sentence(frame, aside, self._fresh(genre.leads) if led else ""))
        return found

    def _aside(self, fact: Fact, told: set[str]) -> Fact | None:
        """An onward fact, not yet told, to be put in apposition; None to leave it for later."""
        onward = [other for other in self.subject.about(fact) if other.key not in told]
        if not onward or not _with_aside(fact) or self._draw.random() >= ASIDE_CHANCE:
            return None
        return self._draw.choice(onward)

    def _stated(self, fact: Fact) -> str:
        return self._sentence(self._fresh(fact.frames), None, "")

    def _capital(self, fact: Fact) -> str:
        return _sentence_case(self.values[fact.key])

    def _sentence(self, frame: str, aside: Fact | None, lead: str) -> str:
        chosen = self._chosen(frame)
        if lead and not chosen.startswith(("{", *CAPITALS_KEPT)):
            chosen = chosen[0].lower() + chosen[1:]
        return _sentence_case(f"{lead} {self._filled(chosen, aside)}".strip())

    def _filled(self, text: str, aside: Fact | None = None) -> str:
        """A text with its choices made and its slots filled."""
        filled = SLOT.sub(lambda found: self._value(found, aside), self._chosen(text))
        return filled.replace(",,", ",").replace(",.", ".")

    def _value(self, found: re.Match[str], aside: Fact | None) -> str:
        """What a slot stands for."""
        key = found["key"]
        known = self._pools[key] if key in self._pools else self.values[key]
        if not found["aside"] or aside is None:
            return known
        return f"{known}, {self._filled(aside.aside)},"

    def _chosen(self, text: str) -> str:
        return ALTERNATIVES.sub(lambda found: self._draw.choice(found[1].split("|")), text)

    def _fresh(self, texts: Sequence[str]) -> str:
        """One of some texts, none a second time before all have been used."""
        unused = self._unused.setdefault(tuple(texts), [])
        if not unused:
            unused += self._draw.sample(texts, len(texts))
        return unused.pop()

    def _remarks(self, words: int) -> list[str]:
        """As many remarks as come nearest to a number of words."""
        found: list[str] = []
        for _ in self._details:
            text = _sentence_case(self._filled(self._fresh(self._details[0])))
            if _words(*found) + _words(text) / 2 > words:
                break
            found.append(text)
            self._details.append(self._details.pop(0))
        return found


def _with_aside(fact: Fact) -> tuple[str, ...]:
    """The frames of a fact that have room for an apposition."""
    return tuple(frame for frame in fact.frames if f"{{{fact.key}+}}" in frame)


def _noted(details: Sequence[str]) -> list[str]:
    return [f"Note: {detail}" for detail in details]


def _answered(details: Sequence[str]) -> list[str]:
    return [f"What else is there to say? {' '.join(details)}"] if details else []


def _stopped(text: str) -> str:
    return f"{text}."


def _sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)
