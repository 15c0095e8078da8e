"""The factoid sets that come with the assets, and how each is read.

| name       | questions | what they are                                                         |
|------------|-----------|-----------------------------------------------------------------------|
| `triviaqa` | 7,993     | quiz questions, validation split; a quarter of the answers in capitals |
| `nq-open`  | 3,610     | questions typed into a search engine, validation split, lower case    |
| `jeopardy` | 2,108     | clues of a quiz show; answers without "What is"                       |

None of them marks the subject of its questions. The order is the source's; a question that occurs
twice is kept once. Names, licences and places are in `probes.assets.table`.

Source: Joshi et al. 2017 (TriviaQA); Kwiatkowski et al. 2019 and Lee et al. 2019 (Natural
Questions, open); the Jeopardy set of MosaicML's evaluation gauntlet.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.data.factoid_prompts import PLAIN, QUESTION_ANSWER, Factoid, PromptTemplate
from training.data.files import HubSet, Row, parsed, text_of

_CLUE = re.compile(r"Category: [^\n]*\nQuestion: (?P<clue>.*)\nAnswer:", re.DOTALL)


def source_factoids(name: str) -> list[Factoid]:
    """The factoids of a built-in set, fetched if need be, in the order of the source."""
    from probes.assets import fetch

    return distinct(SOURCES[name](fetch(name)))


def distinct(factoids: Iterable[Factoid]) -> list[Factoid]:
    """Factoids in order, each question and each identifier once."""
    by_question: dict[str, Factoid] = {}
    identifiers: set[str] = set()
    for factoid in factoids:
        if factoid.question not in by_question and factoid.identifier not in identifiers:
            by_question[factoid.question] = factoid
            identifiers.add(factoid.identifier)
    return list(by_question.values())


def answers_of(canonical: str, accepted: list[str]) -> tuple[str, ...]:
    """The canonical answer and then the others, each stripped, without repetitions."""
    return tuple(dict.fromkeys(answer.strip() for answer in (canonical, *accepted)))


def read_triviaqa(path: Path) -> Iterator[Factoid]:
    """TriviaQA from the Arrow file of its validation split."""
    for row in _arrow_rows(path, ["question", "question_id", "answer"]):
        answers = answers_of(row["answer"]["value"], row["answer"]["aliases"])
        yield Factoid(row["question"].strip(), answers, row["question_id"])


def read_nq_open(path: Path) -> Iterator[Factoid]:
    """Natural Questions (open) from the Arrow file of its validation split."""
    for index, row in enumerate(_arrow_rows(path, ["question", "answer"])):
        answers = answers_of(row["answer"][0], row["answer"][1:])
        yield Factoid(row["question"].strip(), answers, f"nq-open-{index}")


def read_jeopardy(path: Path) -> Iterator[Factoid]:
    """Jeopardy clues from a file of evaluation requests."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            doc = json.loads(line)["doc"]
            found = _CLUE.fullmatch(doc["query"])
            assert found, f"{path.name} holds a query of another form: {doc['query']!r}"
            clue, answers = found["clue"].strip(), answers_of(doc["answer"], [])
            yield Factoid(clue, answers, f"jeopardy-{doc['index']}")


def _arrow_rows(path: Path, columns: list[str]) -> list[dict[str, Any]]:
    """The rows of an Arrow stream, as `datasets` saves them."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        return pyarrow.ipc.open_stream(file).read_all().select(columns).to_pylist()


SOURCES: dict[str, Callable[[Path], Iterator[Factoid]]] = {
    "triviaqa": read_triviaqa,
    "nq-open": read_nq_open,
    "jeopardy": read_jeopardy,
}


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
    """A reader of rows with a question and a list of answers, the first being canonical."""

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
