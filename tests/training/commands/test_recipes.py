"""Recipes: what the papers' values are, how options change them, how a run's are read back."""

import dataclasses
import json
import math

import pytest

from interventions.choices import ResuscitationSite, Schedule
from training.choices import DecayGroup, Precision, RateCount, ScheduleKind
from training.ckl_config import CKL_RECIPES, CklConfig
from training.options import Control, EditForm, deciding_edits
from training.pretrain_config import PRETRAIN_RECIPES, PretrainConfig
from training.recipes import as_json, changed, from_json, recipe_named
from training.settings import OptimizerSettings, ScheduleSettings

UP = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0}
ALL = [*PRETRAIN_RECIPES.values(), *CKL_RECIPES.values()]


@pytest.mark.parametrize("recipe", ALL)
def test_a_recipe_survives_its_manifest(recipe):
    config = recipe()
    stored = json.loads(json.dumps(as_json(config)))
    again = from_json(type(config), stored)
    assert again == config
    for field in dataclasses.fields(config):
        assert type(getattr(again, field.name)) is type(getattr(config, field.name))


@pytest.mark.parametrize("recipe", ALL)
def test_a_recipe_is_frozen_and_fresh(recipe):
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe().seed = 1
    assert recipe() == recipe()
    assert changed(recipe(), recipe()) == []


def test_choices_and_paths_come_back_from_a_manifest(tmp_path):
    config = dataclasses.replace(
        CKL_RECIPES["smoke"](),
        resuscitation_ratio=0.5,
        resuscitation_factor=2.0,
        control=Control.RANDOM_ROWS,
        coefficients=tmp_path,
        resuscitation_site=ResuscitationSite.DOWN,
        resuscitation_layers=(0, 2),
    )
    again = from_json(CklConfig, as_json(config))
    assert again == config
    assert again.control is Control.RANDOM_ROWS
    assert again.coefficients == tmp_path


SAME = [
    (EditForm.HOOKS, {"resuscitation_site": "down"}, {"resuscitation_site": "up"}),
    (EditForm.HOOKS, {"resuscitation_site": "preserving"}, None),
    (EditForm.HOOKS, {"resuscitation_site": "preserving", "control": Control.RANDOM_ROWS}, None),
    (EditForm.WEIGHTS, {"control": Control.IDENTITY}, None),
    *(
        (form, {"control": Control.ROW_LEARNING_RATES, "resuscitation_site": site}, given)
        for form, site in (("hooks", "up"), ("weights", "down"))
        for given in ({"control": Control.ROW_LEARNING_RATES},)
    ),
]
OTHER = [
    (EditForm.WEIGHTS, {"resuscitation_site": "down"}, {"resuscitation_site": "up"}),
    (EditForm.WEIGHTS, {"resuscitation_site": "preserving"}, None),
    (EditForm.HOOKS, {"resuscitation_site": "gate"}, {"resuscitation_site": "up"}),
    (EditForm.HOOKS, {"attention_temperature": 1.5}, {}),
    (EditForm.HOOKS, {"resuscitation_factor": 3.0}, {}),
    (
        EditForm.HOOKS,
        {"control": Control.MATCHED_NOISE, "resuscitation_site": "down"},
        {"control": Control.MATCHED_NOISE},
    ),
]


@pytest.mark.parametrize(
    ("form", "one", "other", "same"),
    [*((*case, True) for case in SAME), *((*case, False) for case in OTHER)],
)
def test_which_edits_train_the_same(form, one, other, same):
    """`other` is None for the unedited run."""
    plain = as_json(CKL_RECIPES["smoke"]())
    first = {**plain, **UP, "edit_form": form, **one}
    second = plain if other is None else {**plain, **UP, "edit_form": form, **other}
    assert (deciding_edits(first) == deciding_edits(second)) is same


