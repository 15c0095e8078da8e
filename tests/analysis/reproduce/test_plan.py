"""The plan has every run that a claim is tested on, once each."""

from collections import Counter
from pathlib import Path

import pytest

from analysis.claims import CLAIMS, Scale
from analysis.jobs import in_waves, same_runs
from analysis.reproduce import Experiment, claims_of, needed
from analysis.reproduce_plan import (
    knowledge_work,
    located_names,
    memorization_work,
    plan_part,
    pretraining_work,
    whole_plan,
)
from analysis.reproduce_scales import SCALES, ScaleData, with_data
from tests.analysis.job_words import check_words
from training.choices import NoMixControl
from training.ckl import COMMAND as CKL
from training.options import Control
from training.pretrain import COMMAND as PRETRAIN
from training.remix import COMMAND as REMIX

RUNS = Path("runs")


@pytest.fixture(scope="module")
def jobs():
    return whole_plan(SCALES["smoke"](), RUNS)


def test_every_claim_has_its_experiments():
    assert {one for claim in CLAIMS.values() for one in claim.needs} == set(Experiment)
    for claim in CLAIMS.values():
        assert set(needed(claims_of(claim.needs))) >= set(claim.needs)
        assert set(needed(claims_of(claim.needs))) <= {*claim.needs, Experiment.UNEDITED}


def test_scales_have_the_seeds_and_checkpoints_that_claims_ask_for():
    least = [claim.least for claim in CLAIMS.values()]
    wanted = Scale(
        seeds=max(scale.seeds for scale in least),
        checkpoints=max(scale.checkpoints for scale in least),
        items=max(scale.items for scale in least),
    )
    for made in (made() for made in SCALES.values()):
        config = made.knowledge.config
        assert made.seeds >= wanted.seeds
        # `desk` edits one real model, which has no checkpoints of several ages.
        assert made.checkpoints >= wanted.checkpoints or made.name == "desk"
        assert config.paraphrase + config.duplication + config.once >= wanted.items
        assert min(made.memorization.config.items) >= wanted.items


def test_each_run_is_there_once_after_what_it_needs(jobs):
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    trained = [job.config for job in jobs if job.config is not None]
    assert len(set(trained)) == len(trained)
    for place, job in enumerate(jobs):
        assert set(job.needs) <= set(names[:place])
    assert len(in_waves(jobs)) == 3


@pytest.mark.parametrize("name", SCALES)
def test_no_two_runs_train_the_same(name):
    made = [job for job in whole_plan(SCALES[name](), RUNS) if job.config is not None]
    assert not any(same_runs({job.name: job.config for job in made}).values())
    # A mix of the usual size is an arm of several experiments.
    also = {other: set(job.experiments) for job in made for other in job.also}
    shared = {Experiment.MIXES, Experiment.AMOUNTS}
    assert name != "smoke" or also["remix-at-a-ratio-1-seed-0"] == shared
    assert all(other.startswith("remix-") for other in also)


