"""`python -m analysis.ckl_study`: which runs are planned, and two real ones from start to report."""

import json
import shlex

import pytest

from analysis.checkpoints import evenly_spread, starts_along
from analysis.ckl_study import main, plan_study
from analysis.jobs import training_job
from interventions.choices import ResuscitationSite
from tests.analysis.job_words import check_words
from tests.training.small_runs import ckl_arguments
from training.ckl import COMMAND
from training.ckl_config import smoke
from training.options import Control, EditForm


@pytest.fixture
def folders(tmp_path):
    """A run directory with the checkpoints of the tiny recipe, empty."""
    for step in (0, 1, 2, 4, 8, 16, *range(25, 201, 25)):
        folder = tmp_path / "tiny" / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    return tmp_path / "tiny"


def plan_of(folders, **given):
    options = {"seeds": 3, "sites": tuple(ResuscitationSite)[:4]}
    return plan_study(smoke(), starts_along(str(folders), (), 8), **{**options, **given})


def study_arguments(texts, trajectory, out, *extra):
    """The arguments of small runs, less what a study chooses itself."""
    words = ckl_arguments(texts, trajectory, out)
    place = words.index("--model")
    words[place : place + 2] = ["--trajectory", str(trajectory)]
    return [*words, "--checkpoints", "2", "--seeds", "1", *extra]


def test_starts_are_spread_over_the_steps_and_end_with_the_last():
    steps = [0, 1, 2, 4, 8, 16, *range(25, 201, 25)]
    assert evenly_spread(steps, 8) == list(range(25, 201, 25))
    assert evenly_spread(steps, 4) == [50, 100, 150, 200]
    assert evenly_spread(steps, 1) == [200]
    assert evenly_spread([0, 1, 2, 3, 6, 7], 5) == [1, 2, 3, 6, 7]
    assert evenly_spread([10, 90, 95, 100], 3) == [10, 90, 100]
    with pytest.raises(ValueError, match="--checkpoints 6 was asked for, found 5 after step 0"):
        evenly_spread([0, 1, 2, 3, 6, 7], 6)


def test_a_hub_model_has_the_revisions_that_are_named():
    named = ("step9000-tokens1B,step1000-tokens0B", "step5000-tokens1B", "main")
    starts = starts_along("some/model", named, 2)
    assert starts.revisions == ("step5000-tokens1B", "step9000-tokens1B")
    plan = plan_study(smoke(), starts, seeds=1, sites=())
    assert {config.model for config in plan.values()} == {"some/model"}
    assert [config.revision for config in plan.values()][:2] == list(starts.revisions)
    with pytest.raises(ValueError, match="--checkpoints 4 was asked for, found 3 after step 0"):
        starts_along("some/model", named, 4)


def test_a_plan_has_every_start_site_and_control_with_every_seed(folders):
    plan = plan_of(folders)
    configs = list(plan.values())
    assert len(plan) == 3 * (8 + 4 + len(Control))
    assert [config.seed for config in configs] == sorted(config.seed for config in configs)
    unedited = [config for config in configs if not config.is_edited]
    assert [config.revision for config in unedited[:8]] == [
        f"step-{step:06d}" for step in range(25, 201, 25)
    ]
    edited = [config for config in configs if config.is_edited]
    assert {config.revision for config in edited} == {"step-000200"}
    assert {config.resuscitation_site for config in edited if config.control is None} == {
        *("up", "down", "preserving", "gate")
    }
    assert {config.control for config in edited} == {None, *Control}
    assert {config.edit_form for config in edited} == {EditForm.WEIGHTS}
    assert all(
        (config.resuscitation_ratio, config.resuscitation_factor) == (0.5, 2.0) for config in edited
    )


def test_the_words_of_a_run_are_parsed_to_its_configuration(folders, tmp_path):
    for name, config in plan_of(folders, seeds=1).items():
        check_words(training_job(COMMAND, name, config, "smoke", tmp_path), COMMAND, tmp_path)