def test_another_versions_configuration_is_refused():
    stored = as_json(PRETRAIN_RECIPES["tiny"]())
    del stored["d_mlp"]
    with pytest.raises(ValueError, match="this version differ in 'd_mlp'; go on with the version"):
        from_json(PretrainConfig, stored)


def test_the_paper_recipe_has_every_value_of_the_released_configuration():
    """Typed from the configuration file and the hard-coded values that the notes list."""
    config = CKL_RECIPES["paper-1b"]()
    released = {
        "row_length": 1024,
        "batch_size": 128,
        "micro_batch_size": 16,
        "epochs": 1,
        "shuffle": False,
        "learning_rate": 4e-4,
        "betas": (0.9, 0.95),
        "eps": 1e-5,
        "weight_decay": 0.1,
        "decay": DecayGroup.LINEAR_WEIGHTS,
        "schedule": ScheduleKind.COSINE,
        "warmup_start": 0.1,
        "final_fraction": 0.1,
        "clip_norm": 1.0,
        "precision": Precision.BF16,
        "seed": 6198,
        "injection_interval": 160,
        "probe_every": 160,
        "checkpoint_every": 160,
        "paraphrase": 70,
        "once": 60,
        "document_mask": False,
    }
    assert {name: getattr(config, name) for name in released} == released
    assert config.rows_needed() == 204_800
    settings = config.settings(config.steps)
    assert settings.steps == 1600
    assert round(settings.schedule.warmup_fraction * settings.steps) == 80
    # Injections at global steps 160, 320, ..., 1600, counted after the batch was taken.
    steps = [config.first_injection + 160 * i for i in range(10)]
    assert [step + 1 for step in steps] == list(range(160, 1601, 160))
    assert config.last_injection == steps[-1]


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("lr-1e-3", {"learning_rate": 1e-3}),
        ("lr-1e-4", {"learning_rate": 1e-4}),
        (
            "paper-7b",
            {
                "model": "allenai/OLMo-7B-hf",
                "micro_batch_size": 4,
                "gradient_checkpointing": True,
            },
        ),
        ("three-epochs", {"epochs": 3, "steps": 4800, "injection_cycles": 3}),
    ],
)
def test_variants_differ_from_the_paper_in_what_their_name_says(name, differs):
    config, paper = CKL_RECIPES[name](), CKL_RECIPES["paper-1b"]()
    assert changed(config, paper) == [f for f in vars(paper) if f in differs]
    assert {field: getattr(config, field) for field in differs} == differs
    assert config.last_injection == config.steps - 1


def test_large_batches_see_the_same_rows_in_fewer_steps():
    config, paper = CKL_RECIPES["batch-2048"](), CKL_RECIPES["paper-1b"]()
    assert config.rows_needed() == paper.rows_needed()
    assert (config.steps, config.injection_interval) == (100, 10)
    assert config.last_injection == 99


def test_factual_acquisition_injects_every_hundred_steps_and_scores_after_each():
    config = CKL_RECIPES["fka-every-step"]()
    assert (config.first_injection, config.last_injection) == (0, 900)
    assert (config.paraphrase, config.duplication, config.once, config.held_out) == (40, 40, 40, 10)
    assert (config.probe_every, config.steps, config.row_length) == (1, 2000, 2048)
    # A straight line from 3e-4 at step 5,000 to 3e-5 at step 476,837, read at step 113,000.
    line = 3e-4 + (3e-5 - 3e-4) * (113_000 - 5_000) / (476_837 - 5_000)
    assert math.isclose(config.learning_rate, line, rel_tol=1e-12)


def test_the_defaults_of_the_loop_are_those_of_its_own_settings():
    """They are written twice: flat for the commands, nested for the loop."""
    config = CKL_RECIPES["smoke"]()
    settings = config.settings(200)
    assert settings.optimizer == OptimizerSettings(learning_rate=config.learning_rate)
    assert settings.schedule == ScheduleSettings()


