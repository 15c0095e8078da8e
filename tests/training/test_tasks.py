"""Downstream tasks: metrics by hand, samples, and recorded results of ai2-olmo-eval's own code."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from probes.scoring import ChoiceScores
from training.tasks import (
    TASKS,
    Task,
    TaskMetric,
    TaskQuestion,
    TaskResult,
    choice_rows,
    downstream_score,
    encoded_task,
    evaluate_task,
    load_task,
    task_names,
    task_table,
)


def task_of(metric="acc", label=0):
    questions = (
        TaskQuestion("t-0", (("c", " ab"), ("c", " abcdefgh")), label),
        TaskQuestion("t-1", (("c", " abcd"), ("c", " ab"), ("c", " a")), label),
    )
    return Task("sciq", TaskMetric(metric), questions, "none", "made up")


def result_of(task):
    log_probs = (torch.tensor([-4.0, -8.0]), torch.tensor([-6.0, -2.0, -1.5]))
    return TaskResult(task, ChoiceScores(tuple(x.double() for x in log_probs), 0))


# Sums: -4 beats -8, -1.5 is best. Per character: -2 and -1, so the second; -1.5, -1 and -1.5.
@pytest.mark.parametrize(("metric", "answers"), [("acc", (0, 2)), ("len_norm", (1, 1))])
@pytest.mark.parametrize("label", [0, 1])
def test_metrics_by_hand(metric, answers, label):
    found = result_of(task_of(metric, label))
    assert found.correct.tolist() == [answer == label for answer in answers]
    assert found.score == sum(answer == label for answer in answers) / 2


def test_rows_say_what_a_choice_is():
    rows = choice_rows(task_of(label=1))
    assert rows[3] == {"question": "t-1", "choice": 1, "right": True, "characters": 2}
    assert [row["characters"] for row in rows] == [2, 8, 4, 2, 1]


def test_p_is_the_mean_of_six_tasks_and_of_nothing_else():
    results = [
        result_of(replace(task_of("acc", label), name=name))
        for name, label in zip(task_names(), (0, 0, 0, 1, 2, 2), strict=True)
    ]
    # Answers 0 and 2: half right where the label is 0 or 2.
    assert downstream_score(results) == pytest.approx((3 * 0.5 + 0 + 2 * 0.5) / 6)
    with pytest.raises(ValueError, match=r"P is the mean of piqa, .*; found arc_easy, hellaswag"):
        downstream_score(results[:2] + results[5:])
    with pytest.raises(ValueError, match="found no results"):
        downstream_score([])


def test_a_smaller_sample_is_part_of_a_larger_one():
    try:
        few, more = load_task("arc_easy", 7), load_task("arc_easy", 23)
    except ValueError as error:
        pytest.skip(f"the evaluation data cannot be fetched here: {error}")
    assert set(few.questions) < set(more.questions)
    places = [int(question.identifier.split("-")[1]) for question in more.questions]
    assert places == sorted(set(places))
    assert load_task("arc_easy", 7, seed=1).questions != few.questions
    assert load_task("arc_easy", 10**6).questions == load_task("arc_easy").questions
    assert few.content_hash != more.content_hash
    assert more.configuration["questions"] == 23


@pytest.mark.parametrize(
    ("name", "limit", "message"),
    [
        ("arc", None, r"no downstream task 'arc': did you mean arc_easy"),
        ("mmlu", None, r"no downstream task 'mmlu'"),
        ("piqa", 0, r"limit is 0: give a positive number, or leave it out for all"),
    ],
)
def test_what_there_is_not_is_refused(name, limit, message):
    with pytest.raises(ValueError, match=message):
        load_task(name, limit)


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