def test_jobs_are_made_by_the_words_of_their_configurations(jobs):
    commands = {command.program: command for command in (CKL, PRETRAIN, REMIX)}
    by_program = Counter(job.program for job in jobs)
    assert by_program == {
        "training.pretrain": 6,
        "analysis.entropy": 3,
        "analysis.memory_updates": 3,
        "training.ckl": 144,
        "training.remix": 72,
    }
    for program, command in commands.items():
        sample = [job for job in jobs if job.program == program][:: 1 + by_program[program] // 5]
        for job in sample:
            check_words(job, command, RUNS)


def test_experiments_start_where_they_should(jobs):
    def runs(experiment):
        return [job for job in jobs if experiment in job.experiments]

    ages = runs(Experiment.AGES)
    assert [job for job in ages if job.config.revision == "step-000240"] == runs(
        Experiment.UNEDITED
    )
    starts = Counter(job.config.revision for job in ages)
    assert starts == {f"step-{step:06d}": 3 for step in range(30, 241, 30)}
    assert {job.config.probe_every for job in ages} == {1}
    assert all(job.config.model == str(RUNS / job.needs[0]) for job in ages)
    assert {(job.config.seed, job.needs) for job in ages} == {
        (seed, (f"trajectory-seed-{seed}",)) for seed in range(3)
    }
    for experiment in (Experiment.DOSES, Experiment.CONTROLS, Experiment.BATCHES):
        assert {job.config.revision for job in runs(experiment)} == {"step-000240"}
    controls = [job.config for job in runs(Experiment.CONTROLS)]
    assert {config.control for config in controls} == {None, *Control} - {Control.IDENTITY}
    assert {job.needs[0] for job in runs(Experiment.SIZES)} == {
        f"smaller-seed-{seed}" for seed in range(3)
    }
    equal = [job.config for job in runs(Experiment.MIXES) if job.config.no_mix_control]
    assert {config.no_mix_control for config in equal} == {NoMixControl.STEPS}
    assert set(located_names(SCALES["smoke"]())) <= {job.name for job in jobs}


def test_few_experiments_have_only_their_own_trajectories():
    few = plan_part(whole_plan(SCALES["smoke"](), RUNS), [Experiment.ENTROPIES])
    assert [job.name for job in few] == [
        *(f"trajectory-seed-{seed}" for seed in range(3)),
        *(f"entropies-seed-{seed}" for seed in range(3)),
    ]


def test_a_part_has_what_it_needs_and_makes_it_as_the_whole_does(jobs):
    part = plan_part(jobs, [Experiment.THREE_STAGES])
    names = {job.name for job in part}
    assert all(names.issuperset(job.needs) for job in part)
    assert [job for job in jobs if job.name in names] == part
    own = {job.name for job in part if Experiment.THREE_STAGES in job.experiments}
    assert own == {
        f"remix-three-stages-{arm}-seed-{seed}"
        for arm in ("no-mixing", "both")
        for seed in range(3)
    }
    # Their stage A is that of other runs, which have to be made for it.
    assert {"remix-no-mixing-seed-1", "remix-random-at-a-seed-1"} <= names - own


def test_hub_models_have_one_sweep_and_a_seed_for_each_run():
    scale = SCALES["paper"]()
    found = plan_part(whole_plan(scale, RUNS), [Experiment.ENTROPIES, Experiment.AGES])
    assert Counter(job.program for job in found) == {"analysis.entropy": 1, "training.ckl": 24}
    assert all(job.needs == () for job in found)
    assert {job.config.model for job in found if job.config} == {"allenai/OLMo-1B-hf"}


def test_paper_mixes_the_papers_text_where_others_mix_built_in_passages():
    mixes = {
        name: {
            mix
            for job in whole_plan(SCALES[name](), RUNS)
            for mix in getattr(job.config, "mix", ())
        }
        for name in ("smoke", "paper")
    }
    assert "generic" in mixes["smoke"]
    assert {"knowledge-pile", "fineweb"} <= mixes["paper"]
    assert "generic" not in mixes["paper"]


def test_other_models_and_data_take_the_place_of_a_scales():
    given = ScaleData(
        trajectory="some/model",
        revisions=("step10,step20", "step30"),
        knowledge=("a.json",),
        corpus="new.jsonl",
        familiar_corpus="old.jsonl",
        entropy_corpora=("rows.npy",),
    )
    found = whole_plan(with_data(SCALES["smoke"](), given), RUNS)
    assert {job.program for job in found} == {
        *("analysis.entropy", "analysis.memory_updates", "training.ckl", "training.remix")
    }
    runs = [job.config for job in found if job.program == "training.ckl"]
    assert {(config.model, config.knowledge) for config in runs} == {("some/model", ("a.json",))}
    assert {config.revision for config in runs} == {"step10", "step20", "step30"}
    assert {config.corpus for config in runs} == {"new.jsonl", "old.jsonl"}
    measured = next(job.asked for job in found if job.program == "analysis.entropy")
    assert (measured["corpus"], measured["revisions"]) == (
        ["rows.npy"],
        ["step10", "step20", "step30"],
    )
    assert SCALES["paper"]().knowledge.config.missing()


def test_work_counts_tokens_and_parameters():
    scale = SCALES["smoke"]()
    config = scale.trajectory.config
    shape = config.model_shape(config.d_vocab)
    assert pretraining_work(config) == 6 * 240 * 6 * 256 * shape.parameters()
    knowledge = scale.knowledge.config
    trained, looks = 24 * 8 * 384, 24 // 4 + 2
    assert knowledge_work(knowledge, 7) == 6 * 7 * trained + 2 * 7 * looks * 12 * 15 * 40
    plain = scale.memorization.config
    both = memorization_work(plain, 7)
    assert both == pytest.approx(6 * 7 * 60 * (64 + 16) * 24)
    assert memorization_work(plain, 7, stages=1) == pytest.approx(both * 16 / (64 + 16))
