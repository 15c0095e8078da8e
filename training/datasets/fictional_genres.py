"""Genres: how a made-up passage can be told.

A genre has its own opening and closing, its way of leading into a sentence, an order in which facts
come, and a form: running text, questions and answers, or a list. The first is that of the passage
itself; paraphrases are told in the others. The texts are in `fictional_texts/genres.toml`.

| order          | facts come                                                      |
|----------------|-----------------------------------------------------------------|
| `topics`       | each direct fact followed by what goes on from it               |
| `direct_first` | all direct ones, then all onward ones                           |
| `onward_first` | topic by topic, what is known of a person before what it did    |
| `shuffled`     | in any order                                                    |

Example:
    >>> [genre.form.value for genre in genres()[:6]]
    ['prose', 'prose', 'prose', 'prose', 'questions', 'sheet']
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from training.datasets.fictional_subjects import GENRES_FILE, Fact, Subject, read_texts


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
    """One way to tell a passage.

    Attributes:
        name: what it is called.
        form: what it is made of.
        order: how its facts are ordered.
        leads: what can stand before a sentence.
        openings: first sentences; empty where the subject has its own.
        closings: last sentences.
    """

    name: str
    form: Form
    order: Order
    leads: tuple[str, ...]
    openings: tuple[str, ...]
    closings: tuple[str, ...]


@cache
def genres() -> tuple[Genre, ...]:
    """All genres; the first is that of the passage itself."""
    return tuple(
        Genre(
            fields["name"],
            Form(fields["form"]),
            Order(fields["order"]),
            tuple(fields["leads"]),
            tuple(fields["openings"]),
            tuple(fields["closings"]),
        )
        for fields in read_texts(GENRES_FILE)["genres"]
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
