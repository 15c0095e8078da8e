r"""Factoid sets by name or from a file: `load_factoids`.

| name       | questions | what they are                                                         |
|------------|-----------|-----------------------------------------------------------------------|
| `kvr`      | any       | key-value recall (`training.data.factoids`)                           |
| `triviaqa` | 7,993     | quiz questions, validation split; a quarter of the answers in capitals |
| `nq-open`  | 3,610     | questions typed into a search engine, validation split, lower case    |
| `jeopardy` | 2,108     | clues of a quiz show; answers without "What is"                       |

Beside these there are the sets of the Hugging Face hub (`HUB_FACTOIDS`), which need a network once,
and files: `.jsonl`, `.json`, `.csv` or `.parquet`. A question that occurs twice is kept once.

Items come in an order drawn by `seed`, so that the first of them are a fair sample of the set and a
smaller `limit` gives the first items of a larger one; `seed=None` keeps the order of the source.
`offset` leaves out as many before, which makes a second set of the same kind.

Source: Joshi et al. 2017 (TriviaQA); Kwiatkowski et al. 2019 and Lee et al. 2019 (Natural
Questions, open); the Jeopardy set of MosaicML's evaluation gauntlet.

Example:
    >>> first = load_factoids("kvr", limit=3, seed=1)
    >>> second = load_factoids("kvr", limit=3, offset=3, seed=1)
    >>> len({factoid.subject for factoid in [*first, *second]})
    6
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probes.assets.table import find_asset
from probes.corpus.sources import NO_LICENCE
from training.data.factoids import (
    PLAIN,
    QUESTION_ANSWER,
    Factoid,
    FactoidSet,
    KeyValues,
    PromptTemplate,
    key_value_factoids,
)
from training.data.files import (
    HubSet,
    Row,
    Rows,
    arrow_rows,
    field_of,
    parsed,
    read_rows,
    request_rows,
    text_of,
)
from training.data.items import check_numbers, chosen, not_found, refuse_revision

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
KEY_VALUE_RECALL = "kvr"
DEFAULT_KEY_VALUES = 2000
"""Pairs of key-value recall where no limit is given: the paper's number."""
CHANGED = "the data set has changed, name the revision that has it"
_CLUE = re.compile(r"Category: [^\n]*\nQuestion: (?P<clue>.*)\nAnswer:", re.DOTALL)


def factoid_names() -> list[str]:
    """The names that `load_factoids` knows."""
    return [KEY_VALUE_RECALL, *SOURCES, *HUB_FACTOIDS]


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
    name, known = str(source), None if isinstance(source, Path) else str(source)
    check_numbers(limit, offset)
    if known == KEY_VALUE_RECALL and seed is None:
        raise ValueError(f"{name} is generated and has no order of its own: give a seed")
    if known != KEY_VALUE_RECALL and key_values is not None:
        raise ValueError(
            f"key_values was given, but {name} is not {KEY_VALUE_RECALL}: leave it out"
        )
    refuse_revision(name, revision, known in HUB_FACTOIDS)
    if known == KEY_VALUE_RECALL:
        assert seed is not None
        return _key_values(key_values or KeyValues(), limit or DEFAULT_KEY_VALUES, offset, seed)
    if known in SOURCES:
        whole = _built_in(name)
    elif known in HUB_FACTOIDS:
        whole = _from_hub(name, revision)
    else:
        whole = _from_file(name)
    items = chosen(name, whole.factoids, limit=limit, offset=offset, seed=seed)
    return replace(whole, factoids=items)


def _key_values(form: KeyValues, count: int, offset: int, seed: int) -> FactoidSet:
    pairs = key_value_factoids(offset + count, form, seed)[offset:]
    made = f"generated: {form.charset}, length {form.length}, seed {seed}, offset {offset}"
    return FactoidSet(KEY_VALUE_RECALL, "none needed (generated)", made, tuple(pairs), PLAIN)


def _built_in(name: str) -> FactoidSet:
    from probes.assets import fetch

    asset = find_asset(name)
    items = _distinct(SOURCES[name](fetch(name)))
    return FactoidSet(name, asset.licence, asset.sources[0].url, items)


def _from_hub(name: str, revision: str | None) -> FactoidSet:
    hub_set = HUB_FACTOIDS[name]
    rows, source = hub_set.hub.read(revision)
    items = _distinct(hub_set.read(rows))
    return FactoidSet(name, hub_set.hub.licence, source, items, hub_set.template)


