"""`python -m analysis.remix_study`: which runs are planned, and real ones from start to report."""

import json
import shlex
from pathlib import Path

import pytest

from analysis.jobs import in_groups
from analysis.remix_report import main as report
from analysis.remix_study import ArmSettings, Study, main, plan_study, stage_jobs
from tests.analysis.job_words import check_words
from tests.reference.first_layers import first_layers
from training.remix import COMMAND, smoke
from training.remix import main as train

RUNS = Path("runs")


def study_arguments(texts, model, out, *extra):
    """A study of one seed."""
    return run_arguments(texts, model, out, "--seeds", "1", *extra)


def run_arguments(texts, model, out, *extra):
    """Runs of a second or two."""
    return [
        *("--recipe", "smoke", "--model", str(model), "--out", str(out)),
        *("--items", "7", "--key-length", "2", "--epochs", "6", "--batch-size", "5"),
        *("--gradient-every", "None", "--relearning-steps", "None", "--no-generation"),
        *("--evaluation-corpora", str(texts / "familiar.jsonl"), "--evaluation-tokens", "101"),
        *("--entropy-tokens", "None", "--cloze", "None", "--row-length", "43", *extra),
    ]


def plan_of(study="arms", **given):
    seeds = given.pop("seeds", 1)
    config = given.pop("config", smoke())
    return plan_study(config, Study(study), ArmSettings(**given), seeds=seeds)


def by_name(plan):
    return {name.removesuffix("-seed-0"): config for name, config in plan.items()}


def test_the_arms_are_those_that_were_planned_and_share_stage_a():
    plan = plan_of(seeds=3)
    assert [config.seed for config in plan.values()] == [0] * 10 + [1] * 10 + [2] * 10
    arms = by_name(dict(list(plan.items())[:10]))
    mixes = {
        "no-mixing": ("none",),
        "random-at-a": ("random", "none"),
        "generic-at-a": ("generic", "none"),
        "random-later": ("none", "random"),
        "generic-later": ("none", "generic"),
        "both": ("random", "generic"),
        "replay": ("none",),
        "self-replay": ("none",),
        "as-many-steps": ("random", "generic"),
        "resuscitated": ("none",),
    }
    assert {name: config.mix for name, config in arms.items()} == mixes
    assert {name: str(config.replay) for name, config in arms.items()} == {
        **dict.fromkeys(arms, "none"),
        "replay": "items",
        "self-replay": "self",
    }
    assert arms["as-many-steps"].no_mix_control == "steps"
    assert arms["resuscitated"].resuscitation_ratio == 0.5
    jobs = stage_jobs(plan, "smoke", RUNS)[:10]
    shared = {job.name: job.needs[0] for job in jobs if job.needs}
    assert shared == {
        **dict.fromkeys(
            (
                f"{name}-seed-0"
                for name in ("random-later", "generic-later", "replay", "self-replay")
            ),
            "no-mixing-seed-0",
        ),
        "both-seed-0": "random-at-a-seed-0",
    }
    # Reports have the order of the study, whatever runs share.
    assert list(arms) == list(mixes)


def test_a_run_goes_on_from_one_that_comes_before_it_in_the_same_group():
    plan = plan_of(seeds=2)
    groups = in_groups(stage_jobs(plan, "smoke", RUNS))
    assert sorted(job.name for group in groups for job in group) == sorted(plan)
    # Plain, random at A, generic at A, control and edited start, of two seeds.
    assert len(groups) == 10
    for first, *others in groups:
        assert first.config == plan[first.name]
        assert first.needs == ()
        assert {job.needs for job in others} <= {(first.name,)}
        for job in others:
            assert job.config.from_stage_a == RUNS / first.name
            assert plan[job.name].stage_a() == plan[first.name].stage_a()


@pytest.mark.parametrize(
    ("study", "count", "arm", "field", "value"),
    [
        ("main-table", 2 * 3 * 6, "kvr-math-both", "data", ("kvr", "math")),
        ("main-table", 2 * 3 * 6, "triviaqa-lama-generic-later", "mix", ("none", "generic")),
        ("replay-ratios", 5, "replay-0.05", "replay_ratio", 0.05),
        ("mix-ratios", 9, "later-ratio-0.5", "mix_ratio", (0.5,)),
        ("mix-ratios", 9, "at-a-ratio-4", "mix", ("random", "none")),
        ("mix-lengths", 9, "later-16-words", "mix_words", 16),
        ("three-stages", 4, "both", "data", ("kvr", "kvr", "kvr")),
        ("three-stages", 4, "both", "mix", ("random", "generic", "generic")),
        ("three-stages", 4, "random-at-a", "mix", ("random", "none", "none")),
        ("familiar", 5, "random-later", "familiarity_items", 500),
        ("familiar", 5, "fineweb-later", "mix", ("none", "fineweb")),
    ],
)
def test_every_study_has_its_arms(study, count, arm, field, value):
    sets = {"first_sets": ("kvr", "triviaqa"), "later_sets": ("lama", "math", "gsm8k")}
    plan = plan_of(study, **sets)
    assert len(plan) == count
    assert getattr(by_name(plan)[arm], field) == value


