r"""Factoids from files: which columns are read, and what is refused.

| column                       | holds                                                          |
|------------------------------|----------------------------------------------------------------|
| `question` or `prompt`       | a question, or a text to be continued; one of the two          |
| `answer`, `target`, `object` | the canonical answer; at most one of the three                 |
| `answers` or `aliases`       | list of what is accepted; its first is canonical if none is    |
| `subject`, `relation`        | optional                                                       |
| `id` or `identifier`         | optional; else the name of the file and the number of the item |

Other columns are ignored; white space around texts is taken off. A `prompt` is put to the model as
it is, a `question` between "Question:" and "Answer:" (`training.datasets.factoid_prompts`).

Files are `.jsonl` (an object a line; blank lines are skipped), `.json` (a list of objects), `.csv`
(with a header; lists written as JSON) and `.parquet`, all in UTF-8.

Example:
    >>> from pathlib import Path
    >>> _ = Path("one.jsonl").write_text('{"prompt": "The capital of France is", '
    ...                                  '"target": "Paris"}\n')        # doctest: +SKIP
    >>> factoids, template = read_factoids(Path("one.jsonl"))           # doctest: +SKIP
    >>> factoids[0].object                                              # doctest: +SKIP
    'Paris'
"""

from collections.abc import Sequence
from pathlib import Path

from training.datasets.factoid_prompts import PLAIN, QUESTION_ANSWER, Factoid, PromptTemplate
from training.datasets.factoid_sources import answers_of
from training.datasets.row_files import Row, read_rows, text_of

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
QUESTION_COLUMNS = ("question", "prompt")
CANONICAL_COLUMNS = ("answer", "target", "object")
ACCEPTED_COLUMNS = ("answers", "aliases")
IDENTIFIER_COLUMNS = ("id", "identifier")


def read_factoids(path: Path) -> tuple[list[Factoid], PromptTemplate]:
    """The factoids of a file in its order, and the template that suits them.

    Raises:
        ValueError: the file is of another kind, or an item in it cannot be read; the line (or
            the number of the item) is named.
    """
    if path.suffix not in SUFFIXES or path.is_dir():
        raise ValueError(f"{path} is no factoid file: give {', '.join(SUFFIXES)}")
    factoids: list[Factoid] = []
    places: dict[str, str] = {}
    asked = ""
    for place, row in read_rows(path, list_columns=ACCEPTED_COLUMNS):
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
    return factoids, PLAIN if asked == "prompt" else QUESTION_ANSWER


def _factoid(row: Row, place: str, default_id: str) -> tuple[str, Factoid]:
    """The factoid of a row, and the name of the column with its question."""
    question = _only_one(row, QUESTION_COLUMNS, place)
    if question is None:
        raise ValueError(f"{place}: {_lacks('question or prompt', row)}")
    canonical = _only_one(row, CANONICAL_COLUMNS, place)
    accepted_in = _only_one(row, ACCEPTED_COLUMNS, place)
    accepted = _texts(row, accepted_in, place) if accepted_in else []
    if canonical is None and not accepted:
        raise ValueError(f"{place}: {_lacks('answer, target or answers', row)}")
    identifier = _only_one(row, IDENTIFIER_COLUMNS, place)
    factoid = Factoid(
        question=text_of(row[question], question, place),
        answers=answers_of(
            text_of(row[canonical], canonical, place) if canonical else accepted[0], accepted
        ),
        identifier=str(row[identifier]).strip() if identifier else default_id,
        subject=text_of(row["subject"], "subject", place) if _has(row, "subject") else None,
        relation=text_of(row["relation"], "relation", place) if _has(row, "relation") else None,
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


def _texts(row: Row, column: str, place: str) -> list[str]:
    values = row[column]
    is_list = isinstance(values, list)
    if not is_list or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(
            f"{place}: {column!r} must be a list of texts, none of them empty; for a single answer "
            f"use 'answer'"
        )
    return [text_of(value, column, place) for value in values]


def _lacks(wanted: str, row: Row) -> str:
    found = ", ".join(repr(column) for column in row if _has(row, column)) or "nothing"
    return f"no {wanted}; found {found}: add it"
