"""Runs that could not start are found before any is made, and none of the scales' is among them."""

from dataclasses import replace
from pathlib import Path

import pytest

from analysis.jobs import Job, training_job
from analysis.reproduce_plan import whole_plan
from analysis.reproduce_scales import SCALES
from analysis.study_runs import refuse_failing
from training.choices import Parallel
from training.ckl import COMMAND as CKL
from training.ckl_config import paper_1b
from training.options import Control
from training.remix import COMMAND as REMIX
from training.remix_config import RemixConfig

RUNS = Path("runs")


def hub_run(**changes):
    """A run whose model, text and passages are of the hub; nothing of it is on this machine."""
    quick = {"tasks": (), "passage_words": 140, "coefficient_tokens": 512, "corpus": "some/corpus"}
    quick |= {"paraphrase": 5, "once": 3, "injection_rounds": 2, "batch_size": 8, "row_length": 512}
    quick |= {"micro_batch_size": None, "injection_interval": 3, "steps": 6, "probe_every": 1}
    return replace(paper_1b(), **{**quick, "knowledge": ("some/passages",), **changes})


def jobs_of(arms):
    return [
        training_job(CKL, f"{name}-seed-{seed}", replace(config, seed=seed), "paper-1b", RUNS)
        for seed in range(2)
        for name, config in arms.items()
    ]


def test_a_schedule_that_does_not_fit_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    edited = {"resuscitation_ratio": 0.5, "resuscitation_factor": 2.0}
    rates = {**edited, "control": Control.ROW_LEARNING_RATES}
    arms = {
        "fits": hub_run(),
        "edited": hub_run(**edited, parallel=Parallel.NONE),
        # 7 and 6 passages in the two rounds, for batches of 6 rows.
        "full": hub_run(batch_size=6),
        "long": hub_run(row_length=64),
        "late": hub_run(lags=(0, 7)),
        "sharded": hub_run(**rates),
    }
    jobs = jobs_of(arms)
    with pytest.raises(ValueError, match="8 of 12 runs cannot start"):
        refuse_failing(jobs, RUNS)
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "12 runs checked, 6 of them different to a start" in printed
    assert "the model allenai/OLMo-1B-hf is not on this machine: a tiny olmo model" in printed
    for line in ("7 passages are to be injected", "but a batch has 6", "a row has 64", "lags of"):
        assert line in printed, (line, printed)
    assert "learning rates of rows need whole parameters" in printed
    table = printed.partition("runs cannot start")[2]
    assert all(f"{name}-seed-0" in table for name in ("full", "long", "late", "sharded"))
    assert "fits-" not in table
    assert "edited-" not in table
    assert not list(tmp_path.iterdir())
    refuse_failing(jobs_of({"fits": hub_run()}), RUNS)
    assert "all can start" in capsys.readouterr().out


def test_stages_and_sweeps_are_tried_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stages = replace(
        REMIX.recipes["familiar-8b"](), items=(13,), batch_size=5, familiarity_items=None
    )
    # LAMA has what is asked of it; a mix of a third of an item has nothing.
    too_few = replace(stages, mix_ratio=(0.02,))
    asked = {"model": "some/pythia", "revisions": ["step1"], "corpus": ["some/corpus", "general"]}
    asked |= {"max_tokens": 9_999_999, "sequence_length": 128}
    jobs = [
        training_job(REMIX, name, config, "familiar-8b", RUNS)
        for name, config in (("fits", stages), ("few", too_few))
    ]
    jobs.append(Job("sweep", "analysis.entropy", (), asked=asked))
    jobs.append(Job("long", "analysis.entropy", (), asked={**asked, "sequence_length": 4096}))
    with pytest.raises(ValueError, match="2 of 4 runs cannot start"):
        refuse_failing(jobs, RUNS)
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    table = printed.partition("runs cannot start")[2]
    assert "few" in table
    assert "the mix ratio is 0.02" in table
    assert "4096" in table
    assert isinstance(jobs[0].config, RemixConfig)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["desk", "lab", "paper"])
def test_every_run_of_a_scale_can_start(scale):
    refuse_failing(whole_plan(SCALES[scale](), RUNS), RUNS)
