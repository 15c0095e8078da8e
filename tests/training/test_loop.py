"""What the loop computes, against a plain loop written out here and against Hugging Face's loss."""

import copy
import json
import random
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.amp.grad_scaler as grad_scaler

import probes
from interventions import AttentionTemperature, Resuscitation, RowLearningRates
from tests.models import FAMILIES, tiny_hf_model, tokens
from tests.training.loop_runs import (
    directory_of,
    losses_of,
    model_of,
    rows_of,
    run,
    same_bits,
    settings_of,
    step_records,
    weights_of,
)
from training.batches import RowSource, TrainingBatch, as_training_batch
from training.choices import Precision
from training.loop import train
from training.runs.records import (
    InjectionRecord,
    PerplexityRecord,
    StepRecord,
    StopRecord,
    read_items,
    read_records,
    records_of,
)
from training.settings import OptimizerSettings

ROOT = Path(__file__).parent.parent.parent


def plain_loop(hf_model, source, steps, peak=1e-2, final=0.1, clip=1.0):
    """Hugging Face's own loss and PyTorch's own optimizer (neither fused nor in groups of ours)."""
    hf_model.train()
    tied = {hf_model.get_input_embeddings().weight}
    linear = {m.weight for m in hf_model.modules() if type(m).__name__ in ("Linear", "Conv1D")}
    decayed = [p for p in hf_model.parameters() if p in linear - tied]
    others = [p for p in hf_model.parameters() if p not in linear - tied]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    options = {"betas": (0.9, 0.95), "eps": 1e-5, "foreach": False}
    optimizer = torch.optim.AdamW(groups, lr=1.0, **options)
    losses, norms = [], []
    warmup = 1  # 5 % of 11 steps, rounded
    for step in range(steps):
        ids = source.batch(step).input_ids
        loss = hf_model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(hf_model.parameters(), clip)))
        along = (step + 1 - warmup) / (steps - warmup)
        rate = peak * (final + (1 - final) * (1 + np.cos(np.pi * along)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, norms


@pytest.mark.parametrize("family", ["llama", "olmo", "gpt_neox", "gpt2", "phi3"])
def test_a_run_is_the_plain_loop(family, tmp_path):
    rival = tiny_hf_model(family)
    for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop"):
        setattr(rival.config, name, 0.0)
    for part in rival.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    model = probes.load_model(copy.deepcopy(rival))
    losses, norms = plain_loop(rival, rows_of(), 11)
    run(tmp_path / "run", model)
    found = step_records(tmp_path / "run")
    # float32; the fused update adds in another order, and eleven steps of 1e-2 carry that on.
    assert [record.loss for record in found] == pytest.approx(losses, rel=2e-4)
    assert [record.gradient_norm for record in found] == pytest.approx(norms, rel=5e-3)
    # The first step has nothing to carry on.
    assert found[0].loss == pytest.approx(losses[0], rel=1e-6)
    assert found[0].gradient_norm == pytest.approx(norms[0], rel=1e-5)
    assert found[0].trained_tokens == 4 * 12


def test_the_result_and_the_files_say_how_it_ended(tmp_path):
    model, result = run(tmp_path / "run", settings=settings_of(checkpoint_every=4))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000008", "step-000011"]
    assert result.finished
    assert result.steps_done == 11
    assert result.stop_reason is None
    assert result.checkpoint == tmp_path / "run" / "checkpoints" / "step-000011"
    done = json.loads((tmp_path / "run" / "done.json").read_text())
    assert done == {"steps": 11, "stop_reason": None, "checkpoint": "step-000011"}
    assert [record.step for record in step_records(tmp_path / "run")] == list(range(1, 12))
    # Every checkpoint is an ordinary folder; the last one is the model.
    loaded = probes.load_model(str(result.checkpoint))
    assert same_bits(weights_of(loaded), weights_of(model))
    assert loaded.tokenizer("w5 w7")["input_ids"] == [8, 10]
    assert not model.hf_model.training
    states = [
        (path / "training_state").is_dir() for path in sorted(result.checkpoint.parent.iterdir())
    ]
    assert states == [False, False, True]


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_change_nothing_but_rounding(micro, tmp_path):
    source = Ragged(rows_of())
    run(tmp_path / "whole", source=source)
    run(tmp_path / "parts", source=source, settings=settings_of(micro_batch_size=micro))
    # float32 sums in another order, carried on by eleven steps.
    assert losses_of(tmp_path / "parts") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-4)
    first = [step_records(tmp_path / name)[0] for name in ("whole", "parts")]
    assert first[0].gradient_norm == pytest.approx(first[1].gradient_norm, rel=1e-5)
    assert first[0].trained_tokens == first[1].trained_tokens


class Ragged:
    """Rows with pads at the end, and with few labels in some: a mean of means would show."""

    def __init__(self, source):
        self._source = source
        self.steps_available = source.steps_available

    def batch(self, step):
        batch = self._source.batch(step)
        mask, labels = torch.ones_like(batch.input_ids), batch.labels.clone()
        for row, length in enumerate((13, 7, 11, 5)):
            mask[row, length:] = 0
            labels[row, length:] = -100
        labels[0, :9] = -100
        return replace(batch, attention_mask=mask, labels=labels)

    def describe(self):
        return {"kind": "ragged"}


def test_the_loss_is_hugging_faces_over_the_labelled_tokens(tmp_path):
    model = model_of()
    batch = Ragged(rows_of()).batch(0)
    with torch.no_grad():
        expected = model.hf_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
        ).loss
    run(tmp_path / "run", model, Ragged(rows_of()))
    first = step_records(tmp_path / "run")[0]
    assert first.loss == pytest.approx(float(expected), rel=1e-6)
    # Nine of a row's first labels are taken away, and a first token is never predicted.
    assert first.trained_tokens == (13 - 9) + 6 + 10 + 4