def _from_file(name: str) -> FactoidSet:
    path = Path(name).expanduser()
    if not path.exists():
        raise ValueError(
            not_found(name, "factoid file", f"factoid set {name!r}", factoid_names(), SUFFIXES)
        )
    if path.suffix not in SUFFIXES or path.is_dir():
        raise ValueError(f"{path} is no factoid file: give {', '.join(SUFFIXES)}")
    factoids: list[Factoid] = []
    places: dict[str, str] = {}
    asked = ""
    for place, row in read_rows(path, list_columns=("answers", "aliases")):
        column, factoid = _factoid(row, place, default_id=f"{path.name}-{len(factoids)}")
        asked = asked or column
        if column != asked:
            raise ValueError(f"{place}: has {column!r} after items with {asked!r}: use one of them")
        if factoid.identifier in places:
            raise ValueError(
                f"{place}: identifier {factoid.identifier!r} is that of "
                f"{places[factoid.identifier]}: give each item its own"
            )
        places[factoid.identifier] = place
        factoids.append(factoid)
    if not factoids:
        raise ValueError(f"{path} holds no factoid: give items with a question and an answer")
    template = PLAIN if asked == "prompt" else QUESTION_ANSWER
    return FactoidSet(name, NO_LICENCE, name, tuple(factoids), template)


def _factoid(row: Row, place: str, default_id: str) -> tuple[str, Factoid]:
    """The factoid of a row of a file, and the name of the column with its question."""
    question = _only_one(row, ("question", "prompt"), place)
    if question is None:
        raise ValueError(f"{place}: {_lacks('question or prompt', row)}")
    canonical = _only_one(row, ("answer", "target", "object"), place)
    accepted_in = _only_one(row, ("answers", "aliases"), place)
    accepted = _own_texts(row[accepted_in], accepted_in, place) if accepted_in else []
    if canonical is None and not accepted:
        raise ValueError(f"{place}: {_lacks('answer, target or answers', row)}")
    identifier = _only_one(row, ("id", "identifier"), place)

    def optional(column: str) -> str | None:
        return text_of(row[column], column, place) if _has(row, column) else None

    factoid = Factoid(
        question=text_of(row[question], question, place),
        answers=_answers(
            text_of(row[canonical], canonical, place) if canonical else accepted[0], accepted
        ),
        identifier=str(row[identifier]).strip() if identifier else default_id,
        subject=optional("subject"),
        relation=optional("relation"),
    )
    return question, factoid


def _has(row: Row, column: str) -> bool:
    value = row.get(column)
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [])


def _only_one(row: Row, columns: Sequence[str], place: str) -> str | None:
    """The one of some columns that a row fills, None where it fills none."""
    filled = [column for column in columns if _has(row, column)]
    if len(filled) > 1:
        raise ValueError(f"{place}: has {' and '.join(map(repr, filled))}: keep one of them")
    return filled[0] if filled else None


def _lacks(wanted: str, row: Row) -> str:
    found = ", ".join(repr(column) for column in row if _has(row, column)) or "nothing"
    return f"no {wanted}; found {found}: add it"


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
        raise ValueError(f"{place}: {column!r} holds no list of texts: {CHANGED}")
    kept = [text_of(value, column, place) for value in values if value.strip()]
    if not kept:
        raise ValueError(f"{place}: {column!r} holds no answer: {CHANGED}")
    return kept


def _answers(canonical: str, accepted: Iterable[str]) -> tuple[str, ...]:
    """The canonical answer and then the others, each stripped, without repetitions."""
    return tuple(dict.fromkeys(answer.strip() for answer in (canonical, *accepted)))


def _distinct(factoids: Iterable[Factoid]) -> tuple[Factoid, ...]:
    """Factoids in order, each question and each identifier once."""
    by_question: dict[str, Factoid] = {}
    identifiers: set[str] = set()
    for factoid in factoids:
        if factoid.question not in by_question and factoid.identifier not in identifiers:
            by_question[factoid.question] = factoid
            identifiers.add(factoid.identifier)
    return tuple(by_question.values())


def _triviaqa(path: Path) -> Iterator[Factoid]:
    for row in arrow_rows(path, ["question", "question_id", "answer"]):
        answers = _answers(row["answer"]["value"], row["answer"]["aliases"])
        yield Factoid(row["question"].strip(), answers, row["question_id"])


def _nq_open(path: Path) -> Iterator[Factoid]:
    for index, row in enumerate(arrow_rows(path, ["question", "answer"])):
        answers = _answers(row["answer"][0], row["answer"][1:])
        yield Factoid(row["question"].strip(), answers, f"nq-open-{index}")


