"""Weighted tokens, losses by source, stopping at what was seen, and optimizer states carried on."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.distributed import checkpoint as sharded

from tests.models import tokens
from tests.training.loop_runs import (
    model_of,
    rows_of,
    run,
    same_bits,
    settings_of,
    step_records,
    weights_of,
)
from training.batches import TrainingBatch
from training.runs.records import PerplexityRecord, StopRecord, records_of
from training.settings import ScheduleSettings


class Named:
    """Rows whose tokens belong to three sources, and count differently."""

    source_names = ("facts", "mix", "none of it")
    steps_available = None

    def __init__(self, *, weighted=True):
        self._weighted = weighted

    def batch(self, step):
        batch = rows_of().batch(step)
        generator = torch.Generator().manual_seed(step)
        shape = batch.input_ids.shape
        sources = torch.randint(2, shape, generator=generator)
        weights = torch.rand(shape, generator=generator) + 0.1
        labels = batch.labels.clone()
        labels[1, 7:] = -100
        mask = batch.attention_mask.clone()
        mask[1, 7:] = 0
        return replace(
            batch,
            labels=labels,
            attention_mask=mask,
            sources=sources,
            weights=weights if self._weighted else None,
        )

    def describe(self):
        return {"kind": "named"}


def expected_loss(model, batch):
    """Token by token, from log-softmax in float64: the weighted mean, and means by source."""
    with torch.no_grad():
        logits = model.hf_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).logits.double()
    weighted, weight, by_source = 0.0, 0.0, {0: [], 1: []}
    for row in range(batch.n_rows):
        for place in range(1, batch.input_ids.shape[1]):
            label = int(batch.labels[row, place])
            if label == -100:
                continue
            loss = -float(logits[row, place - 1].log_softmax(dim=-1)[label])
            counts = 1.0 if batch.weights is None else float(batch.weights[row, place])
            weighted, weight = weighted + counts * loss, weight + counts
            by_source[int(batch.sources[row, place])].append(loss)
    means = {name: sum(found) / len(found) for name, found in by_source.items()}
    return weighted / weight, means


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("micro", [None, 1, 3])
def test_weights_and_sources_are_those_of_the_predicted_tokens(weighted, micro, tmp_path):
    source = Named(weighted=weighted)
    loss, by_source = expected_loss(model_of(), source.batch(0))
    run(tmp_path / "run", source=source, settings=settings_of(steps=2, micro_batch_size=micro))
    first = step_records(tmp_path / "run")[0]
    # float32 logits and sums.
    assert first.loss == pytest.approx(loss, rel=1e-6)
    assert set(first.loss_by_source) == {"facts", "mix"}
    assert first.loss_by_source["facts"] == pytest.approx(by_source[0], rel=1e-6)
    assert first.loss_by_source["mix"] == pytest.approx(by_source[1], rel=1e-6)


def test_the_gradient_is_that_of_the_weighted_mean(tmp_path):
    model, source = model_of(), Named()
    batch = source.batch(0)
    logits = model.hf_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    labels, weights = batch.labels[:, 1:], batch.weights[:, 1:]
    kept = labels != -100
    losses = -logits[:, :-1].log_softmax(-1)[kept].gather(1, labels[kept][:, None])[:, 0]
    ((losses * weights[kept]).sum() / weights[kept].sum()).backward()
    norm = torch.stack([p.grad.norm() for p in model.hf_model.parameters()]).norm()
    run(tmp_path / "run", source=source, settings=settings_of(steps=1))
    assert step_records(tmp_path / "run")[0].gradient_norm == pytest.approx(float(norm), rel=1e-5)


def test_weights_of_one_are_no_weights(tmp_path):
    class Even(Named):
        def batch(self, step):
            batch = super().batch(step)
            return replace(batch, weights=torch.ones_like(batch.weights))

    run(tmp_path / "even", source=Even())
    run(tmp_path / "none", source=Named(weighted=False))
    even, none = (step_records(tmp_path / name) for name in ("even", "none"))
    assert [record.loss for record in even] == [record.loss for record in none]


def test_pieces_of_a_batch_are_no_longer_than_they_must():
    ids = tokens(5, 11)
    mask = torch.zeros_like(ids)
    for row, length in enumerate((3, 2, 11, 5, 7)):
        mask[row, :length] = 1
    batch = TrainingBatch(ids, ids.masked_fill(mask == 0, -100), mask, weights=mask.float())
    pieces = batch.cut(2)
    assert [piece.input_ids.shape for piece in pieces] == [(2, 3), (2, 11), (1, 7)]
    assert [piece.weights.shape for piece in pieces] == [(2, 3), (2, 11), (1, 7)]
    assert sum(piece.trained_tokens for piece in pieces) == batch.trained_tokens
    # Pads that are trained on stay.
    trained = replace(batch, labels=ids)
    assert [piece.input_ids.shape[1] for piece in trained.cut(2)] == [11, 11, 11]


def test_rows_packed_with_examples_count_as_these(tmp_path):
    class Packed(Named):
        def batch(self, step):
            return replace(super().batch(step), examples=7)

    run(tmp_path / "run", source=Packed(), settings=settings_of(steps=1, batch_size=7))
    with pytest.raises(ValueError, match="batches of 7 rows, and the settings say batch_size=4"):
        run(tmp_path / "other", source=Packed(), settings=settings_of(steps=1))


class Seen:
    """An observer, and a rule that stops at what it saw at the second look."""

    def __init__(self, every):
        self.every, self.looked, self.memory = every, [], 0

    def due(self, step):
        return step % self.every == 0

    def observe(self, model, step):
        self.looked.append(step)
        return [PerplexityRecord(step, "here", 1.0, None, 1)]

    def after(self, record, batch):
        return None

    def after_looking(self, records):
        self.memory += sum(record.step > 0 for record in records)
        return "seen twice" if self.memory == 2 else None

    def state_dict(self):
        return {"memory": self.memory}

    def load_state_dict(self, state):
        self.memory = state["memory"]


def test_a_run_ends_at_what_observers_saw_and_every_other_one_looks_too(tmp_path):
    rule, other = Seen(3), Seen(100)
    _, result = run(tmp_path / "run", observers=[rule, other], stop=rule)
    assert (result.steps_done, result.finished, result.stop_reason) == (6, True, "seen twice")
    assert rule.looked == [0, 3, 6]
    assert other.looked == [0, 6]
    assert records_of(tmp_path / "run", StopRecord) == [StopRecord(6, "seen twice")]
    assert result.checkpoint.name == "step-000006"


def test_a_rule_that_was_interrupted_stops_at_the_same_step(tmp_path):
    stops = {}
    for name, limit in (("whole", None), ("parts", 1e-9)):
        for turn in itertools.count():
            rule = Seen(3)
            _, result = run(
                tmp_path / name, observers=[rule], stop=rule, resume=turn > 0, time_limit=limit
            )
            if result.finished:
                break
        stops[name] = (result.steps_done, (tmp_path / name / "records.jsonl").read_bytes())
    assert stops["parts"] == stops["whole"]


def test_a_stage_can_go_on_with_the_optimizer_of_the_one_before(tmp_path):
    constant = {"kind": "constant", "warmup_fraction": 0.0}
    long = settings_of(steps=8, schedule=ScheduleSettings(**constant))
    short = replace(long, steps=4)

    class Later:
        steps_available = None

        def batch(self, step):
            return rows_of().batch(step + 4)

        def describe(self):
            return {"kind": "later"}

    whole, _ = run(tmp_path / "whole", settings=long)
    model, first = run(tmp_path / "first", settings=short)
    kept, _ = run(tmp_path / "kept", model, Later(), short, start_state=first.checkpoint)
    assert same_bits(weights_of(kept), weights_of(whole))
    again, first = run(tmp_path / "again", settings=short)
    fresh, _ = run(tmp_path / "fresh", again, Later(), short)
    assert not same_bits(weights_of(fresh), weights_of(whole))


def test_a_checkpoint_without_a_training_state_cannot_be_gone_on_from(tmp_path):
    _, first = run(tmp_path / "first", settings=settings_of(checkpoint_every=4))
    with pytest.raises(ValueError, match=r"step-000004 has no readable training_state\.json"):
        run(tmp_path / "more", start_state=first.checkpoint.with_name("step-000004"))


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_moments_that_are_not_finite_are_not_gone_on_from(tmp_path, monkeypatch, moment):
    settings = settings_of(steps=4, checkpoint_every=2)
    model, first = run(tmp_path / "first", settings=settings)
    (tmp_path / "first" / "done.json").unlink()
    name, load = "model.layers.1.mlp.up_proj.weight", sharded.load

    def spoiled(template, **given):
        load(template, **given)
        if name in template:
            template[name][moment][3, 5] = float("nan")

    monkeypatch.setattr("training.runs.checkpoints.sharded.load", spoiled)
    place = rf"step-000004 is not finite, at {moment} of {name}"
    with pytest.raises(ValueError, match=place):
        run(tmp_path / "more", model, settings=settings, start_state=first.checkpoint)
    with pytest.raises(ValueError, match=place):
        run(tmp_path / "first", settings=settings, resume=True)