class Packed:
    """Rows of three documents each, kept apart; or the documents in rows of their own, padded."""

    lengths = (5, 3, 5)
    steps_available = None

    def __init__(self, *, packed, side="right"):
        self._packed, self._side = packed, side

    def batch(self, step):
        rows = tokens(2, 13, seed=step)
        pieces = [piece for row in rows for piece in row.split(self.lengths)]
        if self._packed:
            segments = torch.tensor([[4] * 5 + [9] * 3 + [2] * 5] * 2)
            labels = rows.clone()
            labels[:, [5, 8]] = -100
            return TrainingBatch(rows, labels, torch.ones_like(rows), segments)
        ids, mask = torch.zeros(6, 5, dtype=torch.long), torch.zeros(6, 5, dtype=torch.long)
        for row, piece in enumerate(pieces):
            where = slice(0, len(piece)) if self._side == "right" else slice(5 - len(piece), 5)
            ids[row, where], mask[row, where] = piece, 1
        labels = ids.masked_fill(mask == 0, -100)
        if self._side == "left":
            # A document's first token is not predicted from pads.
            labels[torch.arange(6), 5 - mask.sum(1)] = -100
        return TrainingBatch(ids, labels, mask)

    def describe(self):
        return {"kind": "packed", "packed": self._packed, "side": self._side}


@pytest.mark.parametrize("family", [*FAMILIES, "gptj", "gpt_neo", "falcon"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_documents_of_a_row_do_not_see_each_other(family, side, tmp_path):
    def first_step(name, source, batch_size):
        model = probes.load_model(tiny_hf_model(family))
        for part in model.hf_model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        settings = settings_of(steps=1, batch_size=batch_size)
        run(tmp_path / name, model, source, settings)
        return step_records(tmp_path / name)[0]

    packed = first_step("packed", Packed(packed=True), 2)
    apart = first_step("apart", Packed(packed=False, side=side), 6)
    assert packed.trained_tokens == apart.trained_tokens == 2 * (4 + 2 + 4)
    # float32 through attention of other shapes.
    assert packed.loss == pytest.approx(apart.loss, rel=1e-5)
    assert packed.gradient_norm == pytest.approx(apart.gradient_norm, rel=1e-4)


@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon_rw"])
def test_positions_that_come_from_the_mask_keep_no_documents_apart_and_are_refused(
    family, tmp_path
):
    model = probes.load_model(tiny_hf_model(family))
    settings = settings_of(steps=1, batch_size=2)
    with pytest.raises(ValueError, match="does not keep the documents of a row apart"):
        run(tmp_path / "run", model, Packed(packed=True), settings)


def test_bfloat16_weights_become_float32_masters(tmp_path):
    model, result = run(tmp_path / "run", model_of(dtype=torch.bfloat16))
    assert {p.dtype for p in model.hf_model.parameters()} == {torch.float32}
    config = json.loads((result.checkpoint / "config.json").read_text())
    assert config["dtype"] == "float32"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_computes_in_it_and_keeps_float32_weights(precision, tmp_path):
    seen = []
    model = model_of()
    hook = lambda _m, _args, output: seen.append(output.dtype)  # noqa: E731
    handle = model.anatomy.layers[1].down.register_forward_hook(hook)
    run(tmp_path / "half", model, settings=settings_of(precision=precision))
    handle.remove()
    run(tmp_path / "wide")
    dtype = torch.bfloat16 if Precision(precision) is Precision.BF16 else torch.float16
    # The trial at the start and observers run outside autocast.
    assert seen.count(dtype) == 11
    assert {p.dtype for p in model.hf_model.parameters()} == {torch.float32}
    # Two to three digits in every product, over eleven steps.
    assert losses_of(tmp_path / "half") == pytest.approx(losses_of(tmp_path / "wide"), rel=0.05)
    assert losses_of(tmp_path / "half") != losses_of(tmp_path / "wide")


def test_float16_takes_a_batch_again_at_a_lower_loss_scale(tmp_path):
    """Gradients that overflow cost no step and no batch."""
    made = []
    original = grad_scaler.GradScaler.__init__

    def starting_high(self, device, **given):
        original(self, device, init_scale=2.0**40, **given)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grad_scaler.GradScaler, "__init__", starting_high)
        run(tmp_path / "run", settings=settings_of(precision="fp16"))
    assert [record.step for record in step_records(tmp_path / "run")] == list(range(1, 12))
    assert made[0].get_scale() < 2.0**40
    run(tmp_path / "wide")
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(tmp_path / "wide"), rel=0.05)


