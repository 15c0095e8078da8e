r"""Factoids: questions with short answers, and how they become text that a model continues.

A **template** has two halves: the prompt, with `{question}` in it, and the target, with `{answer}`.
They follow each other without anything between them, so the space that parts them belongs to the
target, where tokenizers put it. `training.data.factoid_sources` loads sets of factoids.

**Key-value recall** has pairs of random strings that no model can have met, drawn uniformly; no
string occurs twice. Pairs are drawn one after the other, so the first of a long set are the short
set with the same seed, and later ones make a second set that shares nothing with it.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section 2
and B.5 (2,000 pairs of eight letters and digits; their generator is not released, and the example
they print is hexadecimal).

Example:
    >>> factoid = Factoid("Which city does David Soul come from?", ("Chicago",), "1", "David Soul")
    >>> prompt_and_target(factoid, QUESTION_ANSWER)
    ('Question: Which city does David Soul come from?\nAnswer:', ' Chicago')
    >>> start, stop = subject_span(factoid, QUESTION_ANSWER)
    >>> prompt_and_target(factoid, QUESTION_ANSWER)[0][start:stop]
    'David Soul'
    >>> pair = key_value_factoids(1, KeyValues(Charset.HEX, length=8), seed=0)[0]
    >>> pair.question, pair.object
    ('The value of key dc6486c4 is?', '79e84c94')
"""

import random
import re
import string
from dataclasses import asdict, dataclass
from typing import Any

from probes.choices import as_choice
from training.choices import Charset
from training.data.items import ItemSet


@dataclass(frozen=True)
class Factoid:
    """One question and its answers; subject and relation where the set says them."""

    question: str
    """Or the text that the answer continues."""
    answers: tuple[str, ...]
    """What is accepted, the canonical answer first."""
    identifier: str
    """No two items of a set share one."""
    subject: str | None = None
    relation: str | None = None

    def __post_init__(self) -> None:
        if not self.question or not self.answers or not all(self.answers):
            raise ValueError(
                f"factoid {self.identifier!r} has question {self.question!r} and answers "
                f"{list(self.answers)}: give a question and at least one answer, none of them empty"
            )

    @property
    def object(self) -> str:
        """The canonical answer."""
        return self.answers[0]


@dataclass(frozen=True)
class PromptTemplate:
    """How a factoid is put to a model: `{question}` once, and `{answer}` once."""

    prompt: str = "Question: {question}\nAnswer:"
    target: str = " {answer}"

    def __post_init__(self) -> None:
        for text, field in ((self.prompt, "{question}"), (self.target, "{answer}")):
            if text.count(field) != 1:
                raise ValueError(
                    f"template {text!r} holds {field} {text.count(field)} times: write it once"
                )


QUESTION_ANSWER = PromptTemplate()
ANSWER_IS = PromptTemplate("Question: {question}\nThe answer is:")
"""The paper's form of questions (B.5)."""
PLAIN = PromptTemplate("{question}")
"""Of key-value recall and of finished prompts."""


@dataclass(frozen=True)
class FactoidSet(ItemSet[Factoid]):
    """Factoids in order, the template that suits them, and where they are from."""

    factoids: tuple[Factoid, ...]
    template: PromptTemplate = QUESTION_ANSWER

    @property
    def items(self) -> tuple[Factoid, ...]:
        return self.factoids

    @property
    def settings(self) -> dict[str, Any]:
        return {"template": asdict(self.template)}


def prompt_and_target(factoid: Factoid, template: PromptTemplate) -> tuple[str, str]:
    """The prompt of a factoid, and its canonical answer as what follows the prompt."""
    # Not str.format: a question may hold braces.
    return (
        template.prompt.replace("{question}", factoid.question),
        template.target.replace("{answer}", factoid.object),
    )


def subject_span(factoid: Factoid, template: PromptTemplate) -> tuple[int, int] | None:
    """Where the subject stands in the prompt of a factoid.

    It is looked for in the question, as whole words, first as it is written and then in any case;
    the first place counts.

    Returns:
        Character positions `(start, stop)` in the prompt; None where the factoid names no subject
        or its question does not hold it.
    """
    if not factoid.subject:
        return None
    words = rf"(?<!\w){re.escape(factoid.subject)}(?!\w)"
    found = re.search(words, factoid.question) or re.search(words, factoid.question, re.IGNORECASE)
    if not found:
        return None
    shift = template.prompt.index("{question}")
    return shift + found.start(), shift + found.end()


_CHARACTERS = {
    Charset.HEX: string.digits + "abcdef",
    Charset.ALPHANUMERIC: string.digits + string.ascii_lowercase,
}


@dataclass(frozen=True)
class KeyValues:
    """The form of keys and values: their characters, and how many each has."""

    charset: Charset | str = Charset.HEX
    length: int = 8

    def __post_init__(self) -> None:
        as_choice(Charset, self.charset, "charset")
        if self.length < 1:
            raise ValueError(f"keys and values have length {self.length}: give 1 or more")

    @property
    def characters(self) -> str:
        """What they are made of."""
        return _CHARACTERS[Charset(self.charset)]

    @property
    def strings(self) -> int:
        """How many strings of this form there are."""
        return len(self.characters) ** self.length


def key_value_factoids(n: int, form: KeyValues, seed: int) -> list[Factoid]:
    """Key-value pairs as factoids."""
    if 2 * n > form.strings:
        raise ValueError(
            f"{n} pairs need {2 * n} different strings, but {form.charset} of length "
            f"{form.length} has {form.strings}: give longer keys or fewer pairs"
        )
    generator = random.Random(seed)
    drawn: dict[str, None] = {}
    while len(drawn) < 2 * n:
        drawn["".join(generator.choices(form.characters, k=form.length))] = None
    strings = list(drawn)
    return [
        Factoid(f"The value of key {key} is?", (value,), f"kvr-{key}", key, "value")
        for key, value in zip(strings[::2], strings[1::2], strict=True)
    ]
