"""Observers: records against what is computed by hand from the model."""

import json
from dataclasses import asdict

import pytest
import torch

import probes
from probes.scoring import PaddedMean
from tests.border_tokenizers import tiny_llama
from tests.models import tiny_hf_model, tiny_model, tokens
from tests.reference.official_probe_score import official_scores
from training.choices import Exposure, ProbeKind
from training.data.fact_world import ClozeItem, Wording
from training.data.passages import KnowledgeProbe, KnowledgeSet, Passage
from training.observers import (
    Cadence,
    ClozeObserver,
    EntropyObserver,
    HeldOutObserver,
    ItemsObserver,
    ProbeObserver,
    TaskObserver,
)
from training.runs.records import as_line, from_line
from training.tasks import Task, TaskMetric, TaskQuestion


def words(length, seed):
    return " ".join(f"w{int(i) - 3}" for i in tokens(1, length, seed=seed)[0])


def knowledge():
    """Seven passages of three probes each."""
    passages = []
    for index in range(7):
        probes = tuple(
            KnowledgeProbe(
                index,
                place,
                kind,
                words(2 + (3 * index + place) % 7, 10 * index + place),
                f"w{index}",
            )
            for place, kind in enumerate(ProbeKind)
        )
        passages.append(Passage(index, words(11, index), (), probes))
    return KnowledgeSet("seven", tuple(passages), "none", "made up")


def by_hand(hf_model, prompt, target):
    """Sum over the target's tokens, `w0` being the id 3."""
    before, after = ([int(word[1:]) + 3 for word in text.split()] for text in (prompt, target))
    with torch.no_grad():
        log_probs = hf_model(torch.tensor([before + after])).logits[0].double().log_softmax(-1)
    return sum(float(log_probs[len(before) - 1 + i, t]) for i, t in enumerate(after))


def always():
    return Cadence(every=1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [0]),
        ({"every": 4}, [0, 4, 8]),
        ({"every": 4, "first": False}, [4, 8]),
        ({"at": (0, 3), "first": False, "last": 9}, [0, 3, 9]),
        ({"at": (3,), "last": 9}, [0, 3, 9]),
    ],
)
def test_when_a_cadence_is_due(arguments, expected):
    cadence = Cadence(**arguments)
    assert [step for step in range(11) if cadence.due(step)] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every is 0: give a positive number of steps, or None"),
        ({"at": (2, -3)}, "step -3 was asked for: steps count from 0"),
        ({"last": -1}, "step -1 was asked for"),
    ],
)
def test_a_cadence_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Cadence(**arguments)


def test_probes_are_scored_in_the_order_of_their_list():
    model, known = tiny_model("olmo", torch.float64), knowledge()
    exposures = dict.fromkeys(range(7), Exposure.ONCE) | {2: Exposure.HELD_OUT}
    observer = ProbeObserver(known, always(), exposures=exposures, name="seven")
    assert isinstance(observer, ItemsObserver)
    rows = observer.items()["seven"]
    assert [row["exposure"] for row in rows[3:9]] == ["once"] * 3 + ["held_out"] * 3
    for _ in range(2):  # the second time from what was split into tokens before
        (record,) = observer.observe(model, 5)
        assert (record.step, record.items) == (5, "seven")
        expected = [by_hand(model.hf_model, row["prompt"], row["target"]) for row in rows]
        # float64; every target has one token.
        assert record.log_probs == pytest.approx(expected, abs=1e-12)


def test_the_padded_mean_goes_by_exposure_and_kind():
    """As the released code does, which evaluates each of these sets by itself."""
    model, known = tiny_model("olmo", torch.float64), knowledge()
    exposures = {i: Exposure.PARAPHRASE if i < 4 else Exposure.ONCE for i in range(7)}
    observer = ProbeObserver(
        known, always(), reduction=PaddedMean(batch_size=2, world_size=2), exposures=exposures
    )
    (record,) = observer.observe(model, 0)
    rows = observer.items()["knowledge"]
    for exposure in ("paraphrase", "once"):
        for kind in ("memorization", "semantic", "compositional"):
            places = [
                i for i, r in enumerate(rows) if (r["exposure"], r["kind"]) == (exposure, kind)
            ]
            ids = [
                [
                    [int(word[1:]) + 3 for word in rows[i][name].split()]
                    for name in ("prompt", "target")
                ]
                for i in places
            ]
            expected = official_scores(model.hf_model, ids, batch_size=2, world_size=2)
            found = [record.log_probs[i] for i in places]
            # float64, summed in another order.
            assert found == pytest.approx([expected[i] for i in range(len(places))], abs=1e-12)


def some_task():
    questions = tuple(
        TaskQuestion(
            f"made-{i}", tuple((words(9, i), f" {words(n, 10 * i + n)}") for n in (2, 5, 3)), i % 3
        )
        for i in range(5)
    )
    return Task("made", TaskMetric.LEN_NORM, questions, "none", "made up")


