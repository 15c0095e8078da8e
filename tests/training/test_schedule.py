"""The learning rate against transformers' schedules and OLMo's formula; settings that are refused."""

import copy
import math

import pytest
import torch
from transformers import get_scheduler

import probes
from tests.training.loop_runs import (
    model_of,
    rows_of,
    run,
    same_bits,
    settings_of,
    step_records,
    weights_of,
)
from training.choices import Precision
from training.ckl_config import CKL_RECIPES
from training.engine import learning_rate
from training.remix import paper_llama3_8b
from training.settings import LoopSettings, OptimizerSettings, ScheduleSettings, log_spaced_steps


def rates(steps, peak=1.0, **schedule):
    settings = LoopSettings(
        steps=steps,
        batch_size=1,
        optimizer=OptimizerSettings(learning_rate=peak),
        schedule=ScheduleSettings(**schedule),
    )
    return [learning_rate(update, settings) for update in range(1, steps + 1)]


def olmo(kind, step, steps, warmup, peak, warmup_start=0.1, final=0.1):
    """The papers' scheduler, re-typed: `step` is counted up before an update."""
    low, lowest = peak * warmup_start, peak * final
    if step < warmup:
        return low + (peak - low) * min(step, warmup) / warmup
    if step >= steps:
        return lowest
    step, steps = step - warmup, steps - warmup
    if kind == "cosine":
        return lowest + (peak - lowest) * (1 + math.cos(math.pi * step / steps)) / 2
    return peak - (peak - lowest) * (step / steps)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize(("steps", "warmup"), [(1600, 80), (97, 0), (97, 13)])
def test_rates_are_those_of_the_papers(kind, steps, warmup):
    found = rates(steps, 4e-4, kind=kind, warmup_steps=warmup)
    expected = [olmo(kind, step, steps, warmup, 4e-4) for step in range(1, steps + 1)]
    # Double precision, in another order of operations.
    assert found == pytest.approx(expected, rel=1e-13)


def test_five_percent_of_the_steps_warm_up_by_default():
    assert rates(1600) == rates(1600, warmup_steps=80)


def transformers_rates(name, steps, warmup, peak):
    """The rates that updates are made with, as REMIX's trainer asks for them."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = get_scheduler(name, optimizer, warmup, steps)
    made_with = []
    for _ in range(steps):
        made_with.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return made_with


@pytest.mark.parametrize("name", ["cosine", "linear", "constant_with_warmup"])
@pytest.mark.parametrize(("steps", "warmup"), [(31, 7), (31, 0), (7, 7), (5, 11), (1, 1)])
def test_counted_from_zero_rates_are_those_that_transformers_updates_with(name, steps, warmup):
    found = rates(
        steps,
        3e-3,
        kind=name.split("_")[0],
        warmup_steps=warmup,
        warmup_start=0.0,
        final_fraction=0.0,
        count="from_zero",
    )
    expected = transformers_rates(name, steps, warmup, 3e-3)
    # Where it ends at zero, double precision leaves 1e-19 or so.
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-18)
    assert found[0] == (0.0 if warmup else 3e-3)


def test_the_recipes_of_continual_memorization_have_the_released_trainers_rates():
    """2,000 items and 4,000 of a mix in batches of 32, 20 epochs: 187.5 updates of warm-up."""
    config = paper_llama3_8b()
    settings = config.settings(config.stages[0], 3750)
    found = [learning_rate(update, settings) for update in range(1, 3751)]
    expected = transformers_rates("cosine", 3750, math.ceil(3750 * 0.05), 5e-5)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_a_warm_up_counted_from_zero_is_rounded_up():
    """61 steps: 3.05 updates are 3 or, as transformers' users and its trainer round, 4."""
    counted = {"warmup_start": 0.0, "count": "from_zero"}
    assert rates(61, **counted) == rates(61, warmup_steps=4, **counted)
    assert rates(61) == rates(61, warmup_steps=3)


