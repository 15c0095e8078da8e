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

Example:
    >>> from probes.assets import fetch
    >>> next(SOURCES["nq-open"](fetch("nq-open"))).question              # doctest: +SKIP
    'when was the last time anyone was on the moon'
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from training.datasets.factoid_prompts import Factoid

_CLUE = re.compile(r"Category: [^\n]*\nQuestion: (?P<clue>.*)\nAnswer:", re.DOTALL)


def source_factoids(name: str) -> list[Factoid]:
    """The factoids of a built-in set, fetched if need be, in the order of the source.

    Raises:
        ValueError: they cannot be had (`probes.assets.AssetError`).
    """
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
