"""Data, observers, callbacks and trackers of one's own, given to the loop."""

import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from datasets import Dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import training
from tests.models import tokens
from tests.refusals import refused
from tests.training.loop_runs import losses_of, model_of, run, settings_of
from training import progress as tracking
from training.batches import IGNORED, as_source
from training.runs.records import (
    EntropyRecord,
    InjectionRecord,
    RecallRecord,
    Record,
    StepRecord,
    StopRecord,
    TaskRecord,
    as_line,
    from_line,
    read_records,
)

ROWS = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14], [15, 16, 17, 18]]


def reference_loss(model, rows):
    """Mean loss over trained tokens, row by row, without padding."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        labels = torch.tensor([row.get("labels", row["input_ids"])])
        trained = int((labels[0, 1:] != IGNORED).sum())
        if trained:
            total += trained * float(model.hf_model(ids, labels=labels).loss.detach())
            count += trained
    return total / count


def as_dataset():
    labels = [row if place else [IGNORED, *row[1:-1], IGNORED] for place, row in enumerate(ROWS)]
    rows = [{"input_ids": r, "labels": of} for r, of in zip(ROWS, labels, strict=True)]
    return Dataset.from_list([{**row, "other": "left alone"} for row in rows])


@pytest.mark.parametrize(
    "data", [as_dataset(), ROWS, iter(ROWS), lambda step: ROWS, lambda step: tokens(4, 7)]
)
def test_rows_of_any_kind_are_trained_on_as_one_by_one(data, tmp_path):
    plain = [{"input_ids": row} for row in ROWS]
    if isinstance(data, Dataset):
        plain = list(data)
    elif callable(data) and not isinstance(data(0), list):
        plain = [{"input_ids": row} for row in data(0).tolist()]
    expected = reference_loss(model_of(), plain)
    settings, folder = settings_of(steps=1), tmp_path / "run"
    training.train(model_of(), data, settings, folder, progress=False)
    # Float32 sums in another order.
    assert losses_of(folder) == pytest.approx([expected], rel=1e-5)


def test_rows_are_gone_through_as_often_as_needed_and_known_again(tmp_path):
    settings = settings_of(steps=3, batch_size=2)
    source = as_source(ROWS, settings)
    first = {tuple(row.tolist()) for step in (0, 1) for row in source.batch(step).input_ids}
    assert len(first) == 4
    source.batch(2)
    folder = tmp_path / "run"
    training.train(model_of(), ROWS, settings, folder, progress=False)
    again = training.train(model_of(), ROWS, settings, folder, progress=False, resume=True)
    assert again.finished
    with refused("another inputs.data.sha256"):
        training.train(model_of(), ROWS[::-1], settings, folder, progress=False, resume=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("texts.jsonl", "give rows of token ids, a function"),
        (["a text"], r"row 0 is the string 'a text', where token ids are wanted.*corpus_source"),
        ([{"text": "words"}], "row 0 is a mapping of text, where token ids are wanted"),
        ([[5, 6], [0.5, 0.25]], "row 1 holds a list of 2; give one list of token ids"),
        ([[[5], [6, 7]]], "row 0 holds"),
        ([{"input_ids": [5, 6], "labels": [5]}] * 4, "2 ids, 1 labels and a mask of 2"),
        ([], "there are no rows"),
        ([[5, 6]], "1 rows do not fill one batch of 4"),
        (lambda step: "no", "the data for step 0 are the string 'no'"),
        (lambda step: [[5, 6]], "batches of 1 rows, and the settings say batch_size=4"),
        (3, "train: source is the number 3"),
    ],
)
def test_what_is_no_data_is_refused_in_a_line(data, message, tmp_path):
    with refused(message):
        training.train(model_of(), data, settings_of(steps=2), tmp_path / "run", progress=False)


@dataclass(frozen=True)
class Spread(Record):
    """A record of one's own."""

    record: ClassVar[str] = "spread"
    where: str
    values: list[float]


class Both:
    """An observer that also hears of every update."""

    def __init__(self):
        self.heard = []

    def due(self, step):
        return step in (0, 2)

    def observe(self, model, step):
        return [Spread(step, "here", [1.0, step])]

    def note(self, record):
        self.heard.append(record)


