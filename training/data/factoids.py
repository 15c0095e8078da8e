"""Factoids: questions with short answers, their sets by name or from a file, and their prompts.

| name       | questions | what they are                                                          |
|------------|-----------|------------------------------------------------------------------------|
| `kvr`      | any       | key-value recall: pairs of random strings that no model can have met   |
| `triviaqa` | 7,993     | quiz questions, validation split; a quarter of the answers in capitals |
| `nq-open`  | 3,610     | questions typed into a search engine, validation split, lower case     |
| `jeopardy` | 2,108     | clues of a quiz show; answers without "What is"                        |

A question that occurs twice is kept once. The order is drawn by `seed`, so that the first items are
a fair sample and `offset` makes a second set of the same kind; no string of key-value recall comes
up twice. The halves of a **template** follow each other without anything between them: the space
that parts them belongs to the target, where tokenizers put it.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section 2
and B.5 (2,000 pairs of eight letters and digits; their generator is not released, and the example
they print is hexadecimal); Joshi et al. 2017 (TriviaQA); Kwiatkowski et al. 2019 and Lee et al.
2019 (Natural Questions, open); the Jeopardy set of MosaicML's evaluation gauntlet.

Example:
    >>> first, second = load_factoids("kvr", limit=3), load_factoids("kvr", limit=3, offset=3)
    >>> first[0].question, len({factoid.subject for factoid in [*first, *second]})
    ('The value of key dc6486c4 is?', 6)
"""

import random
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from probes.choices import as_choice
from probes.corpus.files import parsed
from training.choices import Charset
from training.data.items import (
    ItemSet,
    NamedSet,
    Read,
    Row,
    Rows,
    field_of,
    files_of,
    found_file,
    load_items,
    read_rows,
    refuse_options,
    text_of,
)

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
KEY_VALUE_RECALL = "kvr"
DEFAULT_KEY_VALUES = 2000  # pairs of key-value recall where no limit is given: the paper's number
_CHANGED = "the data set has changed, name the revision that has it"
_CLUE = re.compile(r"Category: [^\n]*\nQuestion: (?P<clue>.*)\nAnswer:", re.DOTALL)
_CHARACTERS = {
    Charset.HEX: string.digits + "abcdef",
    Charset.ALPHANUMERIC: string.digits + string.ascii_lowercase,
}


@dataclass(frozen=True)
class Factoid:
    """One question and its answers; subject and relation where the set says them."""

    question: str  # or the text that the answer continues
    answers: tuple[str, ...]  # what is accepted, the canonical answer first
    identifier: str  # no two items of a set share one
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
PLAIN = PromptTemplate("{question}")  # what key-value recall and finished prompts are asked with


@dataclass(frozen=True)
class FactoidSet(ItemSet[Factoid]):
    """Factoids in order, the template that suits them, and where they are from."""

    template: PromptTemplate = QUESTION_ANSWER

    @property
    def configuration(self) -> dict[str, Any]:
        return {**super().configuration, "template": asdict(self.template)}


def prompt_and_target(factoid: Factoid, template: PromptTemplate) -> tuple[str, str]:
    """The prompt of a factoid, and its canonical answer as what follows the prompt."""
    # Not str.format: a question may hold braces.
    return (
        template.prompt.replace("{question}", factoid.question),
        template.target.replace("{answer}", factoid.object),
    )


