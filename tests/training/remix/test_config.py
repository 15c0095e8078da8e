"""Configurations, recipes and plans of continual memorization."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from probes.choices import Compat
from tests.refusals import refused
from training.choices import NoMixControl, OptimizerStart, Parallel, Replay, StopWhen
from training.options import Control, EditForm
from training.recipes import as_json, from_json
from training.remix import REMIX_RECIPES, lab, paper_llama3_8b, paper_mistral_7b, remix_plan, smoke
from training.remix_config import RemixConfig
from training.remix_run import stage_rule
from training.stop_rules import AllOf, ExactMatchReached, LossBelow


def test_what_is_given_once_holds_for_every_stage():
    config = replace(smoke(), data=("kvr", "kvr", "triviaqa"), mix=("random",), items=(11,))
    assert [stage.name for stage in config.stages] == ["A", "B", "C"]
    assert {stage.mix for stage in config.stages} == {"random"}
    assert {stage.epochs for stage in config.stages} == {60}


def test_what_is_given_for_each_stage_is_its_own():
    config = replace(
        smoke(),
        data=("kvr", "triviaqa", "kvr"),
        items=(11, 13, 17),
        mix=("random", "none", "generic"),
        mix_ratio=(2.0, 3.0, 0.5),
        epochs=(2, 3, 5),
        stop=(StopWhen.LOSS, StopWhen.EPOCHS, StopWhen.RELEASED),
        stage_learning_rates=(1e-3, 2e-3, 3e-3),
        optimizer=OptimizerStart.KEPT,
        replay=Replay.ITEMS,
    )
    found = [
        (s.data, s.items, s.offset, s.mix, s.mix_ratio, s.epochs, s.stop, s.learning_rate)
        for s in config.stages
    ]
    assert found == [
        ("kvr", 11, 0, "random", 2.0, 2, "loss", 1e-3),
        ("triviaqa", 13, 0, None, 3.0, 3, "epochs", 2e-3),
        # The first eleven pairs are those of stage A.
        ("kvr", 17, 11, "generic", 0.5, 5, "released", 3e-3),
    ]
    # There is nothing before stage A that it could keep or show again.
    assert [s.optimizer for s in config.stages] == ["fresh", "kept", "kept"]
    assert [s.replay for s in config.stages] == ["none", "items", "items"]
    rates = [config.settings(s, 7).optimizer.learning_rate for s in config.stages]
    assert rates == [1e-3, 2e-3, 3e-3]


def test_stage_a_alone_does_not_depend_on_what_comes_later():
    one = replace(
        smoke(),
        mix=("none", "generic"),
        mix_ratio=(1.0, 3.0),
        replay=Replay.ITEMS,
        replay_ratio=0.5,
        optimizer=OptimizerStart.KEPT,
        epochs=(60, 7),
        edit_before="B",
        resuscitation_ratio=0.5,
        resuscitation_factor=2.0,
    )
    assert one.stage_a() == replace(smoke(), data=("kvr",)).stage_a()
    other = replace(smoke(), mix=("random", "none"))
    assert other.stage_a() != one.stage_a()
    assert other.stage_a() != replace(other, mix_ratio=(2.0,)).stage_a()


@pytest.mark.parametrize("name", REMIX_RECIPES)
def test_a_manifest_gives_a_recipe_back(name):
    config = REMIX_RECIPES[name]()
    stored = json.loads(json.dumps(as_json(config)))
    again = from_json(RemixConfig, stored)
    assert as_json(again) == as_json(config)
    assert again.stages == config.stages
    assert again.stages[0].stop is config.stages[0].stop


def test_the_papers_recipes_have_the_released_values():
    """As its scripts and appendix B.4 have them."""
    config = paper_llama3_8b()
    assert (config.learning_rate, config.batch_size, config.epochs) == (5e-5, 32, (20,))
    assert (config.betas, config.eps, config.weight_decay) == ((0.9, 0.95), 1e-8, 0.0)
    assert (config.warmup_fraction, config.clip_norm, config.max_length) == (0.05, 1.0, 2048)
    assert (config.schedule, config.final_fraction) == ("cosine", 0.0)
    assert (config.schedule_count, config.warmup_start) == ("from_zero", 0.0)
    assert (config.mix_words, config.mix_ratio, config.items) == (50, (2.0,), (2000,))
    assert config.template == "tulu"
    changed = {
        name
        for name, value in as_json(paper_mistral_7b()).items()
        if value != as_json(config)[name]
    }
    assert changed == {"model", "learning_rate"}
    assert paper_mistral_7b().learning_rate == 1e-5


def test_plans_count_updates():
    plan = remix_plan(paper_llama3_8b())
    # 2,000 items and 4,000 of the mix, 20 times, in batches of 32.
    assert plan.value("stage A", "updates").startswith("3,750: 20 epochs of 6,000 examples")
    assert plan.value("stage B", "mix") == "4,000 items of knowledge-pile, 50 words, by example"
    again = remix_plan(replace(lab(), replay=Replay.SELF, replay_ratio=0.05))
    assert again.value("stage B", "shown again") == "30 earlier items, self"
    # 630 examples 40 times are 787.5 batches of 32.
    assert again.value("stage B", "updates").startswith("788: 40 epochs of 630 examples")


def test_plans_of_controls_and_of_shared_stages():
    config = replace(smoke(), mix=("random",), no_mix_control=NoMixControl.STEPS)
    plan = remix_plan(config, smoke())
    # 128 and 128, 60 times, in batches of 16.
    assert plan.value("stage A", "updates") == "960, as with the mix"
    assert plan.value("stage A", "mix").endswith("left out by the control")
    assert plan.value("stage A", "ends") == "after its last update"
    assert plan.value("changed from the recipe", "no_mix_control") == "steps, not None"
    shared = remix_plan(replace(smoke(), from_stage_a=Path("runs/plain")))
    assert shared.value("stage A", "taken from") == "runs/plain"


@pytest.mark.parametrize("recipe", REMIX_RECIPES)
def test_plans_of_recipes_say_everything(recipe):
    lines = remix_plan(REMIX_RECIPES[recipe]()).lines()
    assert not [line for line in lines if line.endswith(("None", "()"))]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("stop", "kind"),
    [
        ("epochs", type(None)),
        ("loss", LossBelow),
        ("exact_match", ExactMatchReached),
        ("loss_and_exact_match", AllOf),
        ("released", LossBelow),
    ],
)
def test_rules_follow_the_configuration(stop, kind):
    config = replace(smoke(), stop=(StopWhen(stop),))
    assert isinstance(stage_rule(config, config.stages[1]), kind)
    controlled = replace(config, mix=("random",), no_mix_control=NoMixControl.TOKENS)
    assert stage_rule(controlled, controlled.stages[1]) is None


EDIT = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": ()}, "a stage has no data; name with --data a set for each stage"),
        ({"data": ("kvr", "")}, "a stage has no data"),
        ({"items": (3, 5, 7)}, "--items has 3 values for 2 stages; give one, or one for each"),
        ({"mix": ("none",) * 3}, "--mix has 3 values for 2 stages"),
        ({"items": (0,)}, "--items must be 1 or more in each stage, found 0"),
        ({"epochs": (5, 0)}, "--epochs must be 1 or more in each stage, found 0"),
        ({"mix": ("random",), "mix_ratio": (0.0,)}, "--mix-ratio of stage A must be above 0"),
        ({"replay_ratio": 1.5}, "--replay-ratio must be above 0 and up to 1, found 1.5"),
        ({"loss_threshold": 0.0}, "--loss-threshold must be above 0"),
        ({"exact_match": 1.5}, "--exact-match above 0 and up to 1"),
        ({"recall_every": 0}, "--recall-every must be 1 or more, found 0"),
        ({"patience": 0}, "--patience must be 1 or more, found 0"),
        ({"no_mix_control": NoMixControl.STEPS}, "leaves mixes out, and no stage has one"),
        ({"edit_before": "C"}, "--edit-before is 'C', and the stages are A, B"),
        ({"data": ("kvr",), "replay": Replay.ITEMS}, "--replay is about stages after A"),
        (
            {"data": ("kvr",), "from_stage_a": Path("runs/a")},
            "--from-stage-a is about stages after A",
        ),
        ({"from_stage_a": Path("runs/a"), **EDIT}, "goes on from a run that was not edited here"),
        ({"resuscitation_ratio": 0.5}, "--resuscitation-factor how much; give both"),
        (
            {**EDIT, "control": "matched_noise", "edit_form": EditForm.HOOKS},
            "give --edit-form weights",
        ),
        ({"entropy_tokens": 5, "evaluation_corpora": ()}, "give one, or --entropy-tokens None"),
        ({"parallel": "fsdp"}, "'fsdp' shards them; give --no-drift and --gradient-every None"),
        ({"compat": "official"}, "knows no --template plain; leave out that or --compat"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"stage_learning_rates": (1e-3, 0.0)}, "learning_rate must be above 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given, message):
    kinds = {"compat": Compat, "control": Control, "parallel": Parallel}
    given = {name: kinds[name](v) if name in kinds else v for name, v in given.items()}
    with refused(re.escape(message)):
        replace(smoke(), **given)
