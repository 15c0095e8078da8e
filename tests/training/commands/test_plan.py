"""Plans: numbers worked out by hand from the configuration."""

from dataclasses import replace

import pytest

from interventions.choices import Schedule
from training.ckl import ckl_plan
from training.ckl_config import lab, paper_1b, smoke
from training.options import Control, EditForm
from training.pretrain import pretrain_plan
from training.pretrain_config import tiny


def test_a_pretraining_plan_says_what_the_run_comes_to():
    plan = pretrain_plan(replace(tiny(), steps=10, batch_size=7, row_length=13))
    assert plan.value("training", "tokens") == "910 in 10 steps of 7 rows of 13"
    assert plan.value("model", "parameters") == "3,145,728"
    assert plan.value("training", "arithmetic") == f"about {6 * 3_145_728 * 910:.1e} operations"
    assert plan.value("checkpoints", "number") == "6, at steps 0, 1, 2, 4, 8, 10"
    # Six times 3,145,728 numbers of four bytes.
    assert plan.value("checkpoints", "on the disk") == "75 MB or more"
    assert plan.value("texts", "generated") == (
        "5,000 documents about 24 made-up people and 8 places"
    )


def test_many_steps_are_shown_by_their_ends():
    plan = pretrain_plan(replace(tiny(), steps=1000))
    assert plan.value("checkpoints", "number").endswith("100, 150, ..., 950, 1000")


def test_what_was_changed_is_listed_with_what_it_was():
    plan = pretrain_plan(
        replace(tiny(), steps=10, corpus=(), held_out=(), entropy_tokens=None), tiny()
    )
    assert dict(plan.sections)["changed from the recipe"] == (
        ("corpus", "none, not general-train"),
        ("steps", "10, not 400"),
        ("held_out", "none, not general-heldout"),
        ("entropy_tokens", "None, not 4096"),
    )
    assert "changed from the recipe" not in dict(pretrain_plan(tiny(), tiny()).sections)


def test_a_ckl_plan_says_what_is_met_when():
    plan = ckl_plan(smoke())
    assert plan.value("texts", "injections").startswith(
        "10 rounds, 8 steps apart, in batches 7 to 79"
    )
    assert plan.value("texts", "knowledge") == (
        "generated: 22 passages (6 paraphrased, 2 duplicated, 10 once, 4 held out)"
    )
    assert plan.value("model", "edits") == "none"
    assert plan.value("training", "tokens") == "460,800 in 100 steps of 12 rows of 384"
    assert plan.missing == ()


def test_edits_are_in_the_plan():
    config = replace(
        smoke(),
        resuscitation_ratio=0.5,
        resuscitation_factor=2.0,
        control=Control.MATCHED_NOISE,
        attention_temperature=1.5,
        temperature_schedule=Schedule.LINEAR,
        edit_form=EditForm.HOOKS,
    )
    assert ckl_plan(config).value("model", "edits") == (
        "control matched_noise of a resuscitation: ratio 0.5, factor 2, at up; "
        "attention temperature 1.5, linear; by hooks, a fixed gain in front of the trained weights"
    )


def test_what_the_paper_leaves_open_is_to_be_given():
    plan = ckl_plan(paper_1b())
    assert [line for line in plan.lines() if line.startswith("to be given: ")] == [
        "to be given: --corpus, the text to train on",
        "to be given: --knowledge, the released files of passages and probes, or generated",
    ]
    given = replace(paper_1b(), corpus="x.jsonl", knowledge=("a.json", "b.json"))
    assert ckl_plan(given).missing == ()
    assert ckl_plan(given).value("texts", "knowledge").startswith("a.json, b.json: 130 passages")


def test_a_run_as_long_as_its_corpus_says_so():
    plan = ckl_plan(replace(lab(), steps=None))
    assert plan.value("training", "tokens") == "all that the corpus has, in steps of 32 rows of 512"
    assert plan.value("training", "learning rate").startswith("0.0004; rises over 5% of the steps")


@pytest.mark.parametrize("plan", [pretrain_plan(tiny()), ckl_plan(paper_1b())])
def test_lines_fit_a_terminal(plan):
    assert all(len(line) <= 100 for line in plan.lines())