@pytest.mark.parametrize("recipe", ["paper-1b", "batch-2048", "three-epochs", "fka-every-step"])
def test_the_recipes_of_continual_knowledge_learning_have_olmos_rates(recipe):
    """Its trainer counts the step up, and then asks for the rate."""
    config = CKL_RECIPES[recipe]()
    settings, steps = config.settings(config.steps), config.steps
    found = [learning_rate(update, settings) for update in range(1, steps + 1)]
    peak = config.learning_rate
    expected = [olmo("cosine", step, steps, steps // 20, peak) for step in range(1, steps + 1)]
    if recipe == "fka-every-step":
        expected = [peak] * steps
    assert found == pytest.approx(expected, rel=1e-13)


def test_a_run_counted_from_zero_is_transformers_own(tmp_path):
    """Hugging Face's loss, PyTorch's AdamW and `get_scheduler`, stepped after each update."""
    schedule = ScheduleSettings(
        warmup_steps=3, warmup_start=0.0, final_fraction=0.0, count="from_zero"
    )
    optimizer_settings = OptimizerSettings(learning_rate=1e-2, weight_decay=0.0, clip_norm=None)
    model, source = model_of(), rows_of()
    rival = copy.deepcopy(model.hf_model).train()
    before = weights_of(model)
    optimizer = torch.optim.AdamW(
        rival.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0
    )
    scheduler = get_scheduler("cosine", optimizer, 3, 11)
    losses, used = [], []
    for step in range(11):
        ids = source.batch(step).input_ids
        loss = rival(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    settings = settings_of(schedule=schedule, optimizer=optimizer_settings, checkpoint_steps=(1,))
    run(tmp_path / "run", model, source, settings)
    found = step_records(tmp_path / "run")
    assert [record.learning_rate for record in found] == pytest.approx(used, rel=1e-12)
    # float32; the fused update adds in another order, and eleven steps of 1e-2 carry that on.
    assert [record.loss for record in found] == pytest.approx(losses, rel=2e-4)
    first = probes.load_model(str(tmp_path / "run" / "checkpoints" / "step-000001"))
    assert same_bits(weights_of(first), before), "an update at rate 0 changes no weight"


def test_a_run_shorter_than_its_warm_up_only_rises():
    assert rates(3, warmup_steps=10, warmup_start=0.0) == pytest.approx([0.1, 0.2, 0.3])


def test_log_spaced_steps_double():
    assert log_spaced_steps(100) == (1, 2, 4, 8, 16, 32, 64, 100)
    assert log_spaced_steps(64) == (1, 2, 4, 8, 16, 32, 64)
    assert log_spaced_steps(1) == (1,)


def test_checkpoints_are_due_at_the_interval_at_steps_of_their_own_and_at_the_end():
    settings = settings_of(steps=11, checkpoint_every=4, checkpoint_steps=(0, 3))
    assert [s for s in range(12) if settings.checkpoint_is_due(s)] == [0, 3, 4, 8, 11]
    assert [s for s in range(12) if settings_of().checkpoint_is_due(s)] == [11]
    assert [s for s in range(12) if settings_of(resume_every=5).resume_point_is_due(s)] == [5, 10]


def test_choices_take_their_strings():
    assert settings_of(precision="bf16").precision is Precision.BF16


@pytest.mark.parametrize(
    ("kind", "given", "line"),
    [
        (settings_of, {"steps": 0}, "steps must be 1 or more, found 0"),
        (settings_of, {"batch_size": 0}, "batch_size must be 1 or more, found 0"),
        (settings_of, {"micro_batch_size": 0}, "micro_batch_size must be 1 or more, or None, fo"),
        (settings_of, {"checkpoint_steps": (12,)}, "checkpoint_steps must be from 0 to the 11"),
        (settings_of, {"keep_training_states": 0}, "keep_training_states must be 1 or more"),
        (settings_of, {"precision": "fp8"}, "precision must be one of fp32, bf16, fp16, found"),
        (settings_of, {"precision": "fp16", "parallel": "fsdp"}, "cannot scale its loss under"),
        (OptimizerSettings, {"learning_rate": float("inf")}, "above 0 and finite, found inf"),
        (OptimizerSettings, {"weight_decay": float("inf")}, "0 or more and finite, found inf"),
        (OptimizerSettings, {"learning_rate": 0.0}, "learning_rate must be above 0 and finite"),
        (OptimizerSettings, {"betas": (0.9, 1.0)}, "betas must be from 0 to below 1"),
        (OptimizerSettings, {"eps": 0.0}, "eps must be above 0 and finite"),
        (OptimizerSettings, {"weight_decay": -0.1}, "weight_decay must be 0 or more"),
        (OptimizerSettings, {"clip_norm": 0.0}, "clip_norm must be above 0, or None"),
        (OptimizerSettings, {"decay": "some"}, "decay must be one of linear_weights, all_matr"),
        (ScheduleSettings, {"kind": "cosin"}, "kind must be one of cosine, linear, constant"),
        (ScheduleSettings, {"warmup_fraction": 1.5}, "warmup_fraction must be from 0 to 1"),
        (ScheduleSettings, {"count": "from_two"}, "count must be one of from_one, from_zero"),
        (ScheduleSettings, {"warmup_steps": -1}, "warmup_steps must be 0 or more, or None"),
        (ScheduleSettings, {"final_fraction": -0.1}, "final_fraction must be from 0 to 1"),
        (log_spaced_steps, {"steps": 0}, "steps must be 1 or more, found 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, given, line):
    with pytest.raises(ValueError, match=line):
        kind(**given)
