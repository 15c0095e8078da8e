r"""The factoid sets of the Hugging Face hub, and how each is read.

| name              | rows      | what they are                                                   |
|-------------------|-----------|-----------------------------------------------------------------|
| `popqa`           | 14,267    | about rare entities, 16 relations; subject and relation named   |
| `lama`            | 1,304,391 | T-REx part: some 34,000 facts of 41 relations, as statements    |
| `entityquestions` | 22,000    | about entities, 24 relations; test split                        |
| `webquestions`    | 5,810     | typed into a search engine; training and test split             |
| `triviaqa-train`  | 138,384   | quiz questions, several rows to each; training split            |
| `nq-open-train`   | 87,925    | typed into a search engine; training split                      |

The numbers are those that others report. A question that occurs twice is kept once. The split of a
set matters little where it is learned by heart and asked again, so `webquestions` takes both: two
sets of 2,000 need more than its training split. None of the addresses could be tried: they are
marked unverified (`training.datasets.hub_files`).

LAMA states facts by templates with [X] for the subject and [Y] for the object. A model that reads
from left to right can be asked where [Y] comes last; relations whose templates go on after it
("[X] plays [Y] music") are left out. A statement up to [Y] can come from several rows, each with
its sentence as evidence, and from several relations, as templates are shared; all its objects are
accepted, the first being canonical.

Source: Mallen et al. 2023 (PopQA); Petroni et al. 2019 (LAMA), of T-REx, Elsahar et al. 2018;
Sciavolino et al. 2021 (EntityQuestions); Berant et al. 2013 (WebQuestions); Joshi et al. 2017
(TriviaQA); Kwiatkowski et al. 2019 and Lee et al. 2019 (Natural Questions, open).

Example:
    >>> row = {"sub_label": "Paris", "obj_label": "France", "predicate_id": "P17",
    ...        "template": "[X] is located in [Y] ."}
    >>> next(read_lama([("row 1", row)])).question
    'Paris is located in'
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from training.datasets.factoid_prompts import PLAIN, QUESTION_ANSWER, Factoid, PromptTemplate
from training.datasets.factoid_sources import answers_of
from training.datasets.hub_files import HubSet
from training.datasets.row_files import Row, parsed, text_of

Rows = Iterable[tuple[str, Row]]
CHANGED = "the data set has changed, name the revision that has it"


@dataclass(frozen=True)
class HubFactoids:
    """One set.

    Attributes:
        hub: where its files are.
        read: from rows with their places to factoids.
        template: the prompt template that suits them.
    """

    hub: HubSet
    read: Callable[[Rows], Iterator[Factoid]]
    template: PromptTemplate = QUESTION_ANSWER


def read_popqa(rows: Rows) -> Iterator[Factoid]:
    """PopQA: `possible_answers` is a list written as JSON; `obj` is the canonical one."""
    for place, row in rows:
        accepted = _json_list(row, "possible_answers", place)
        yield Factoid(
            question=text_of(_field(row, "question", place), "question", place),
            answers=answers_of(text_of(_field(row, "obj", place), "obj", place), accepted),
            identifier=f"popqa-{_field(row, 'id', place)}",
            subject=text_of(_field(row, "subj", place), "subj", place),
            relation=text_of(_field(row, "prop", place), "prop", place),
        )


def read_lama(rows: Rows) -> Iterator[Factoid]:
    """LAMA: one factoid a statement, from rows that each give one sentence as evidence."""
    facts: dict[str, Factoid] = {}
    for place, row in rows:
        columns = ("template", "sub_label", "obj_label", "predicate_id")
        template, subject, answer, relation = (
            text_of(_field(row, column, place), column, place) for column in columns
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


def read_question_and_answers(prefix: str) -> Callable[[Rows], Iterator[Factoid]]:
    """A reader of rows with a question and a list of answers, the first being canonical.

    Args:
        prefix: of the identifiers, which go on with the number of the row from 0.
    """

    def read(rows: Rows) -> Iterator[Factoid]:
        for index, (place, row) in enumerate(rows):
            column = "answers" if "answers" in row else "answer"
            answers = _texts(_field(row, column, place), column, place)
            question = text_of(_field(row, "question", place), "question", place)
            yield Factoid(question, answers_of(answers[0], answers), f"{prefix}-{index}")

    return read


def read_triviaqa_rows(rows: Rows) -> Iterator[Factoid]:
    """TriviaQA: `answer` holds the canonical `value` and its `aliases`."""
    for place, row in rows:
        answer = _field(row, "answer", place)
        if not isinstance(answer, dict):
            raise ValueError(f"{place}: 'answer' holds {type(answer).__name__}: {CHANGED}")
        value = text_of(_field(answer, "value", place), "value", place)
        yield Factoid(
            question=text_of(_field(row, "question", place), "question", place),
            answers=answers_of(value, _texts([value, *answer["aliases"]], "aliases", place)),
            identifier=str(_field(row, "question_id", place)),
        )


def _field(row: Row, column: str, place: str) -> Any:
    if row.get(column) is None:
        found = ", ".join(map(repr, row)) or "nothing"
        raise ValueError(f"{place}: no {column!r}; found {found}: {CHANGED}")
    return row[column]


def _json_list(row: Row, column: str, place: str) -> list[str]:
    text = text_of(_field(row, column, place), column, place)
    return _texts(parsed(text.encode(), f"{place}, column {column!r}"), column, place)


def _texts(values: Any, column: str, place: str) -> list[str]:
    """The texts of a list but for blank ones, of which large sets have a few."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{place}: {column!r} holds no list of texts: {CHANGED}")
    kept = [text_of(value, column, place) for value in values if value.strip()]
    if not kept:
        raise ValueError(f"{place}: {column!r} holds no answer: {CHANGED}")
    return kept


HUB_FACTOIDS: dict[str, HubFactoids] = {
    "popqa": HubFactoids(
        HubSet(
            "akariasai/PopQA",
            "098765c79ea10a2cb19c828324e33281b8336ec0",
            ("test.tsv",),
            "see source",
        ),
        read_popqa,
    ),
    "lama": HubFactoids(
        HubSet("facebook/lama", "refs/convert/parquet", ("trex/train/*.parquet",), "CC-BY-NC-4.0"),
        read_lama,
        PLAIN,
    ),
    "entityquestions": HubFactoids(
        HubSet("dwaraknath/entityquestions", "refs/convert/parquet", ("*/test/*.parquet",), "MIT"),
        read_question_and_answers("entityquestions"),
    ),
    "webquestions": HubFactoids(
        HubSet(
            "stanfordnlp/web_questions",
            "0e473cbe21d1e91ec18da343644498be6a3f5454",
            ("data/train-*.parquet", "data/test-*.parquet"),
            "see source",
        ),
        read_question_and_answers("webquestions"),
    ),
    "triviaqa-train": HubFactoids(
        HubSet(
            "mandarjoshi/trivia_qa",
            "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
            ("rc.nocontext/train-*.parquet",),
            "see source",
        ),
        read_triviaqa_rows,
    ),
    "nq-open-train": HubFactoids(
        HubSet(
            "google-research-datasets/nq_open",
            "5dd9790a83002ad084ddeb7c420dc716852c6f28",
            ("nq_open/train-*.parquet",),
            "CC-BY-SA-3.0",
        ),
        read_question_and_answers("nq-open-train"),
    ),
}
