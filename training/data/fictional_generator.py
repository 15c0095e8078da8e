"""Made-up knowledge: passages about invented things, their paraphrases, and probes.

Each passage is about one of several kinds of subject (a lighthouse, a treaty, a town), and states
ten facts about it (`training.data.fictional_subjects`). The text is an entry of an
encyclopaedia; its paraphrases tell the same facts in other genres, such as a letter, an interview
or a list, in other words and another order. Every passage has fifteen probes:

- five **memorization** probes: sentences of the text, up to the name, date or number they end with;
- five **semantic** probes: the same five facts and targets, in words that no version has;
- five **compositional** probes: what the text says of a person, place or thing that it says the
  subject is connected with, which the prompt does not name.

No target can be had without its passage: names are invented, dates and numbers drawn, all of them
uniformly, independently of each other and of the kind of subject, and none occurs in any other
passage or in any prompt (`training.data.fictional_subjects`). What can be learnt from the other
passages is only of what sort an answer is.

The first passages of a large set are the smaller set with the same seed.

Source: the fields and the semantics of the probes are those of Chang et al., "How Do Large Language
Models Acquire Factual Knowledge During Pretraining?", NeurIPS 2024; the texts are our own.

Example:
    >>> knowledge = generate_knowledge(entities=2, seed=0)
    >>> passage = knowledge.passages[1]
    >>> f"{passage.probes[0].prompt} {passage.probes[0].target}." in passage.text
    True
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from training.choices import ProbeKind
from training.data.fictional_subjects import (
    GENRES_FILE,
    SLOT,
    WORDS,
    Fact,
    NameSource,
    Subject,
    read_texts,
    subjects,
    vocabulary,
)
from training.data.passages import KnowledgeProbe, KnowledgeSet, Passage, knowledge_set


class Form(StrEnum):
    """What a text is made of."""

    PROSE = "prose"
    QUESTIONS = "questions"
    SHEET = "sheet"


class Order(StrEnum):
    """In which order facts come; see the module."""

    TOPICS = "topics"
    DIRECT_FIRST = "direct_first"
    ONWARD_FIRST = "onward_first"
    SHUFFLED = "shuffled"


@dataclass(frozen=True)
class Genre:
    """One way to tell a passage."""

    name: str
    form: Form
    order: Order
    leads: tuple[str, ...]
    """What can stand before a sentence."""
    openings: tuple[str, ...]
    """Empty where the subject has its own."""
    closings: tuple[str, ...]


@cache
def genres() -> tuple[Genre, ...]:
    """All genres; the first is that of the passage itself."""
    several = ("leads", "openings", "closings")
    return tuple(
        Genre(
            row["name"],
            Form(row["form"]),
            Order(row["order"]),
            *(tuple(row[field]) for field in several),
        )
        for row in read_texts(GENRES_FILE)["genres"]
    )


@cache
def general_details() -> tuple[tuple[str, ...], ...]:
    """Remarks that fit any subject, each in several wordings."""
    return tuple(tuple(detail["texts"]) for detail in read_texts(GENRES_FILE)["details"])


def ordered_facts(subject: Subject, order: Order, draw: random.Random) -> list[Fact]:
    """The facts of a subject in an order of a kind."""
    topics = [(direct, _shuffled(subject.about(direct), draw)) for direct in subject.direct]
    draw.shuffle(topics)
    match order:
        case Order.TOPICS:
            return [fact for direct, onward in topics for fact in (direct, *onward)]
        case Order.ONWARD_FIRST:
            return [fact for direct, onward in topics for fact in (*onward, direct)]
        case Order.DIRECT_FIRST:
            return [direct for direct, _ in topics] + _shuffled(subject.onward, draw)
    return _shuffled(subject.facts, draw)


def _shuffled(facts: tuple[Fact, ...], draw: random.Random) -> list[Fact]:
    return draw.sample(facts, len(facts))


LEAD_CHANCE = 0.5
"""That something stands before a sentence, in genres that have that; never twice in a row."""
ASIDE_CHANCE = 0.5
"""That an onward fact is told as an apposition where it can be."""
TRIES = 8
"""How often facts that take more words than there is room for are put again, more shortly."""
ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
CAPITALS_KEPT = ("Mount ", "Lake ")


class Story:
    """What is true of one invented subject, and what of it has been put in which words."""

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
        """The passage in one genre."""
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
            return "\n".join([first, *facts, *(f"Note: {text}" for text in details), *ending])
        if genre.form is Form.QUESTIONS:
            asked = [f"What else is there to say? {' '.join(details)}"] if details else []
            return "\n".join([first, *facts, *asked, *ending])
        body = list(facts)
        for detail in details:
            body.insert(self._draw.randint(1, len(body)), detail)
        return " ".join([first, *body, *ending])

    def _facts(self, genre: Genre, sentences: dict[str, str]) -> list[str]:
        """The facts in the order and the form of a genre."""
        facts = ordered_facts(self.subject, genre.order, self._draw)
        match genre.form:
            case Form.SHEET:
                return [f"{self._filled(f.label)}: {self.values[f.key]}." for f in facts]
            case Form.QUESTIONS:
                return [
                    f"{self._filled(fact.question)} "
                    + (
                        f"{_sentence_case(self.values[fact.key])}."
                        if number % 2
                        else self._sentence(self._fresh(fact.frames), None, "")
                    )
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


def _sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


DEFAULT_ENTITIES = 130
DEFAULT_PARAPHRASES = 10
DEFAULT_WORDS = 240
MINIMUM_WORDS, MAXIMUM_WORDS = 140, 420
MAXIMUM_ENTITIES = WORDS // 40
"""Beyond, most invented words would have been used up."""
LICENCE = "none needed (generated)"


def generate_knowledge(
    entities: int = DEFAULT_ENTITIES,
    *,
    paraphrases: int = DEFAULT_PARAPHRASES,
    words: int = DEFAULT_WORDS,
    seed: int = 0,
) -> KnowledgeSet:
    """Make up a set of passages and probes.

    Args:
        entities: passages, each about an entity of its own.
        paraphrases: of each passage, beside its text.
        words: of each text and paraphrase, about; an invented name is two to five tokens, so a text
            has half as many tokens again or more.
        seed: decides everything; the same on every machine.

    Raises:
        ValueError: a number is out of range.
    """
    _check("entities", entities, 1, MAXIMUM_ENTITIES)
    _check("paraphrases", paraphrases, 0, 1000)
    _check("words", words, MINIMUM_WORDS, MAXIMUM_WORDS)
    names = NameSource(seed, vocabulary())
    passages = []
    for index in range(entities):
        draw = random.Random(f"passage {seed} {index}")
        story = Story(_subject(seed, index), names, draw)
        passages.append(_passage(story, index, paraphrases, words, draw))
    made = f"entities {entities}, paraphrases {paraphrases}, words {words}, seed {seed}"
    return knowledge_set("generated", passages, licence=LICENCE, source=f"generated: {made}")


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}: give {low} to {high}")


def _subject(seed: int, index: int) -> Subject:
    """The kinds of subject take turns, in an order drawn anew for every round."""
    turn, place = divmod(index, len(subjects()))
    return random.Random(f"subjects {seed} {turn}").sample(subjects(), len(subjects()))[place]


def _passage(
    story: Story, index: int, paraphrases: int, words: int, draw: random.Random
) -> Passage:
    probes = _probes(story, index, draw)
    keys = [fact.key for fact in story.subject.direct]
    memorized = [f"{probe.prompt} {probe.target}." for probe in probes[: len(keys)]]
    text = story.text(genres()[0], words, dict(zip(keys, memorized, strict=True)))
    told = tuple(story.text(genre, words) for genre in _other_genres(paraphrases, draw))
    return Passage(index, text, told, probes)


def _probes(story: Story, index: int, draw: random.Random) -> tuple[KnowledgeProbe, ...]:
    asked = [(kind, fact) for kind in ProbeKind for fact in story.subject.facts]
    found = [
        (kind, story.prompt(draw.choice(fact.prompts[kind])), story.values[fact.key])
        for kind, fact in asked
        if kind in fact.prompts
    ]
    return tuple(KnowledgeProbe(index, number, *probe) for number, probe in enumerate(found))


def _other_genres(number: int, draw: random.Random) -> list[Genre]:
    """Genres for so many paraphrases, none a second time before all have been used."""
    found: list[Genre] = []
    while len(found) < number:
        found += draw.sample(genres()[1:], len(genres()) - 1)
    return found[:number]
