"""Downstream tasks by name: `load_task`.

A task is a list of multiple-choice questions and the metric that the papers score it by
(`training.datasets.downstream_sources`). With a `limit` it is a sample, since some sets come sorted
by where their questions are from; a smaller one is part of a larger one with the same seed.

Example:
    >>> load_task("sciq", limit=3).questions[0].label                           # doctest: +SKIP
    3
"""

import json
import random
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from probes.assets.table import nearest_names
from probes.corpus.sources import ContentHash
from training.datasets.downstream_sources import TASKS, TaskMetric, task_table


@dataclass(frozen=True)
class TaskQuestion:
    """One multiple-choice question.

    Attributes:
        identifier: what it is called; no two questions of all tasks share one.
        choices: pairs of context and continuation.
        label: the choice that is right.
    """

    identifier: str
    choices: tuple[tuple[str, str], ...]
    label: int


@dataclass(frozen=True)
class Task:
    """Questions in order, and where they are from.

    Attributes:
        name: as `load_task` takes it.
        metric: how the papers score it.
        questions: at least one.
        licence: the licence of the questions as far as known.
        source: where they come from.
    """

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