def test_every_setting_reaches_the_loop():
    others = {
        "micro_batch_size": 3,
        "learning_rate": 7e-5,
        "schedule": ScheduleKind.LINEAR,
        "warmup_fraction": 0.11,
        "warmup_start": 0.13,
        "final_fraction": 0.17,
        "schedule_count": RateCount.FROM_ZERO,
        "betas": (0.8, 0.99),
        "eps": 1e-7,
        "weight_decay": 0.03,
        "decay": DecayGroup.NONE,
        "clip_norm": None,
        "precision": Precision.FP16,
        "compile": True,
        "gradient_checkpointing": True,
        "seed": 23,
        "resume_every": 29,
    }
    settings = dataclasses.replace(CKL_RECIPES["smoke"](), **others).settings(200)
    flat = {
        **vars(settings),
        **vars(settings.optimizer),
        **vars(settings.schedule),
        "schedule": settings.schedule.kind,
        "schedule_count": settings.schedule.count,
    }
    assert {name: flat[name] for name in others} == others


def test_checkpoints_double_and_then_come_at_equal_distances():
    config = dataclasses.replace(PRETRAIN_RECIPES["tiny"](), steps=100, checkpoint_every=30)
    assert config.checkpoint_steps() == (0, 1, 2, 4, 8, 16, 30, 60, 90, 100)
    settings = config.settings()
    due = [step for step in range(101) if settings.checkpoint_is_due(step)]
    assert tuple(due) == config.checkpoint_steps()
    plain = dataclasses.replace(config, log_checkpoints=False)
    assert plain.checkpoint_steps() == (0, 30, 60, 90, 100)


@pytest.mark.parametrize(
    ("recipe", "changes", "line"),
    [
        ("tiny", {"row_length": 2048}, "rows of 2048 tokens are longer than the 1024 positions"),
        ("tiny", {"steps": 0}, "must be 1 or more, found 0 and 50"),
        ("tiny", {"corpus": (), "fact_documents": 0}, "nothing to train on"),
        ("tiny", {"held_out": ()}, "entropies are measured on held-out text"),
        ("tiny", {"n_heads": 5}, "an even width"),
        ("tiny", {"facts_asked": 0}, "--facts-asked must be 1 or more, or None, found 0"),
        ("tiny", {"row_length": 1}, "--row-length must be 2 or more, found 1"),
        ("tiny", {"learning_rate": 0.0}, "learning_rate must be above 0"),
        ("smoke", {"steps": 79}, "last injection would be in batch 79 of a run of 79 steps"),
        ("smoke", {"injection_interval": 999}, "batch 9989 of a run of 100 steps"),
        ("smoke", {"steps": 0}, "steps must be 1 or more, found 0"),
        ("smoke", {"epochs": 0}, "--epochs must be 1 or more, found 0"),
        ("smoke", {"once": -1}, "give 0 or more of each"),
        ("smoke", {"resuscitation_ratio": 0.5}, "--resuscitation-factor how much; give both"),
        ("smoke", {"control": Control.REDO}, "a --control is one of a resuscitation"),
        (
            "smoke",
            {**UP, "control": Control.REDO, "edit_form": EditForm.HOOKS},
            "give --edit-form weights",
        ),
        (
            "smoke",
            {"attention_temperature": 2.0, "temperature_schedule": Schedule.LINEAR},
            "changes during the run, which weights cannot express; give --edit-form hooks",
        ),
        ("smoke", {"evaluation_corpora": ()}, "first of --evaluation-corpora; give one"),
    ],
)
def test_settings_that_do_not_go_together(recipe, changes, line):
    config = recipe_named(recipe, {**PRETRAIN_RECIPES, **CKL_RECIPES})
    with pytest.raises(ValueError, match=line):
        dataclasses.replace(config, **changes)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="no recipe 'paper1b'; did you mean paper-1b"):
        recipe_named("paper1b", CKL_RECIPES)
