"""Jobs are made when what they need is over, once each, whatever happens in between."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.jobs import (
    Job,
    duration_text,
    in_groups,
    in_waves,
    run_jobs,
    shard_of,
    training_job,
)
from analysis.reproduce_concluding import remove_unneeded
from training.choices import Parallel
from training.ckl import COMMAND as CKL
from training.ckl_config import CKL_RECIPES

FAKE = "tests.analysis.fake_program"
_KILLED = """
import sys
from pathlib import Path
from tests.analysis.test_jobs import fake_jobs, made
if __name__ == "__main__":
    made(fake_jobs(Path(sys.argv[1]), awaiting={"left": ["never"]}), Path(sys.argv[1]))
"""


def fake_jobs(folder, *, awaiting=None, failing=()):
    """first -> (left, right) -> last; some wait for files of others as well."""
    awaited = awaiting or {}
    needs = {
        "first": (),
        "left": ("first",),
        "right": ("first",),
        "last": ("left", "right"),
    }
    return [
        Job(
            name,
            FAKE,
            (
                str(folder / "runs" / name),
                "2" if name in failing else "0",
                *(str(folder / "runs" / file) for file in awaited.get(name, ())),
            ),
            needs=wanted,
            last_file="done.json",
        )
        for name, wanted in needs.items()
    ]


def made(jobs, folder, **how):
    over = {job.name for job in jobs if job.is_over(folder / "runs")}
    return run_jobs(jobs, folder, over, **{"at_once": 2, **how})


def state_of(process):
    return Path(f"/proc/{process}/status").read_text()


def calls(folder, name):
    return [float(line) for line in (folder / "runs" / name / "calls.txt").read_text().split()]


def test_a_run_of_several_processes_is_started_by_torchrun(tmp_path):
    several = replace(CKL_RECIPES["paper-1b"](), corpus="a.jsonl", knowledge=("generated",))
    job = training_job(CKL, "run", several, "paper-1b", tmp_path, processes=4)
    assert job.line().startswith(
        "torchrun --standalone --nproc-per-node 4 -m training.ckl --recipe paper-1b"
    )
    alone = replace(several, parallel=Parallel.NONE)
    assert training_job(CKL, "run", alone, "paper-1b", tmp_path, processes=4).processes is None


@pytest.mark.slow
def test_torchrun_makes_a_run_and_says_why_it_fails(tmp_path):
    first, _, failing, _ = fake_jobs(tmp_path, failing=["right"])
    assert made([replace(first, processes=2)], tmp_path) == {"first"}
    assert len(calls(tmp_path, "first")) == 2
    with pytest.raises(ValueError, match="the run right failed"):
        made([replace(failing, needs=(), processes=1)], tmp_path)


def test_waves_need_only_those_before_them(tmp_path):
    jobs = fake_jobs(tmp_path)
    waves = [[job.name for job in wave] for wave in in_waves(jobs[::-1])]
    assert waves == [["first"], ["right", "left"], ["last"]]
    groups = [[job.name for job in group] for group in in_groups(jobs[:3])]
    assert groups == [["first", "left", "right"]]


def test_shards_make_every_job_once():
    plan = list(range(11))
    parts = [shard_of(plan, f"{part}/4") for part in range(1, 5)]
    assert sorted(one for part in parts for one in part) == plan
    assert shard_of(plan, None) == plan
    for wrong in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(ValueError, match=r"must be i/n, with i from 1 to n"):
            shard_of(plan, wrong)


def test_jobs_wait_for_what_they_need_and_run_at_once_where_they_can(tmp_path, capsys):
    # Each of both waits for the other one to begin.
    awaiting = {"left": ["right/calls.txt"], "right": ["left/calls.txt"]}
    steps = []
    over = made(
        fake_jobs(tmp_path, awaiting=awaiting), tmp_path, on_over=lambda now: steps.append(len(now))
    )
    assert over == {"first", "left", "right", "last"}
    assert steps == [1, 2, 3, 4]
    began = {name: calls(tmp_path, name)[0] for name in over}
    ended = {name: float((tmp_path / "runs" / name / "done.json").read_text()) for name in over}
    assert ended["first"] < min(began["left"], began["right"])
    assert max(ended["left"], ended["right"]) < began["last"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1 of 4: first, ")
    assert said[0].endswith(" to go")
    assert said[-1].startswith("4 of 4: last, ")
    assert "to go" not in said[-1]
    assert (tmp_path / "logs" / "left.txt").read_text() == "made left\n"


def test_a_failure_is_told_in_a_line_and_what_was_made_is_not_made_again(tmp_path):
    with pytest.raises(
        ValueError, match=r"^the run right failed: fake: error: this one cannot; see "
    ):
        made(fake_jobs(tmp_path, failing=("right",)), tmp_path)
    first = calls(tmp_path, "first")
    assert not (tmp_path / "runs" / "last").exists()
    made(fake_jobs(tmp_path), tmp_path)
    assert calls(tmp_path, "first") == first
    assert len(calls(tmp_path, "right")) == 2
    assert len(calls(tmp_path, "last")) == 1


def test_killed_and_started_again_it_repeats_no_finished_job(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_KILLED)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    limit = time.monotonic() + 60
    while not (tmp_path / "runs" / "left" / "calls.txt").is_file():
        assert time.monotonic() < limit, "nothing was made"
        time.sleep(0.02)
    process.kill()
    process.wait()
    worker = int((tmp_path / "runs" / "left" / "pid.txt").read_text())
    while Path(f"/proc/{worker}").exists() and "zombie" not in state_of(worker):
        assert time.monotonic() < limit, "the worker goes on without its parent"
        time.sleep(0.02)
    assert not (tmp_path / "runs" / "left" / "done.json").exists()
    made(fake_jobs(tmp_path), tmp_path)
    assert len(calls(tmp_path, "first")) == 1
    assert len(calls(tmp_path, "left")) == 2
    assert len(calls(tmp_path, "last")) == 1


@pytest.mark.parametrize("at_once", [None, 1])
def test_a_part_makes_its_own_and_leaves_what_waits_for_others(tmp_path, capsys, at_once):
    jobs = fake_jobs(tmp_path, failing=("last",))
    mine = [job for job in jobs if job.name != "right"]
    assert made(mine, tmp_path, minutes=0.0, at_once=at_once) == set()
    assert not (tmp_path / "runs").exists()
    assert made(mine, tmp_path, at_once=at_once) == {"first", "left"}
    assert (tmp_path / "logs" / "left.txt").read_text() == "made left\n"
    with pytest.raises(ValueError, match="the run last failed: "):
        made(jobs, tmp_path, at_once=at_once)
    # What a job of this process says goes to the terminal; that of a worker stays in the log.
    log = (tmp_path / "logs" / "last.txt").read_text()
    said = "fake: error: this one cannot\n"
    assert (log, capsys.readouterr().err) == (("", said) if at_once is None else (said, ""))


def test_checkpoints_go_when_nothing_unfinished_needs_them(tmp_path):
    jobs = fake_jobs(tmp_path)
    for job in jobs:
        (tmp_path / "runs" / job.name / "stage-a" / "checkpoints" / "step").mkdir(parents=True)

    def kept():
        return {path.parts[-3] for path in (tmp_path / "runs").rglob("checkpoints")}

    runs = tmp_path / "runs"
    remove_unneeded(jobs, {"first", "left"}, runs, {"first", "left"})
    assert kept() == {"first", "left", "right", "last"}
    remove_unneeded(jobs, {"first", "left", "right"}, runs, {"first", "left"})
    assert kept() == {"left", "right", "last"}
    remove_unneeded(jobs, {"first", "left", "right", "last"}, runs, {"left", "last"})
    assert kept() == {"right"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.6, "8 s"), (1000, "17 min"), (4000, "1 h 7 min"), (7170, "2 h 0 min")]
)
def test_durations_are_rounded_as_they_are_said(seconds, text):
    assert duration_text(seconds) == text


def test_a_sweep_is_over_only_if_it_is_of_what_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("training.single_run.weights_hash", lambda _folder: "abc")
    model, folder = tmp_path / "tiny", tmp_path / "runs" / "sweep"
    (model / "checkpoints" / "step-000007").mkdir(parents=True)
    (folder / "step-000007").mkdir(parents=True)
    asked = {"model": str(model), "revisions": ["step-000007", "step-000009"], "max_tokens": 10}
    job = Job("sweep", "analysis.entropy", (), last_file="trajectory.csv", asked=asked)
    assert not job.is_over(tmp_path / "runs")
    (folder / "trajectory.csv").touch()
    (folder / "sweep.json").write_text(json.dumps({"model": str(model), "max_tokens": 10}))
    kept = folder / "step-000007" / "entropy.json"
    kept.write_text(json.dumps({"weights_sha256": "abc"}))
    assert job.is_over(tmp_path / "runs")
    more = replace(job, asked={**asked, "max_tokens": 20})
    with pytest.raises(ValueError, match="a sweep with max_tokens 10, not 20"):
        more.is_over(tmp_path / "runs")
    kept.write_text(json.dumps({"weights_sha256": "def"}))
    with pytest.raises(ValueError, match=r"of other weights than .*step-000007 has now"):
        job.is_over(tmp_path / "runs")