def test_gradient_checkpointing_gives_the_same_bits(tmp_path):
    plain, _ = run(tmp_path / "plain", model_of(dropout=0.1))
    again, _ = run(
        tmp_path / "again", model_of(dropout=0.1), settings=settings_of(gradient_checkpointing=True)
    )
    # The same operations on the same numbers, dropout's draws among them.
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "again")
    assert same_bits(weights_of(plain), weights_of(again))
    assert not again.hf_model.is_activation_checkpointing


@pytest.mark.slow
def test_compiled_blocks_give_the_same_curve_and_are_taken_off_again(tmp_path):
    """In a process of its own: the compiler cannot see through the shape checks of the tests."""
    command = [sys.executable, "-m", "tests.training.compile_worker", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    # Compiled kernels fuse and add in another order, over eleven steps.
    assert seen["compiled"]["losses"] == pytest.approx(seen["plain"]["losses"], rel=1e-3)
    assert seen["compiled"]["losses"] != seen["plain"]["losses"]
    assert seen["compiled"]["graphs"] > 0
    # Hooks of observers fire, though they were not there when the blocks were compiled.
    assert seen["compiled"]["fired"] == seen["plain"]["fired"] == [0, 5, 10]
    assert seen["compiled"]["left_compiled"] == 0


class Watching:
    """Draws random numbers, looks through a hook, and remembers what state it found."""

    def __init__(self):
        self.states, self.fired = [], []

    def due(self, step):
        return step % 5 == 0

    def observe(self, model, step):
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        self.states.append((model.hf_model.training, torch.is_grad_enabled()))
        with model.hooks([("blocks.1.mlp.hook_post", lambda _t, _p: self.fired.append(step))]):
            logits = model(tokens(1, 5))
        yield PerplexityRecord(step, "five tokens", float(logits.std()), None, 5)


def test_observers_see_the_model_at_rest_and_leave_no_trace(tmp_path):
    quiet, _ = run(tmp_path / "quiet", model_of(dropout=0.3))
    looks = Watching()
    watched, _ = run(tmp_path / "watched", model_of(dropout=0.3), observers=[looks])
    assert same_bits(weights_of(quiet), weights_of(watched))
    assert losses_of(tmp_path / "quiet") == losses_of(tmp_path / "watched")
    assert looks.states == [(False, False)] * 3
    seen = records_of(tmp_path / "watched", PerplexityRecord)
    assert [record.step for record in seen] == [0, 5, 10]
    # At step 0 it is the unchanged start.
    with torch.no_grad():
        assert seen[0].mean_loss == float(model_of()(tokens(1, 5)).std())


def test_the_users_own_random_numbers_go_on_as_if_nothing_had_been_trained(tmp_path):
    # Not Python's: in tests, beartype draws from those to choose what it checks.
    torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2).tolist(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3), np.random.seed(3)  # noqa: NPY002
    run(tmp_path / "run", model_of(dropout=0.1))
    assert (torch.rand(2).tolist(), np.random.rand()) == expected  # noqa: NPY002