def test_a_study_lists_makes_skips_and_reports_its_runs(texts, pretrained, tmp_path, capsys):
    out = tmp_path / "study"
    arguments = study_arguments(texts, pretrained, out, "--no-edits")
    assert main([*arguments, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[:3] for line in lines] == [["python", "-m", "training.ckl"]] * 2
    assert not out.exists()
    # One shard leaves the other's run undone, and the report waits.
    assert main([*arguments, "--shard", "2/2"]) == 0
    printed = capsys.readouterr().out
    assert (
        "2 runs: 2 checkpoints (step-000003, step-000007) and 0 edits of the last, 1 seed each"
        in printed
    )
    assert "how long they take is known after the first" in printed
    assert "1 of 1: step-000007-seed-0, " in printed
    assert "1 of 2 runs are not over; the report waits for them" in printed
    assert "the last injection is in update 8" in (out / "logs/step-000007-seed-0.txt").read_text()
    records = (out / "runs/step-000007-seed-0/records.jsonl").read_bytes()
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "1 are over; 1 to make, about " in printed
    assert "at the pace of those over" in printed
    assert "1 of 1: step-000003-seed-0, " in printed
    assert (out / "runs/step-000007-seed-0/records.jsonl").read_bytes() == records
    content = json.loads((out / "report/ckl.json").read_text())
    arms = {row["arm"] for row in content["tables"]["acquired"]}
    assert arms == {"step 3", "step 7"}
    assert "analysis.ckl_study --recipe smoke --out study" in content["command"]
    assert main(arguments) == 0
    assert "all 2 are over" in capsys.readouterr().out


def test_all_edits_of_a_real_model_can_be_listed(texts, pretrained, tmp_path, capsys):
    out = tmp_path / "study"
    assert main([*study_arguments(texts, pretrained, out), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # The model has a gate, so four sites; a control that does nothing is the unedited run.
    same, *commands = lines
    assert same.endswith(": step-000007-control-identity is step-000007")
    assert len(commands) == 2 + 4 + len(Control) - 1


def test_behind_hooks_fewer_edits_are_runs_of_their_own(texts, pretrained, tmp_path, capsys):
    words = study_arguments(texts, pretrained, tmp_path / "study", "--edit-form", "hooks")
    assert main([*words, "--list", "--seeds", "2"]) == 0
    same, *commands = capsys.readouterr().out.splitlines()
    assert set(same.partition(": ")[2].split("; ")) == {
        "step-000007-down is step-000007-up",
        "step-000007-preserving is step-000007",
        "step-000007-control-identity is step-000007",
    }
    # Two starts, up and gate, and controls other than that one and redo.
    assert len(commands) == 2 * (2 + 2 + len(Control) - 2)
    assert not any("--control redo" in command for command in commands)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shard", "3/2"], "--shard '3/2' must be i/n"),
        (["--model", "other"], "--model is the study's to choose"),
        (["--resuscitation-site", "down"], "--resuscitation-site is the study's to choose"),
        (["--checkpoints", "9"], "--checkpoints 9 was asked for, found 5 after step 0"),
        (["--seeds", "0"], "needs 1 or more --seeds, found 0"),
        (["--checkpoints", "0"], "1 or more --checkpoints are needed, found 0"),
        (["--revisions", "step-000009"], "has no checkpoint 'step-000009'; it has step-000000"),
        (["--recipe", "smok"], "there is no recipe 'smok'; did you mean smoke?"),
        (["--seds", "2"], "there is no option --seds; did you mean --seeds?"),
        (["--trajectory", "nowhere"], "--trajectory nowhere has no checkpoints; give the --out"),
    ],
)
def test_bad_input_is_one_line(texts, pretrained, tmp_path, capsys, extra, message):
    words = study_arguments(texts, pretrained, tmp_path / "study", "--no-edits", *extra)
    if "--recipe" in extra:
        words = words[2:]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("analysis.ckl_study: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "study").exists()


def test_a_dry_run_of_a_study_says_which_runs_cannot_start(texts, pretrained, tmp_path, capsys):
    words = study_arguments(texts, pretrained, tmp_path / "study", "--no-edits", "--dry-run")
    assert main(words) == 0
    assert "2 runs checked, 1 of them different to a start" in capsys.readouterr().out
    assert main([*words, "--batch-size", "1"]) == 2
    found = capsys.readouterr()
    assert "2 runs cannot start" in found.out
    assert "passages are to be injected at step" in " ".join(found.out.replace("│", " ").split())
    assert "2 of 2 runs cannot start" in found.err
    assert not (tmp_path / "study").exists()


def test_a_run_that_fails_stops_the_study_and_says_which(texts, pretrained, tmp_path, capsys):
    out = tmp_path / "study"
    words = study_arguments(texts, pretrained, out, "--no-edits", "--steps", "999")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "training.ckl: error: " in error
    assert "of the 999 steps; give more text" in error
    assert "analysis.ckl_study: error: the run step-000003-seed-0 failed" in error
