"""Made-up knowledge: passages about invented things, their paraphrases, and probes.

A passage states ten facts about a subject of one of several kinds: five **direct** (who built the
lighthouse) and five **onward**, about what a direct one names (where its builder was born). Its
paraphrases tell them in other genres, words and order. Fifteen probes ask for them: five
**memorization** (sentences of the text, up to the name, date or number at their end), five
**semantic** (the same facts and targets, in words that no version has), five **compositional**
(onward facts, in prompts that leave out the name in between).

No target can be had without its passage: names are invented, dates and numbers drawn, uniformly and
independently of each other and of the kind of subject, and none occurs in another passage or in any
prompt. The first passages of a large set are the smaller set with the same seed.

The texts are in `fictional_texts/`, a file per subject. In them `{S}` is the subject, `{key}` what
fact `key` names, `{key+}` the same with an onward fact in apposition, `[one|another]` a choice. A
passage has one word of each of the `pools`; `frames` state a fact, `question` and `label` call it
so in an interview and in a list; `of` is the direct fact of an onward one, `aside` its apposition.

Source: the fields and the semantics of the probes are those of Chang et al., "How Do Large Language
Models Acquire Factual Knowledge During Pretraining?", NeurIPS 2024; the texts are our own.
"""

import random
import re
import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from training.choices import ProbeKind
from training.data.passages import KnowledgeProbe, KnowledgeSet, Passage

FOLDER = Path(__file__).parent / "fictional_texts"
GENRES_FILE = "genres.toml"
_NAMES = tomllib.loads((FOLDER.parent / "invented_names.toml").read_text(encoding="utf-8"))
ONSETS, VOWELS, MIDDLES, ENDINGS, MONTHS = (
    tuple(_NAMES[part]) for part in ("onsets", "vowels", "middles", "endings", "months")
)
REAL_WORDS = frozenset(_NAMES["real_words"])
DAYS, YEARS, CODES = range(1, 29), range(1700, 2000), range(10_000, 100_000)
WORDS = len(ONSETS) * len(VOWELS) * len(MIDDLES) * len(ENDINGS)

LEAD_CHANCE = 0.5  # that something stands before a sentence, in genres that have that
ASIDE_CHANCE = 0.5  # that an onward fact is put as an apposition where it can be
TRIES = 8  # how often facts that take more words than there is room for are put again
_SLOT = re.compile(r"\{(?P<key>\w+)(?P<aside>\+?)\}")
_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_CAPITALS_KEPT = ("Mount ", "Lake ")


class ValueType(StrEnum):
    """What sort of thing a fact names."""

    PERSON = "person"
    PLACE = "place"
    NAME = "name"
    DATE = "date"
    CODE = "code"


class NameSource:
    """Values that have not been given out before."""

    def __init__(self, seed: int | str, excluded: Collection[str] = ()) -> None:
        self._random = random.Random(f"names {seed}")
        self._excluded = frozenset(excluded) | REAL_WORDS
        self._given: set[str] = set()

    def value(self, kind: ValueType) -> str:
        draw = self._random.choice
        match kind:
            case ValueType.PERSON:
                return f"{self.word()} {self.word()}"
            case ValueType.DATE:
                return self._fresh(lambda: f"{draw(DAYS)} {draw(MONTHS)} {draw(YEARS)}")
            case ValueType.CODE:
                return self._fresh(lambda: str(draw(CODES)))
        return self.word()

    def word(self) -> str:
        parts = (ONSETS, VOWELS, MIDDLES, ENDINGS)
        while True:
            found = self._fresh(lambda: "".join(map(self._random.choice, parts)))
            if found.lower() not in self._excluded:
                return found

    def _fresh(self, draw: Callable[[], str]) -> str:
        while (found := draw()) in self._given:
            pass
        self._given.add(found)
        return found


@dataclass(frozen=True)
class Fact:
    """One thing that a passage says; see the module for the fields."""

    key: str
    type: ValueType
    of: str | None
    frames: tuple[str, ...]
    question: str
    label: str
    prompts: dict[str, tuple[str, ...]]  # beginnings of sentences that it ends, by kind of probe
    aside: str

    @property
    def frames_with_aside(self) -> tuple[str, ...]:
        """Frames that have room for an apposition."""
        return tuple(frame for frame in self.frames if f"{{{self.key}+}}" in frame)


@dataclass(frozen=True)
class Subject:
    """What a passage is about; see the module for the fields."""

    key: str
    title: str
    named: ValueType
    gloss: str
    openings: tuple[str, ...]
    pools: dict[str, tuple[str, ...]]
    facts: tuple[Fact, ...]
    details: tuple[tuple[str, ...], ...]

    @property
    def direct(self) -> tuple[Fact, ...]:
        return self.about(None)

    @property
    def onward(self) -> tuple[Fact, ...]:
        """Facts about what direct facts name."""
        return tuple(fact for fact in self.facts if fact.of is not None)

    def about(self, key: str | None) -> tuple[Fact, ...]:
        """The onward facts that go on from a direct one; None for the direct ones."""
        return tuple(fact for fact in self.facts if fact.of == key)