def test_dropout_follows_the_seed(tmp_path):
    curves = []
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        run(tmp_path / name, model_of(dropout=0.3), settings=settings_of(seed=seed))
        curves.append(losses_of(tmp_path / name))
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


def test_edits_hold_in_training_and_in_observation_and_go_by_the_clock(tmp_path):
    class Progress:
        def due(self, step):
            return True

        def observe(self, model, step):
            yield PerplexityRecord(step, "start", float(model(tokens(1, 7)).std()), None, 7)

    edit = AttentionTemperature(3.0)
    model = model_of()
    with torch.no_grad():
        from interventions import applied

        with applied(model, edit):
            warm = float(model(tokens(1, 7)).std())
        batch = rows_of().batch(0).input_ids
        with applied(model, edit):
            loss = model.hf_model(input_ids=batch, labels=batch).loss
    run(tmp_path / "run", model, edits=[edit], observers=[Progress()])
    # The same pass over the same weights, in evaluation mode.
    assert records_of(tmp_path / "run", PerplexityRecord)[0].mean_loss == warm
    assert losses_of(tmp_path / "run")[0] == pytest.approx(float(loss), rel=1e-6)
    assert not model.hf_model.model.layers[0].self_attn._forward_pre_hooks


def test_the_clock_of_edits_runs_from_start_to_end(tmp_path):
    class Clocked:
        def __init__(self):
            self.seen = []

        @contextmanager
        def attached(self, model, clock):
            with model.hooks([("hook_embed", lambda _t, _p: self.seen.append(clock.progress))]):
                yield

        def weight_changes(self, model):
            return []

        def describe(self):
            # It changes nothing, and says so.
            return {"kind": "identity"}

    edit = Clocked()
    run(tmp_path / "run", edits=[edit])
    in_training = edit.seen[-11:]
    assert in_training == [step / 11 for step in range(11)]


def test_learning_rates_of_rows_are_attached_for_the_run(tmp_path):
    model = model_of()
    means = torch.rand(model.n_layers, model.d_mlp, generator=torch.Generator().manual_seed(1))
    rates = RowLearningRates(Resuscitation(means, ratio=0.5, factor=2.0, site="preserving"))
    run(tmp_path / "rates", model, optimizer_edits=[rates])
    run(tmp_path / "plain")
    curves = [losses_of(tmp_path / name) for name in ("rates", "plain")]
    assert curves[0][0] == curves[1][0]
    assert curves[0][1:] != curves[1][1:]


class AfterThree:
    """A stop rule with a memory."""

    def __init__(self):
        self.updates = 0

    def after(self, record, batch):
        assert batch.n_rows == 4
        self.updates += 1
        return "three are enough" if self.updates == 3 else None

    def after_looking(self, records):
        return None

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, state):
        self.updates = state["updates"]


def test_a_stop_rule_ends_a_run_with_a_look_a_checkpoint_and_a_record(tmp_path):
    looks = Watching()
    _, result = run(tmp_path / "run", stop=AfterThree(), observers=[looks])
    assert (result.steps_done, result.finished, result.stop_reason) == (3, True, "three are enough")
    assert result.checkpoint.name == "step-000003"
    assert looks.fired == [0, 3]
    assert records_of(tmp_path / "run", StopRecord) == [StopRecord(3, "three are enough")]
    # Nothing is left to do, and the rule is not asked again.
    _, again = run(tmp_path / "run", stop=AfterThree(), resume=True)
    assert again == result


def test_a_time_limit_cuts_a_run_into_pieces_that_make_the_same_whole(tmp_path):
    whole, _ = run(
        tmp_path / "whole", model_of(dropout=0.1), settings=settings_of(checkpoint_every=5)
    )
    _, result = run(
        tmp_path / "pieces",
        model_of(dropout=0.1),
        settings=settings_of(checkpoint_every=5),
        time_limit=0.0,
    )
    pieces = 1
    while not result.finished:
        parts, result = run(
            tmp_path / "pieces",
            model_of(dropout=0.1),
            settings=settings_of(checkpoint_every=5),
            time_limit=0.0,
            resume=True,
        )
        pieces += 1
    assert pieces == 11
    assert same_bits(weights_of(whole), weights_of(parts))
    # Checkpoints that only bridged two pieces are gone.
    trees = [
        {
            p.relative_to(tmp_path / name): p.read_bytes()
            for p in (tmp_path / name).rglob("*.safetensors")
        }
        for name in ("whole", "pieces")
    ]
    assert trees[0] == trees[1]
    records = [(tmp_path / name / "records.jsonl").read_bytes() for name in ("whole", "pieces")]
    assert records[0] == records[1]


