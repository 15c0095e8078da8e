"""Downstream results: metrics by hand, samples, and what is refused."""

from dataclasses import replace

import pytest
import torch

from probes.scoring import ChoiceScores
from training.data.downstream import Task, TaskMetric, TaskQuestion, load_task, task_names
from training.tasks import TaskResult, choice_rows, downstream_score


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