def subject_span(factoid: Factoid, template: PromptTemplate) -> tuple[int, int] | None:
    """The place of the subject in the prompt of a factoid.

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


@dataclass(frozen=True)
class KeyValues:
    """The form of keys and values: their characters, and how many each has."""

    charset: Charset | str = Charset.HEX
    length: int = 8

    def __post_init__(self) -> None:
        as_choice(Charset, self.charset, "charset")
        if self.length < 1:
            raise ValueError(f"keys and values have length {self.length}: give 1 or more")

    def factoids(self, n: int, seed: int) -> tuple[Factoid, ...]:
        """So many key-value pairs."""
        characters = _CHARACTERS[Charset(self.charset)]
        if 2 * n > (strings := len(characters) ** self.length):
            raise ValueError(
                f"{n} pairs need {2 * n} different strings, but {self.charset} of length "
                f"{self.length} has {strings}: give longer keys or fewer pairs"
            )
        generator = random.Random(seed)
        drawn: dict[str, None] = {}
        while len(drawn) < 2 * n:
            drawn["".join(generator.choices(characters, k=self.length))] = None
        texts = iter(drawn)
        return tuple(
            Factoid(f"The value of key {key} is?", (value,), f"kvr-{key}", key, "value")
            for key, value in zip(texts, texts, strict=True)
        )


def factoid_names() -> list[str]:
    """The names that `load_factoids` knows."""
    return [KEY_VALUE_RECALL, *BUILT_IN_FACTOIDS, *HUB_FACTOIDS]


def load_factoids(
    source: str | Path,
    *,
    limit: int | None = None,
    offset: int = 0,
    seed: int | None = 0,
    key_values: KeyValues | None = None,
    revision: str | None = None,
) -> FactoidSet:
    """Load a factoid set.

    Args:
        source: one of `factoid_names()`, or a file. A name wins over a file of that name: write
            `./kvr` for the file. A `Path` is always a file.
        limit: at most so many items; None for all, and for 2,000 of key-value recall.
        offset: leave out so many items first.
        seed: of the order, and of the pairs of key-value recall; None for the source's own order.
        key_values: charset and length of keys and values, for key-value recall alone.
        revision: branch, tag or commit of a set of the hub, where not the pinned one.

    Raises:
        ValueError: the set is unknown, cannot be read or had, or has too few items; an option is
            out of range or does not apply.
    """
    is_recall = source == KEY_VALUE_RECALL
    if not is_recall and key_values is not None:
        raise ValueError(
            f"key_values was given, but {source} is not {KEY_VALUE_RECALL}: leave it out"
        )
    if is_recall and revision is None:
        refuse_options(limit, offset)
        if seed is None:
            raise ValueError(f"{source} is generated and has no order of its own: give a seed")
        form, count = key_values or KeyValues(), limit or DEFAULT_KEY_VALUES
        made = f"generated: {form.charset}, length {form.length}, seed {seed}, offset {offset}"
        pairs = form.factoids(offset + count, seed)[offset:]
        return FactoidSet(KEY_VALUE_RECALL, "none needed (generated)", made, pairs, PLAIN)
    sets = {**BUILT_IN_FACTOIDS, **HUB_FACTOIDS}
    which: dict[str, Any] = {"limit": limit, "offset": offset, "seed": seed, "revision": revision}
    found = load_items(source, sets, _read_file, **which)
    return FactoidSet(found.name, found.licence, found.source, found.items, **found.settings)


def _read_file(name: str) -> Read[Factoid]:
    """The factoids of a file, none of which may be unusable, and how they are asked."""
    path = found_file(name, "factoid file", f"factoid set {name!r}", factoid_names(), SUFFIXES)
    found: dict[str, Factoid] = {}
    places: dict[str, str] = {}
    asked = ""
    for place, row in read_rows(path, list_columns=("answers", "aliases")):
        column, factoid = _factoid(row, place, f"{path.name}-{len(found)}")
        asked = asked or column
        if column != asked:
            raise ValueError(f"{place}: has {column!r} after items with {asked!r}: use one of them")
        if factoid.identifier in found:
            raise ValueError(
                f"{place}: identifier {factoid.identifier!r} is that of "
                f"{places[factoid.identifier]}: give each item its own"
            )
        found[factoid.identifier], places[factoid.identifier] = factoid, place
    if not found:
        raise ValueError(f"{path} holds no factoid: give items with a question and an answer")
    return list(found.values()), {"template": PLAIN if asked == "prompt" else QUESTION_ANSWER}


def _factoid(row: Row, place: str, default_id: str) -> tuple[str, Factoid]:
    filled = {
        column: value
        for column, value in row.items()
        if (value.strip() if isinstance(value, str) else value not in (None, []))
    }

    def text(*columns: str) -> str | None:
        """The text of the one of some columns that is filled."""
        column = _only_one(filled, columns, place)
        return None if column is None else text_of(row[column], column, place)

    def lacks(wanted: str) -> ValueError:
        found = ", ".join(map(repr, filled)) or "nothing"
        return ValueError(f"{place}: no {wanted}; found {found}: add it")

    asked = _only_one(filled, ("question", "prompt"), place)
    if asked is None:
        raise lacks("question or prompt")
    canonical = text("answer", "target", "object")
    listed = _only_one(filled, ("answers", "aliases"), place)
    accepted = [] if listed is None else _own_texts(row[listed], listed, place)
    if canonical is None and not accepted:
        raise lacks("answer, target or answers")
    identifier = _only_one(filled, ("id", "identifier"), place)
    return asked, Factoid(
        question=text_of(row[asked], asked, place),
        answers=_answers(accepted[0] if canonical is None else canonical, accepted),
        identifier=str(row[identifier]).strip() if identifier else default_id,
        subject=text("subject"),
        relation=text("relation"),
    )


def _only_one(filled: Row, columns: Sequence[str], place: str) -> str | None:
    """The one of some columns that a row fills, None where it fills none."""
    found = [column for column in columns if column in filled]
    if len(found) > 1:
        raise ValueError(f"{place}: has {' and '.join(map(repr, found))}: keep one of them")
    return found[0] if found else None


def _own_texts(values: Any, column: str, place: str) -> list[str]:
    """The answers of a file, none of them empty: its owner can mend it."""
    is_list = isinstance(values, list)
    if not is_list or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(
            f"{place}: {column!r} must be a list of texts, none of them empty; for a single answer "
            f"use 'answer'"
        )
    return [text_of(value, column, place) for value in values]


def _published_texts(values: Any, column: str, place: str) -> list[str]:
    """The answers of a published set but for blank ones, of which large sets have a few."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{place}: {column!r} holds no list of texts: {_CHANGED}")
    kept = [text_of(value, column, place) for value in values if value.strip()]
    if not kept:
        raise ValueError(f"{place}: {column!r} holds no answer: {_CHANGED}")
    return kept


