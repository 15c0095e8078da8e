r"""Evaluation: the downstream score \(P\) of a model, task by task and question by question.

A question is answered by the choice that the task's metric ranks first (`acc`: the highest
log-probability; `len_norm`: the highest per character of the continuation, its leading space not
counted; of equal ones the first). A task's score is the share of right answers, and \(P\) the mean
over the six tasks, each counting the same whatever its number of questions.

Source: Kim et al., ICLR 2025, section 4.1; the evaluation of OLMo (`ai2-olmo-eval`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from probes.choices import Compat
from probes.hooked_model import HookedModel
from probes.scoring import ChoiceScores, EncodedQuestions, choice_scores, encode_questions
from probes.shown import Shown
from training.data.downstream import TASKS, Task, TaskMetric


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
        """Share of the questions that are answered right."""
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