def test_a_task_gives_a_score_and_what_it_is_made_of():
    model, task = tiny_model("llama", torch.float64), some_task()
    observer = TaskObserver(task, always())
    scores, record = observer.observe(model, 3)
    expected = [[by_hand(model.hf_model, *choice) for choice in q.choices] for q in task.questions]
    # float64 throughout.
    assert scores.log_probs == pytest.approx([x for row in expected for x in row], abs=1e-12)
    per_character = [
        [x / (len(text) - 1) for x, (_, text) in zip(row, q.choices, strict=True)]
        for row, q in zip(expected, task.questions, strict=True)
    ]
    right = [
        row.index(max(row)) == q.label for row, q in zip(per_character, task.questions, strict=True)
    ]
    assert (record.task, record.metric, record.items) == ("made", "len_norm", "made")
    assert record.score == sum(right) / 5
    assert len(observer.items()["made"]) == len(scores.log_probs) == 15


def test_a_cloze_is_right_if_its_value_beats_all_alternatives():
    model = tiny_model("gpt2", torch.float64)
    items = [
        ClozeItem(
            words(6, i), f" w{i}", "s", "r", Wording.SEEN, tuple(f" w{j}" for j in (50 + i, 60))
        )
        for i in range(11)
    ]
    scores, record = ClozeObserver(items, always(), name="facts").observe(model, 2)
    expected = [
        [by_hand(model.hf_model, item.prompt, text) for text in (item.target, *item.alternatives)]
        for item in items
    ]
    # float64 throughout.
    assert scores.log_probs == pytest.approx([row[0] for row in expected], abs=1e-12)
    right = [row[0] > max(row[1:]) for row in expected]
    assert 0 < sum(right) < 11
    assert (record.task, record.metric, record.score) == ("facts", "acc", sum(right) / 11)


def test_a_tie_is_not_right():
    item = ClozeItem("w1 w2", " w3", "s", "r", Wording.SEEN, (" w3",))
    _, record = ClozeObserver([item], always()).observe(tiny_model("llama"), 0)
    assert record.score == 0


def test_held_out_loss_is_that_of_hugging_face():
    hf_model = tiny_hf_model("qwen3", torch.float64)
    ids = tokens(5, 13)
    batches = [{"input_ids": ids[:2]}, {"input_ids": ids[2:]}]
    (record,) = HeldOutObserver("held", batches, always()).observe(probes.load_model(hf_model), 7)
    with torch.no_grad():
        expected = float(hf_model(ids, labels=ids).loss)
    # Hugging Face's loss is rounded to float32.
    assert record.mean_loss == pytest.approx(expected, rel=1e-6)
    assert (record.step, record.corpus, record.tokens, record.bits_per_byte) == (
        7,
        "held",
        60,
        None,
    )


def test_entropies_are_those_of_the_command_and_dormant_neurons_are_counted(monkeypatch):
    monkeypatch.setattr("training.observers.DORMANT", 1.0)
    model = tiny_model("llama", torch.float64)
    batches = [{"input_ids": tokens(2, 11, seed=i)} for i in range(4)]
    expected = probes.measure_entropy(model, batches)
    *entropies, neurons = EntropyObserver(batches, always()).observe(model, 4)
    found = {record.kind: record for record in entropies}
    assert list(found) == ["knowledge", "contribution", "attention", "next_token"]
    for kind in ("knowledge", "attention"):
        measured = getattr(expected, kind)
        # The same pass again.
        assert found[kind].total == pytest.approx(measured.total, rel=1e-12)
        assert found[kind].per_layer == pytest.approx(measured.per_layer.tolist(), rel=1e-12)
        assert found[kind].interval == pytest.approx(list(measured.interval)[:2], rel=1e-12)
    assert found["next_token"].total == pytest.approx(expected.next_token.mean, rel=1e-12)
    share = []
    for layer in expected.mean_coefficients.tolist():
        mean = sum(layer) / len(layer)
        share.append(sum(value <= mean for value in layer) / len(layer))
    assert 0 < min(share) < max(share) < 1
    assert neurons.dormant_share == pytest.approx(share, abs=1e-15)
    assert neurons.threshold == 1.0


def found_by_a_process():
    observers = ProbeObserver(knowledge(), always()), TaskObserver(some_task(), always())
    model = tiny_model("llama")
    return [asdict(record) for o in observers for record in o.observe(model, 1)]


def test_two_processes_come_to_the_same_records(both_found):
    first, second = both_found[__name__]
    assert first == second
    alone = found_by_a_process()
    for one, two in zip(alone, first, strict=True):
        # float32; the same batches, run by someone else.
        assert one.pop("log_probs", []) == pytest.approx(two.pop("log_probs", []), rel=1e-5)
        assert one == two


def test_records_say_how_many_choices_were_split_apart_from_their_context():
    """The tokens of "co" and of "at" join to "coat", so they are split apart."""

    def asked(*items):
        model = tiny_llama("gpt2")
        return list(ClozeObserver(items, always()).observe(model, 5))[1]

    joined = ClozeItem("co", "at", "s", "r", Wording.SEEN, (" Paris",))
    whole = ClozeItem("The capital is", " Paris", "s", "r", Wording.SEEN, (" France",))
    assert (asked(joined).split_apart, asked(whole, joined, joined).split_apart) == (1, 2)
    assert from_line(as_line(asked(joined))) == asked(joined)
    # A line of a run without any is what earlier versions wrote.
    assert list(json.loads(as_line(asked(whole)))) == [
        *("record", "step", "task", "metric", "score", "items")
    ]
    assert from_line(as_line(asked(whole))).split_apart == 0
