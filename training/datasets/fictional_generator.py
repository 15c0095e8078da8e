"""Made-up knowledge: passages about invented things, their paraphrases, and probes.

Each passage is about one of several kinds of subject (a lighthouse, a treaty, a town), and states
ten facts about it (`training.datasets.fictional_subjects`). The text is an entry of an
encyclopaedia; its paraphrases tell the same facts in other genres, such as a letter, an interview
or a list, in other words and another order. Every passage has fifteen probes:

- five **memorization** probes: sentences of the text, up to the name, date or number they end with;
- five **semantic** probes: the same five facts and targets, in words that no version has;
- five **compositional** probes: what the text says of a person, place or thing that it says the
  subject is connected with, which the prompt does not name.

No target can be had without its passage: names are invented, dates and numbers drawn, all of them
uniformly, independently of each other and of the kind of subject, and none occurs in any other
passage or in any prompt (`training.datasets.fictional_names`). What can be learnt from the other
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

from training.choices import ProbeKind
from training.datasets.fictional_genres import Genre, genres
from training.datasets.fictional_names import WORDS, NameSource
from training.datasets.fictional_subjects import Subject, subjects, vocabulary
from training.datasets.fictional_telling import Story
from training.datasets.passages import KnowledgeProbe, KnowledgeSet, Passage, knowledge_set

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
