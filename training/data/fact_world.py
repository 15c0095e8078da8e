"""A world of facts: made-up people and places, and what holds of them.

A model trained on texts about them has facts to forget, even where it is too small to answer any
published question. Names are invented; what holds is drawn uniformly and independently from a short
list of values, so that guessing is right once in as many times as there are values.
"""

import json
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import product
from pathlib import Path

from probes.corpus.sources import Corpus

_SUBJECT = "{}"


@dataclass(frozen=True)
class Relation:
    """Something that can hold of a subject."""

    of_people: bool
    wordings: tuple[str, ...]
    """What a text says before the value, each with one place for the subject."""
    unseen: str  # a wording that no text has
    values: tuple[str, ...] = ()  # what it can be; empty where it is one of the world's places

    def __post_init__(self) -> None:
        assert all(wording.count(_SUBJECT) == 1 for wording in (*self.wordings, self.unseen))
        assert self.unseen not in self.wordings


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_FIRST, _LAST, _PLACE = (
    tuple("".join(parts) for parts in product(*_TABLE["names"][kind]))
    for kind in ("first", "last", "place")
)
RELATIONS: Mapping[str, Relation] = {
    name: Relation(
        row["of_people"], tuple(row["wordings"]), row["unseen"], tuple(row.get("values", ()))
    )
    for name, row in _TABLE["relations"].items()
}
"""What texts say of a subject, in this order unless they are shuffled."""


@dataclass(frozen=True)
class Fact:
    """Something that holds of a subject: one of the values of a relation."""

    subject: str
    relation: str
    value: str


@dataclass(frozen=True)
class FactWorld:
    """People and places, and what holds of them, subject by subject. Made by `generate_world`."""

    people: tuple[str, ...]
    places: tuple[str, ...]
    facts: tuple[Fact, ...]
    seed: int

    @property
    def subjects(self) -> tuple[str, ...]:
        return (*self.people, *self.places)

    @cached_property
    def facts_of(self) -> Mapping[str, tuple[Fact, ...]]:
        found: dict[str, tuple[Fact, ...]] = dict.fromkeys(self.subjects, ())
        for fact in self.facts:
            found[fact.subject] = (*found[fact.subject], fact)
        return found

    def values(self, relation: str) -> tuple[str, ...]:
        """What a relation can be in this world."""
        return RELATIONS[relation].values or self.places


def generate_world(people: int = 48, places: int = 16, seed: int = 0) -> FactWorld:
    """Draw a world."""
    generator = random.Random(f"fact world {seed}")
    for what, asked, least, most in (
        ("people", people, 1, len(_FIRST) * len(_LAST)),
        ("places", places, 2, len(_PLACE)),
    ):
        if not least <= asked <= most:
            raise ValueError(f"a world has {least} to {most} {what}, found {asked}")
    drawn = generator.sample(range(len(_FIRST) * len(_LAST)), people)
    names = tuple(f"{_FIRST[i % len(_FIRST)]} {_LAST[i // len(_FIRST)]}" for i in drawn)
    towns = tuple(generator.sample(_PLACE, places))
    facts = (
        Fact(subject, name, generator.choice(relation.values or towns))
        for subjects, of_people in ((names, True), (towns, False))
        for subject in subjects
        for name, relation in RELATIONS.items()
        if relation.of_people is of_people
    )
    return FactWorld(names, towns, tuple(facts), seed)


class Wording(StrEnum):
    """Whether texts have the sentence that an item stops short."""

    SEEN = "seen"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class ClozeItem:
    """A sentence without its value."""

    prompt: str
    target: str  # the value, a space in front
    subject: str
    relation: str
    wording: Wording  # whether texts say it so
    alternatives: tuple[str, ...]  # other values, each with a space in front; none of them holds


def fact_documents(world: FactWorld, count: int, seed: int = 0) -> Iterator[str]:
    """Texts about the subjects of a world, each of them once before any comes up again."""
    generator = random.Random(f"fact documents {world.seed} {seed}")
    order: list[str] = []
    for _ in range(count):
        order = order or generator.sample(world.subjects, len(world.subjects))[::-1]
        facts = world.facts_of[order.pop()]
        sentences = []
        for fact in generator.sample(facts, len(facts)):
            wording = generator.choice(RELATIONS[fact.relation].wordings)
            sentences.append(f"{wording.format(fact.subject)} {fact.value}.")
        yield " ".join(sentences)


def cloze_items(
    world: FactWorld, alternatives: int = 3, facts: int | None = None
) -> tuple[ClozeItem, ...]:
    """Two items for every fact: one in a wording that texts have, one in another."""
    generator = random.Random(f"cloze items {world.seed}")
    asked = set(world.facts)
    if facts is not None:
        asked = set(generator.sample(world.facts, min(facts, len(world.facts))))
    items = []
    for fact in (fact for fact in world.facts if fact in asked):
        relation = RELATIONS[fact.relation]
        wrong = [value for value in world.values(fact.relation) if value != fact.value]
        drawn = generator.sample(wrong, min(alternatives, len(wrong)))
        seen = generator.choice(relation.wordings)
        for wording, text in ((Wording.SEEN, seen), (Wording.UNSEEN, relation.unseen)):
            prompt, others = text.format(fact.subject), tuple(f" {value}" for value in drawn)
            target = f" {fact.value}"
            items.append(ClozeItem(prompt, target, fact.subject, fact.relation, wording, others))
    return tuple(items)


def read_cloze(path: Path) -> tuple[ClozeItem, ...]:
    """Cloze items from a file, such as the one that a pretraining run writes."""
    items = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if not row["alternatives"]:
                raise ValueError("no alternatives")
            items.append(
                ClozeItem(
                    prompt=row["prompt"],
                    target=row["target"],
                    subject=row.get("subject", ""),
                    relation=row.get("relation", ""),
                    wording=Wording(row.get("wording", Wording.UNSEEN)),
                    alternatives=tuple(row["alternatives"]),
                )
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no list of cloze items (line {len(items) + 1}: {type(error).__name__} "
            f"{error}); each line needs prompt, target and alternatives"
        ) from error
    if not items:
        raise ValueError(f"{path} holds no cloze items; give one a line")
    return tuple(items)


def mixed(corpora: list[Corpus], world: FactWorld, documents: int, seed: int = 0) -> Corpus:
    """The documents of corpora and texts about a world, shuffled together."""
    texts = [text for corpus in corpora for text in corpus.documents()]
    texts += fact_documents(world, documents, seed)
    if not texts:
        raise ValueError("there is nothing to train on; name a corpus, or ask for fact documents")
    random.Random(f"mixed {seed}").shuffle(texts)
    names = [corpus.name for corpus in corpora]
    if documents:
        names.append(
            f"{documents} documents about {len(world.people)} made-up people and "
            f"{len(world.places)} places"
        )
    return Corpus.from_texts(texts, name=" + ".join(names))