class Injecting:
    """Puts one passage into every fifth batch, in a row of its own."""

    steps_available = None

    def __init__(self):
        self._source, self.complete_at = rows_of(), None

    def batch(self, step):
        batch = self._source.batch(step)
        if step % 5:
            return batch
        return as_training_batch(torch.cat([batch.input_ids, tokens(1, 13, seed=step)]))

    def injections_at(self, step):
        return None if step % 5 else InjectionRecord(step, [step // 5], 0)

    def assert_complete(self, steps_done):
        self.complete_at = steps_done

    def describe(self):
        return {"kind": "injecting"}


def test_injections_are_recorded_with_the_step_of_their_batch(tmp_path):
    source = Injecting()
    run(tmp_path / "run", source=source)
    found = list(read_records(tmp_path / "run"))
    assert source.complete_at == 11
    assert [r.step for r in found if isinstance(r, InjectionRecord)] == [0, 5, 10]
    # The record of the passage comes just before that of the update which it was part of.
    place = found.index(InjectionRecord(5, [1], 0))
    assert isinstance(found[place + 1], StepRecord)
    assert found[place + 1].step == 6
    assert found[place + 1].trained_tokens == 5 * 12


class Breaking:
    """An edit that breaks the forward or the backward pass from one step on."""

    def __init__(self, step, what):
        self._step, self._what = step, what

    def attached(self, model, clock):
        def fn(tensor, _point):
            if clock.progress * 11 < self._step - 0.5:
                return None
            if self._what == "loss":
                return tensor * float("nan")
            tensor = tensor * 1.0
            tensor.register_hook(lambda gradient: gradient * float("inf"))
            return tensor

        return model.hooks([("blocks.1.hook_resid_post", fn)])

    def weight_changes(self, model):
        return []

    def describe(self):
        # It changes nothing before its step, and says so.
        return {"kind": "identity"}


@pytest.mark.parametrize(
    ("what", "line"),
    [
        (
            "loss",
            r"the loss of the batch after step 6 is nan: it begins with nan at "
            r"blocks\.1\.hook_resid_post, in row 0 of micro-batch 0",
        ),
        ("gradient", r"gradient norm .* step 6 .* backward pass, at \S*layers\.1"),
    ],
)
def test_what_is_not_finite_ends_the_run_before_the_update(what, line, tmp_path):
    settings = settings_of(checkpoint_every=3)
    with pytest.raises(ValueError, match=line):
        run(tmp_path / "run", settings=settings, edits=[Breaking(6, what)])
    assert len(step_records(tmp_path / "run")) == 6
    assert not (tmp_path / "run" / "done.json").exists()
    # The last good checkpoint is what six healthy steps give.
    run(tmp_path / "healthy", settings=replace(settings, checkpoint_steps=(6,)))
    broken = probes.load_model(str(tmp_path / "run" / "checkpoints" / "step-000006"))
    good = probes.load_model(str(tmp_path / "healthy" / "checkpoints" / "step-000006"))
    assert same_bits(weights_of(broken), weights_of(good))


def test_float16_gives_up_where_no_loss_scale_helps(tmp_path):
    with pytest.raises(ValueError, match="gradient norm of the batch after step 2"):
        run(
            tmp_path / "run",
            settings=settings_of(precision="fp16"),
            edits=[Breaking(2, "gradient")],
        )


def test_clipping_can_be_left_out(tmp_path):
    # Without clipping, what is left to bound Adam's steps is Adam.
    free = OptimizerSettings(learning_rate=1e-2, clip_norm=None)
    run(tmp_path / "free", settings=settings_of(optimizer=free))
    run(tmp_path / "clipped")
    found = [step_records(tmp_path / name) for name in ("free", "clipped")]
    assert found[0][0].gradient_norm == found[1][0].gradient_norm > 1
    assert [r.loss for r in found[0]] != [r.loss for r in found[1]]


def test_frozen_parameters_stay(tmp_path):
    model = model_of()
    model.hf_model.get_input_embeddings().weight.requires_grad_(False)
    before = weights_of(model)
    run(tmp_path / "run", model)
    changed = {name for name, p in weights_of(model).items() if not torch.equal(p, before[name])}
    assert changed == before.keys() - {"model.embed_tokens.weight"}


def test_progress_speaks_in_lines_where_there_is_no_terminal(tmp_path, capsys):
    run(tmp_path / "run", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("step 1/11  loss ")
    assert lines[-1].startswith("step 11/11  loss ")
    assert " tokens/s  " in lines[-1]
    assert lines[-1].endswith(" GiB")


def test_times_are_kept_apart_from_records(tmp_path):
    run(tmp_path / "run", observers=[Watching()])
    text = (tmp_path / "run" / "timing.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    steps = [line for line in lines if "tokens_per_second" in line]
    assert [line["step"] for line in steps] == list(range(1, 12))
    assert all(
        line["tokens_per_second"] == pytest.approx(4 * 13 / line["seconds"]) for line in steps
    )
    assert [line["step"] for line in lines if "observing_seconds" in line] == [0, 5, 10]
    assert [line["step"] for line in lines if "checkpoint_seconds" in line] == [11]
    assert "seconds" not in (tmp_path / "run" / "records.jsonl").read_text()


def test_items_of_observers_are_written_once(tmp_path):
    class Itemised(Watching):
        def items(self):
            return {"words": [{"prompt": "w1", "target": "w2"}]}

    run(tmp_path / "run", observers=[Itemised()])
    assert read_items(tmp_path / "run", "words") == [{"prompt": "w1", "target": "w2"}]


@pytest.mark.parametrize(
    ("source", "settings", "line"),
    [
        ({}, {"steps": 25}, "the data give 24 batches, and the run has 25 steps"),
        ({}, {"batch_size": 3}, "batches of 4 rows, and the settings say batch_size=3"),
        (
            {"batch_size": 5, "length": 67},
            {"batch_size": 5},
            "rows have 67 tokens, but .* positions for 61",
        ),
    ],
)
def test_data_and_settings_that_do_not_go_together_are_refused(source, settings, line, tmp_path):
    with pytest.raises(ValueError, match=line):
        run(tmp_path / "run", source=rows_of(**source), settings=settings_of(**settings))


def test_tokens_that_the_model_does_not_have_are_refused(tmp_path):
    rows = np.full((8, 5), 101)
    with pytest.raises(ValueError, match=r"run from 101 to 101, but .* has 101 tokens"):
        run(tmp_path / "run", source=RowSource(rows, 4), settings=settings_of(steps=2))


def test_batches_without_a_label_are_refused(tmp_path):
    class Unlabelled(Ragged):
        def batch(self, step):
            batch = super().batch(step)
            return replace(batch, labels=torch.full_like(batch.labels, -100))

    with pytest.raises(ValueError, match="batch 0 has no token to train on"):
        run(tmp_path / "run", source=Unlabelled(rows_of()))


def test_other_backends_are_refused(tmp_path):
    model = probes.load_model(tiny_hf_model("llama"), backend="nnsight")
    with pytest.raises(ValueError, match="runs on backend 'nnsight', which cannot be trained"):
        run(tmp_path / "run", model)


def test_a_model_with_nothing_to_train_is_refused(tmp_path):
    model = model_of()
    model.hf_model.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        run(tmp_path / "run", model)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_several_processes_need_torchrun(parallel, tmp_path):
    with pytest.raises(ValueError, match=f"parallel='{parallel}' needs torchrun"):
        run(tmp_path / "run", settings=settings_of(parallel=parallel))


def test_starting_over_what_is_recorded_is_refused(tmp_path):
    run(tmp_path / "run")
    directory = directory_of(tmp_path / "run", settings_of(), rows_of(), resume=True)
    with pytest.raises(ValueError, match="holds records already; resume, or record elsewhere"):
        train(model_of(), rows_of(), settings_of(), directory, progress=False)


@pytest.mark.parametrize("idle", ["temperature", "factor", "layers"])
def test_an_edit_that_changes_nothing_is_refused_before_the_first_step(tmp_path, idle):
    means = torch.ones(3, 29)
    edit = {
        "temperature": AttentionTemperature({0: 1.0, 2: 1.0}),
        # All means alike, so each is multiplied by 1.
        "factor": Resuscitation(means, ratio=0.5, factor=1.0),
        "layers": Resuscitation(means, ratio=0.5, factor=1.0, layers=[1], site="down"),
    }[idle]
    with pytest.raises(ValueError, match=r"edit '\w+' changes nothing"):
        run(tmp_path / "run", edits=[edit])
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    assert not (tmp_path / "run" / "records.jsonl").read_text()