def test_callbacks_and_observers_hear_of_every_record(tmp_path):
    observer, called = Both(), []
    settings = settings_of(steps=3)
    run(tmp_path / "a", settings=settings, observers=[observer], callbacks=[called.append])
    written = list(read_records(tmp_path / "a"))
    assert observer.heard == called == written
    assert [type(one) for one in written] == [Spread, StepRecord, StepRecord, Spread, StepRecord]


def test_a_record_of_ones_own_has_a_name_of_its_own():
    one = Spread(1, "x", [0.5])
    assert from_line(as_line(one)) == one
    with refused("Same calls its lines|calls its lines 'spread' already; give Same another"):

        class Same(Record):
            record: ClassVar[str] = "spread"

    with refused("Nameless does not say what its lines are called"):

        class Nameless(Record):
            pass


def test_numbers_of_records_have_names_that_say_what_they_are():
    for record, expected in [
        (
            StepRecord(1, 2.5, 0.1, 0.5, 7, {"mix": 3.0}),
            {"loss": 2.5, "learning_rate": 0.1, "gradient_norm": 0.5, "trained_tokens": 7.0}
            | {"loss_by_source/mix": 3.0},
        ),
        (EntropyRecord(1, "knowledge", 5.0, [2.0, 3.0], None), {"total": 5.0, "per_layer": 2.5}),
        (RecallRecord(1, "B", [1, 0, 0, 0]), {"correct": 0.25}),
        (TaskRecord(1, "piqa", "acc", 0.5, "piqa"), {"score": 0.5, "split_apart": 0.0}),
        (InjectionRecord(1, [4, 5], 13), {"displaced_tokens": 13.0}),
        (StopRecord(1, "enough"), {}),
    ]:
        found = tracking.numbers(record)
        words = {"knowledge", "B", "piqa", "acc", "tokens"}
        front = [
            record.record,
            *(v for v in vars(record).values() if isinstance(v, str) and v in words),
        ]
        front = "/".join(dict.fromkeys(front))
        assert found == {f"{front}/{name}": value for name, value in expected.items()}


def scalars_in(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_tensorboard_has_the_numbers_of_the_records_also_after_a_stop(tmp_path):
    settings = settings_of(steps=4, resume_every=1)
    how = {"settings": settings, "observers": [Both()], "track": "tensorboard"}
    run(tmp_path / "a", time_limit=0.0, **how)
    assert [step for step, _ in scalars_in(tmp_path / "a")["step/loss"]] == [1]
    run(tmp_path / "a", resume=True, **how)
    found = scalars_in(tmp_path / "a")
    losses = list(enumerate(losses_of(tmp_path / "a"), start=1))
    # Event files hold float32.
    assert found["step/loss"] == [(s, pytest.approx(loss, rel=1e-6)) for s, loss in losses]
    assert found["spread/here/values"] == [(0, 0.5), (2, 1.5)]


def test_a_tracker_that_is_not_there_names_its_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with refused(r"trackio is not installed.*pip install 'mnemoscope\[trackio\]'"):
        run(tmp_path / "a", track="trackio")
    with refused("track is 'wandbb'|'wandbb'"):
        run(tmp_path / "b", track="wandbb")


def test_a_tracker_that_fails_ends_without_the_run(monkeypatch, tmp_path, capsys):
    def broken(_directory, _step):
        raise OSError("the disk is full")

    monkeypatch.setitem(tracking._OPENERS, training.Tracker.TENSORBOARD, broken)
    _, result = run(tmp_path / "a", settings=settings_of(steps=2), track="tensorboard")
    assert result.finished
    err = capsys.readouterr().err
    assert err.count("tensorboard stopped (OSError: the disk is full); the run goes on") == 1


def test_wandb_gets_the_same_numbers_offline(monkeypatch, tmp_path):
    logged, settings = [], {}

    class Run:
        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            logged.append("finished")

    class Wandb:
        Settings = staticmethod(lambda **given: given)

        @staticmethod
        def init(**given):
            settings.update(given)
            return Run()

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    monkeypatch.setattr(tracking, "find_spec", lambda name: True)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(tmp_path / "a", settings=settings_of(steps=2), track="wandb")
    assert settings["mode"] == "offline"
    assert settings["dir"] == str(tmp_path / "a")
    assert [(step, values["step/loss"]) for step, values in logged[:-1]] == list(
        enumerate(losses_of(tmp_path / "a"), start=1)
    )
    assert logged[-1] == "finished"