def _answers(canonical: str, accepted: Iterable[str]) -> tuple[str, ...]:
    """The canonical answer and then the others, each stripped, without repetitions."""
    return tuple(dict.fromkeys(answer.strip() for answer in (canonical, *accepted)))


def _text(row: Row, column: str, place: str) -> str:
    return text_of(field_of(row, column, place, _CHANGED), column, place)


def _triviaqa(rows: Rows) -> Iterator[Factoid]:
    """TriviaQA: `answer` holds the canonical `value` and its `aliases`."""
    for place, row in rows:
        answer = field_of(row, "answer", place, _CHANGED)
        if not isinstance(answer, dict):
            raise ValueError(f"{place}: 'answer' holds {type(answer).__name__}: {_CHANGED}")
        value = _text(answer, "value", place)
        accepted = _published_texts([value, *answer["aliases"]], "aliases", place)
        identifier = str(field_of(row, "question_id", place, _CHANGED))
        yield Factoid(_text(row, "question", place), _answers(value, accepted), identifier)


def _question_and_answers(prefix: str) -> Callable[[Rows], Iterator[Factoid]]:
    """A reader of rows with a question and a list of answers, the first being canonical."""

    def read(rows: Rows) -> Iterator[Factoid]:
        for index, (place, row) in enumerate(rows):
            column = "answers" if "answers" in row else "answer"
            values = field_of(row, column, place, _CHANGED)
            answers = _published_texts(values, column, place)
            question = _text(row, "question", place)
            yield Factoid(question, _answers(answers[0], answers), f"{prefix}-{index}")

    return read


def _jeopardy(rows: Rows) -> Iterator[Factoid]:
    for place, row in rows:
        found = _CLUE.fullmatch(row["query"])
        assert found, f"{place} holds a query of another form: {row['query']!r}"
        identifier = f"jeopardy-{row['index']}"
        yield Factoid(found["clue"].strip(), _answers(row["answer"], []), identifier)


def _popqa(rows: Rows) -> Iterator[Factoid]:
    """PopQA: `possible_answers` is a list written as JSON; `obj` is the canonical one."""
    for place, row in rows:
        column = "possible_answers"
        listed = parsed(_text(row, column, place).encode(), f"{place}, column {column!r}")
        yield Factoid(
            question=_text(row, "question", place),
            answers=_answers(_text(row, "obj", place), _published_texts(listed, column, place)),
            identifier=f"popqa-{field_of(row, 'id', place, _CHANGED)}",
            subject=_text(row, "subj", place),
            relation=_text(row, "prop", place),
        )


def _lama(rows: Rows) -> Iterator[Factoid]:
    """LAMA: one factoid a statement, from rows that each give one sentence as evidence."""
    facts: dict[str, Factoid] = {}
    for place, row in rows:
        template, subject, answer, relation = (
            _text(row, column, place)
            for column in ("template", "sub_label", "obj_label", "predicate_id")
        )
        statement, object_place, rest = template.partition("[Y]")
        if not object_place or "[X]" not in statement or rest.strip(" ."):
            continue
        question = statement.replace("[X]", subject).strip()
        known = facts.get(question)
        if known is None:
            identifier = f"lama-{relation}-{subject}"
            facts[question] = Factoid(question, (answer,), identifier, subject, relation)
        elif answer not in known.answers:
            facts[question] = replace(known, answers=(*known.answers, answer))
    yield from facts.values()


def _named(
    name: str,
    read: Callable[[Rows], Iterator[Factoid]],
    template: PromptTemplate = QUESTION_ANSWER,
) -> NamedSet[Factoid]:
    def distinct(rows: Rows) -> Read[Factoid]:
        by_question: dict[str, Factoid] = {}
        identifiers: set[str] = set()
        for factoid in read(rows):
            if factoid.question not in by_question and factoid.identifier not in identifiers:
                by_question[factoid.question] = factoid
                identifiers.add(factoid.identifier)
        return list(by_question.values()), {"template": template}

    return NamedSet(files_of(name), distinct)


BUILT_IN_FACTOIDS = {
    "triviaqa": _named("triviaqa", _triviaqa),
    "nq-open": _named("nq-open", _question_and_answers("nq-open")),
    "jeopardy": _named("jeopardy", _jeopardy),
}
"""The sets of the assets, whose licences and places are in `probes.assets.table`."""
HUB_FACTOIDS = {
    "popqa": _named("popqa", _popqa),
    "lama": _named("lama", _lama, PLAIN),
    "triviaqa-train": _named("triviaqa-train", _triviaqa),
    **{
        name: _named(name, _question_and_answers(name))
        for name in ("entityquestions", "webquestions", "nq-open-train")
    },
}