@cache
def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text(encoding="utf-8"))


@cache
def subjects() -> tuple[Subject, ...]:
    """All subjects, in the order of their names."""
    names = sorted(path.name for path in FOLDER.glob("*.toml") if path.name != GENRES_FILE)
    return tuple(_subject(name.removesuffix(".toml"), _read(name)) for name in names)


def _subject(key: str, content: dict[str, Any]) -> Subject:
    facts = tuple(
        Fact(
            name,
            ValueType(fields["type"]),
            fields.get("of"),
            tuple(fields["frames"]),
            fields["question"],
            fields["label"],
            {kind: tuple(fields[kind]) for kind in ProbeKind if kind in fields},
            fields.get("aside", ""),
        )
        for name, fields in content["facts"].items()
    )
    found = Subject(
        key,
        content["title"],
        ValueType(content.get("named", ValueType.PLACE)),
        content["gloss"],
        tuple(content["openings"]),
        {name: tuple(words) for name, words in content["pools"].items()},
        facts,
        _details(content),
    )
    assert len(found.direct) == len(found.onward) == 5, key
    assert {fact.of for fact in found.onward} <= {fact.key for fact in found.direct}, key
    return found


def _details(content: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(detail["texts"]) for detail in content["details"])


@cache
def vocabulary() -> frozenset[str]:
    """All words of all texts, in lower case: no invented name may be among them."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.toml")))
    return frozenset(word.lower() for text in texts for word in re.findall(r"[^\W\d_]+", text))


@dataclass(frozen=True)
class Genre:
    """One way to tell a passage."""

    name: str
    form: str  # what its texts are made of: prose, questions or a sheet
    order: str  # in which facts come: topics, direct_first, onward_first or shuffled
    leads: Sequence[str]  # what can stand before a sentence
    openings: Sequence[str]  # empty where the subject has its own
    closings: Sequence[str]


@cache
def genres() -> tuple[Genre, ...]:
    """All genres; the first is that of the passage itself."""
    return tuple(Genre(**row) for row in _read(GENRES_FILE)["genres"])


def ordered_facts(subject: Subject, order: str, draw: random.Random) -> list[Fact]:
    """The facts of a subject in an order of a kind."""

    def shuffled(facts: Sequence[Fact]) -> list[Fact]:
        return draw.sample(facts, len(facts))

    topics = [(direct, shuffled(subject.about(direct.key))) for direct in subject.direct]
    draw.shuffle(topics)
    match order:
        case "topics":
            return [fact for direct, onward in topics for fact in (direct, *onward)]
        case "onward_first":
            return [fact for direct, onward in topics for fact in (*onward, direct)]
        case "direct_first":
            return [direct for direct, _ in topics] + shuffled(subject.onward)
    assert order == "shuffled", order
    return shuffled(subject.facts)


class Story:
    """What is true of one invented subject, and what of it has been put in which words."""

    def __init__(self, subject: Subject, names: NameSource, draw: random.Random) -> None:
        self.subject = subject
        self.values = {fact.key: names.value(fact.type) for fact in subject.facts}
        self.values["S"] = subject.title.format(name=names.value(subject.named))
        self.values["gloss"] = subject.gloss
        self._draw = draw
        self._pools = {name: draw.choice(words) for name, words in subject.pools.items()}
        general = _details(_read(GENRES_FILE))
        self._details = [
            *draw.sample(subject.details, len(subject.details)),
            *draw.sample(general, len(general)),
        ]
        self._unused: dict[Sequence[str], list[str]] = {}

    def prompt(self, text: str) -> str:
        """The beginning of a sentence, as a probe asks with it."""
        return _sentence_case(self._filled(text))

    def text(self, genre: Genre, words: int, sentences: dict[str, str] | None = None) -> str:
        first = self.prompt(self._fresh(genre.openings or self.subject.openings))
        facts = self._facts(genre, sentences or {})
        for _ in range(TRIES):
            if _words(first, *facts) <= words:
                break
            facts = min(facts, self._facts(genre, sentences or {}), key=lambda one: _words(*one))
        last = self.prompt(self._fresh(genre.closings))
        room = words - _words(first, *facts)
        ending = [last] if room >= _words(last) // 2 else []
        details = self._remarks(room - _words(*ending))
        match genre.form:
            case "sheet":
                return "\n".join([first, *facts, *(f"Note: {one}" for one in details), *ending])
            case "questions":
                asked = [f"What else is there to say? {' '.join(details)}"] if details else []
                return "\n".join([first, *facts, *asked, *ending])
        for detail in details:
            facts.insert(self._draw.randint(1, len(facts)), detail)
        return " ".join([first, *facts, *ending])

    def _facts(self, genre: Genre, sentences: dict[str, str]) -> list[str]:
        """The facts in the order and the form of a genre."""
        facts = ordered_facts(self.subject, genre.order, self._draw)
        match genre.form:
            case "sheet":
                return [f"{self._filled(f.label)}: {self.values[f.key]}." for f in facts]
            case "questions":
                return [
                    f"{self._filled(fact.question)} "
                    + (
                        f"{_sentence_case(self.values[fact.key])}."
                        if number % 2
                        else self._sentence(self._fresh(fact.frames), None, "")
                    )
                    for number, fact in enumerate(facts)
                ]
        found: list[str] = []
        said: set[str] = set()
        led = True
        for fact in facts:
            if fact.key in said:
                continue
            said.add(fact.key)
            if fact.key in sentences:
                found.append(sentences[fact.key])
                continue
            aside = None if genre.order == "onward_first" else self._aside(fact, said)
            frame = self._fresh(fact.frames if aside is None else fact.frames_with_aside)
            if aside is not None:
                said.add(aside.key)
            led = not led and bool(genre.leads) and self._draw.random() < LEAD_CHANCE
            found.append(self._sentence(frame, aside, self._fresh(genre.leads) if led else ""))
        return found

    def _aside(self, fact: Fact, said: set[str]) -> Fact | None:
        """An onward fact, not yet said, to be put in apposition; None to leave it for later."""
        onward = [other for other in self.subject.about(fact.key) if other.key not in said]
        if not onward or not fact.frames_with_aside or self._draw.random() >= ASIDE_CHANCE:
            return None
        return self._draw.choice(onward)

    def _sentence(self, frame: str, aside: Fact | None, lead: str) -> str:
        chosen = self._chosen(frame)
        if lead and not chosen.startswith(("{", *_CAPITALS_KEPT)):
            chosen = chosen[0].lower() + chosen[1:]
        return _sentence_case(f"{lead} {self._filled(chosen, aside)}".strip())

    def _filled(self, text: str, aside: Fact | None = None) -> str:
        """A text with its choices made and its slots filled."""

        def value(found: re.Match[str]) -> str:
            known = (self.values | self._pools)[found["key"]]
            if not found["aside"] or aside is None:
                return known
            return f"{known}, {self._filled(aside.aside)},"

        return _SLOT.sub(value, self._chosen(text)).replace(",,", ",").replace(",.", ".")

    def _chosen(self, text: str) -> str:
        return _ALTERNATIVES.sub(lambda found: self._draw.choice(found[1].split("|")), text)

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
            text = self.prompt(self._fresh(self._details[0]))
            if _words(*found) + _words(text) / 2 > words:
                break
            found.append(text)
            self._details.append(self._details.pop(0))
        return found


def _sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


DEFAULT_ENTITIES = 130


def generate_knowledge(
    entities: int = DEFAULT_ENTITIES, *, paraphrases: int = 10, words: int = 240, seed: int = 0
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
    for name, value, low, high in (
        ("entities", entities, 1, WORDS // 40),  # more would use up most invented words
        ("paraphrases", paraphrases, 0, 1000),
        ("words", words, 140, 420),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}: give {low} to {high}")
    names, passages = NameSource(seed, vocabulary()), []
    for index in range(entities):
        # The kinds of subject take turns, in an order drawn anew for every round.
        turn, place = divmod(index, len(subjects()))
        order = random.Random(f"subjects {seed} {turn}").sample(subjects(), len(subjects()))
        draw = random.Random(f"passage {seed} {index}")
        story = Story(order[place], names, draw)
        passages.append(_passage(story, index, paraphrases, words, draw))
    made = f"entities {entities}, paraphrases {paraphrases}, words {words}, seed {seed}"
    return KnowledgeSet(
        "generated", tuple(passages), "none needed (generated)", f"generated: {made}"
    )


def _passage(
    story: Story, index: int, paraphrases: int, words: int, draw: random.Random
) -> Passage:
    probes: list[KnowledgeProbe] = []
    for kind in ProbeKind:
        for fact in story.subject.facts:
            if kind in fact.prompts:
                prompt = story.prompt(draw.choice(fact.prompts[kind]))
                probe = KnowledgeProbe(index, len(probes), kind, prompt, story.values[fact.key])
                probes.append(probe)
    memorized = {
        fact.key: f"{probe.prompt} {probe.target}."
        for fact, probe in zip(story.subject.direct, probes, strict=False)
    }
    text = story.text(genres()[0], words, memorized)
    # None a second time before all have been used.
    others: list[Genre] = []
    while len(others) < paraphrases:
        others += draw.sample(genres()[1:], len(genres()) - 1)
    texts = tuple(story.text(genre, words) for genre in others[:paraphrases])
    return Passage(index, text, texts, tuple(probes))
