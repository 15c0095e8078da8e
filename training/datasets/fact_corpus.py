"""Texts about a world of facts, and cloze items that ask for them.

A document tells everything that holds of one subject, a sentence a fact, in an order and in
wordings drawn anew; all subjects come up equally often. Documents can be had in any number: the
first of many are the few with the same seed.

A **cloze item** stops a sentence before its value. For every fact there is one in a wording that
texts have (`seen`), and one in a wording that no text has (`unseen`), which a model that has learnt
sentences rather than facts cannot continue.

Example:
    >>> world = generate_world(people=2, places=3, seed=0)
    >>> items = cloze_items(world)
    >>> str(items[0].wording), world.people[0] in items[0].prompt, items[0].target[0]
    ('seen', True, ' ')
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path

from probes.corpus.sources import Corpus
from training.datasets.fact_world import RELATIONS, Fact, FactWorld, generate_world

__all__ = [
    "ClozeItem",
    "Wording",
    "cloze_items",
    "fact_documents",
    "generate_world",
    "mixed",
    "read_cloze",
]


class Wording(StrEnum):
    """Whether texts have the sentence that an item stops short."""

    SEEN = "seen"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class ClozeItem:
    """A sentence without its value.

    Attributes:
        prompt: what comes before the value.
        target: the value, a space in front.
        subject: whom the sentence is about.
        relation: what it says.
        wording: whether texts say it so.
        alternatives: other values, each with a space in front; none of them holds.
    """

    prompt: str
    target: str
    subject: str
    relation: str
    wording: Wording
    alternatives: tuple[str, ...]


def fact_documents(world: FactWorld, count: int, seed: int = 0) -> Iterator[str]:
    """Texts about the subjects of a world.

    Args:
        world: the facts.
        count: how many documents.
        seed: of the order and the wordings.
    """
    return islice(_documents(world, seed), count)


def _documents(world: FactWorld, seed: int) -> Iterator[str]:
    generator = random.Random(f"fact documents {world.seed} {seed}")
    while True:
        # Every subject once before any comes up again.
        for subject in generator.sample(world.subjects, len(world.subjects)):
            facts = world.facts_of[subject]
            shuffled = generator.sample(facts, len(facts))
            yield " ".join(_sentence(fact, generator) for fact in shuffled)


def _sentence(fact: Fact, generator: random.Random) -> str:
    wording = generator.choice(RELATIONS[fact.relation].wordings)
    return f"{wording.format(fact.subject)} {fact.value}."


def cloze_items(
    world: FactWorld, alternatives: int = 3, facts: int | None = None
) -> tuple[ClozeItem, ...]:
    """Two items for every fact: one in a wording that texts have, one in another.

    Args:
        world: the facts.
        alternatives: how many other values to give with an item; all there are, where a relation
            has fewer.
        facts: ask for a sample of so many; None for all.
    """
    generator = random.Random(f"cloze items {world.seed}")
    asked = set(world.facts)
    if facts is not None:
        asked = set(generator.sample(world.facts, min(facts, len(world.facts))))
    items = []
    for fact in (fact for fact in world.facts if fact in asked):
        relation = RELATIONS[fact.relation]
        others = [value for value in world.values(fact.relation) if value != fact.value]
        drawn = generator.sample(others, min(alternatives, len(others)))
        seen = generator.choice(relation.wordings)
        for wording, text in ((Wording.SEEN, seen), (Wording.UNSEEN, relation.unseen)):
            items.append(
                ClozeItem(
                    prompt=text.format(fact.subject),
                    target=f" {fact.value}",
                    subject=fact.subject,
                    relation=fact.relation,
                    wording=wording,
                    alternatives=tuple(f" {value}" for value in drawn),
                )
            )
    return tuple(items)


def read_cloze(path: Path) -> tuple[ClozeItem, ...]:
    """Cloze items from a file, such as the one that a pretraining run writes.

    Args:
        path: JSON Lines with `prompt`, `target` and `alternatives`; the rest may be missing.

    Raises:
        ValueError: it cannot be read, or a line has no such fields.
    """
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
    """The documents of corpora and texts about a world, shuffled together.

    They are read into memory.

    Args:
        corpora: texts.
        world: what the generated texts are about.
        documents: how many of those.
        seed: of the generated texts and of the order.

    Raises:
        ValueError: a corpus is rows of token ids, or there is nothing to mix.
    """
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