def _jeopardy(path: Path) -> Iterator[Factoid]:
    for _, doc in request_rows(path):
        found = _CLUE.fullmatch(doc["query"])
        assert found, f"{path.name} holds a query of another form: {doc['query']!r}"
        yield Factoid(
            found["clue"].strip(), _answers(doc["answer"], []), f"jeopardy-{doc['index']}"
        )


SOURCES: dict[str, Callable[[Path], Iterator[Factoid]]] = {
    "triviaqa": _triviaqa,
    "nq-open": _nq_open,
    "jeopardy": _jeopardy,
}
"""The sets of the assets, whose names, licences and places are in `probes.assets.table`."""


def _text(row: Row, column: str, place: str) -> str:
    return text_of(field_of(row, column, place, CHANGED), column, place)


def _popqa(rows: Rows) -> Iterator[Factoid]:
    """PopQA: `possible_answers` is a list written as JSON; `obj` is the canonical one."""
    for place, row in rows:
        column = "possible_answers"
        listed = parsed(_text(row, column, place).encode(), f"{place}, column {column!r}")
        yield Factoid(
            question=_text(row, "question", place),
            answers=_answers(_text(row, "obj", place), _published_texts(listed, column, place)),
            identifier=f"popqa-{field_of(row, 'id', place, CHANGED)}",
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


def _question_and_answers(prefix: str) -> Callable[[Rows], Iterator[Factoid]]:
    """A reader of rows with a question and a list of answers, the first being canonical."""

    def read(rows: Rows) -> Iterator[Factoid]:
        for index, (place, row) in enumerate(rows):
            column = "answers" if "answers" in row else "answer"
            values = field_of(row, column, place, CHANGED)
            answers = _published_texts(values, column, place)
            question = _text(row, "question", place)
            yield Factoid(question, _answers(answers[0], answers), f"{prefix}-{index}")

    return read


def _triviaqa_rows(rows: Rows) -> Iterator[Factoid]:
    """TriviaQA: `answer` holds the canonical `value` and its `aliases`."""
    for place, row in rows:
        answer = field_of(row, "answer", place, CHANGED)
        if not isinstance(answer, dict):
            raise ValueError(f"{place}: 'answer' holds {type(answer).__name__}: {CHANGED}")
        value = _text(answer, "value", place)
        yield Factoid(
            question=_text(row, "question", place),
            answers=_answers(
                value, _published_texts([value, *answer["aliases"]], "aliases", place)
            ),
            identifier=str(field_of(row, "question_id", place, CHANGED)),
        )


@dataclass(frozen=True)
class HubFactoids:
    """Where a set of the hub is, how its rows become factoids, and how they are asked."""

    hub: HubSet
    read: Callable[[Rows], Iterator[Factoid]]
    template: PromptTemplate = QUESTION_ANSWER


def _hub(dataset: str, revision: str, files: tuple[str, ...], licence: str, **more: Any) -> Any:
    return HubFactoids(HubSet(dataset, revision, files, licence), **more)


HUB_FACTOIDS: dict[str, HubFactoids] = {
    "popqa": _hub(
        "akariasai/PopQA",
        "098765c79ea10a2cb19c828324e33281b8336ec0",
        ("test.tsv",),
        "see source",
        read=_popqa,
    ),
    "lama": _hub(
        "facebook/lama",
        "refs/convert/parquet",
        ("trex/train/*.parquet",),
        "CC-BY-NC-4.0",
        read=_lama,
        template=PLAIN,
    ),
    "entityquestions": _hub(
        "dwaraknath/entityquestions",
        "refs/convert/parquet",
        ("*/test/*.parquet",),
        "MIT",
        read=_question_and_answers("entityquestions"),
    ),
    "webquestions": _hub(
        "stanfordnlp/web_questions",
        "0e473cbe21d1e91ec18da343644498be6a3f5454",
        ("data/train-*.parquet", "data/test-*.parquet"),
        "see source",
        read=_question_and_answers("webquestions"),
    ),
    "triviaqa-train": _hub(
        "mandarjoshi/trivia_qa",
        "0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
        ("rc.nocontext/train-*.parquet",),
        "see source",
        read=_triviaqa_rows,
    ),
    "nq-open-train": _hub(
        "google-research-datasets/nq_open",
        "5dd9790a83002ad084ddeb7c420dc716852c6f28",
        ("nq_open/train-*.parquet",),
        "CC-BY-SA-3.0",
        read=_question_and_answers("nq-open-train"),
    ),
}