@pytest.mark.parametrize("study", ["arms", "mix-ratios", "three-stages", "familiar"])
def test_the_words_of_a_run_are_parsed_to_its_configuration(study):
    for job in stage_jobs(plan_of(study), "smoke", RUNS):
        check_words(job, COMMAND, RUNS)


def test_a_study_lists_makes_skips_and_reports_its_runs(texts, pretrained, tmp_path, capsys):
    out = tmp_path / "study"
    words = study_arguments(texts, pretrained, out, "--arms", "no-mixing", "replay", "random-at-a")
    words += ["--mix-words", "2", "--replay-ratio", "0.5"]
    assert main([*words, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[:3] for line in lines] == [["python", "-m", "training.remix"]] * 3
    assert sum("--from-stage-a" in line for line in lines) == 1
    assert not out.exists()
    # One shard leaves the other's runs undone, and the report waits.
    assert main([*words, "--shard", "2/2"]) == 0
    printed = capsys.readouterr().out
    assert "3 runs: 3 arms, 1 seed each; stage A is trained 2 times" in printed
    assert "1 of 1: random-at-a-seed-0, " in printed
    assert "2 of 3 runs are not over; the report waits for them" in printed
    records = (out / "runs/random-at-a-seed-0/stage-B/records.jsonl").read_bytes()
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "1 are over; 2 to make, about " in printed
    assert "2 of 2: replay-seed-0, " in printed
    assert (out / "runs/random-at-a-seed-0/stage-B/records.jsonl").read_bytes() == records
    assert not (out / "runs/replay-seed-0/stage-A").exists()
    content = json.loads((out / "report/remix.json").read_text())
    stages = content["tables"]["stages"]
    assert [(row["arm"], row["stage"], row["shared"]) for row in stages] == [
        ("no mixing", "A", False),
        ("no mixing", "B", False),
        ("random at A", "A", False),
        ("random at A", "B", False),
        ("replay of 50 %", "A", True),
        ("replay of 50 %", "B", False),
    ]
    moments = {row["checkpoint"] for row in content["tables"]["depths"]}
    assert moments == {"start", "after A", "after B"}
    row = next(
        row
        for row in content["tables"]["depths"]
        if (row["arm"], row["checkpoint"]) == ("no mixing", "after B")
    )
    readable, asked = first_layers(out / "runs/no-mixing-seed-0", "B", k=10)
    assert 0 < row["share_found"] == pytest.approx(len(readable) / asked)
    changes = content["tables"]["depth_changes"]
    # The shared stage A is told once; replay and mix are also held against the plain run.
    told = {(row["arm"], row["before"], row["after"]) for row in changes}
    assert ("replay of 50 %", "start", "after A") not in told
    assert {("replay of 50 %", "base after B", "after B"), ("no mixing", "start", "after A")} < told
    assert "analysis.remix_study --recipe smoke " in content["command"]
    assert main(words) == 0
    assert "all 3 are over" in capsys.readouterr().out


def test_arms_whose_edits_are_hooks_are_not_located(texts, pretrained, tmp_path):
    edit = ["--resuscitation-ratio", "0.5", "--resuscitation-factor", "2", "--edit-form", "hooks"]
    edit += ["--coefficient-corpus", str(texts / "familiar.jsonl"), "--coefficient-tokens", "199"]
    for name, extra in (("plain", []), ("hooked", edit)):
        assert train(run_arguments(texts, pretrained, tmp_path / name, *extra)) == 0
    runs = [str(tmp_path / name) for name in ("plain", "hooked")]
    out = tmp_path / "report"
    assert report([*runs, "--localization", "--localization-items", "5", "--out", str(out)]) == 0
    tables = json.loads((out / "remix.json").read_text())["tables"]
    assert {row["arm"] for row in tables["depths"]} == {"no mixing"}
    assert len({row["arm"] for row in tables["stages"]}) == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shard", "3/2"], "--shard '3/2' must be i/n"),
        (["--mix", "random"], "--mix is the study's to choose"),
        (["--replay", "items"], "--replay is the study's to choose"),
        (["--seeds", "0"], "a study needs 1 or more --seeds, found 0"),
        (["--arms", "bth"], "the study has no arm 'bth'; did you mean both? It has no-mixing, "),
        (["--study", "replay"], "--study"),
        (["--recipe", "smok"], "there is no recipe 'smok'; did you mean smoke?"),
        (["--seds", "2"], "there is no option --seds; did you mean --seeds?"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, extra, message):
    assert main(["--model", "nowhere", "--out", str(tmp_path / "study"), *extra]) == 2
    error = capsys.readouterr().err
    assert error.startswith("analysis.remix_study: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "study").exists()


def test_another_study_in_the_same_folder_is_refused(texts, pretrained, tmp_path, capsys):
    out = tmp_path / "study"
    words = [*study_arguments(texts, pretrained, out, "--arms", "no-mixing"), "--no-localization"]
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, "--epochs", "7"]) == 2
    error = capsys.readouterr().err
    assert "holds a run with another configuration.epochs" in error
    assert error.count("\n") == 1
