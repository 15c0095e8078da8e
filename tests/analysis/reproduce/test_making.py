"""Jobs are made when what they need is over, once each, whatever happens in between."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analysis.reproduce.jobs import Job, depths, in_waves
from analysis.reproduce.making import make_jobs, remove_unneeded

FAKE = "tests.analysis.reproduce.fake_program"
_KILLED = """
import sys
from pathlib import Path
from tests.analysis.reproduce.test_making import fake_jobs, made
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
            1.0,
            needs=wanted,
        )
        for name, wanted in needs.items()
    ]


def made(jobs, folder, **how):
    over = {job.name for job in jobs if job.is_over(folder / "runs")}
    return make_jobs(jobs, jobs, folder, over, at_once=2, cost=lambda job: job.work, **how)


def state_of(process):
    return Path(f"/proc/{process}/status").read_text()


def calls(folder, name):
    return [float(line) for line in (folder / "runs" / name / "calls.txt").read_text().split()]


def test_waves_need_only_those_before_them(tmp_path):
    jobs = fake_jobs(tmp_path)
    assert depths(jobs) == {"first": 0, "left": 1, "right": 1, "last": 2}
    waves = [[job.name for job in wave] for wave in in_waves(jobs[::-1])]
    assert waves == [["first"], ["right", "left"], ["last"]]


def test_jobs_wait_for_what_they_need_and_run_at_once_where_they_can(tmp_path, capsys):
    # Each of both waits for the other one to begin.
    awaiting = {"left": ["right/calls.txt"], "right": ["left/calls.txt"]}
    progress = made(fake_jobs(tmp_path, awaiting=awaiting), tmp_path)
    assert progress.over == set(progress.seconds) == {"first", "left", "right", "last"}
    began = {name: calls(tmp_path, name)[0] for name in progress.over}
    ended = {
        name: float((tmp_path / "runs" / name / "done.json").read_text()) for name in progress.over
    }
    assert ended["first"] < min(began["left"], began["right"])
    assert max(ended["left"], ended["right"]) < began["last"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1 of 4: first, ")
    assert said[0].endswith(" to go")
    assert said[-1].startswith("4 of 4: last, ")
    assert "to go" not in said[-1]
    assert (tmp_path / "logs" / "left.txt").read_text() == "made left\n"


def test_a_failure_is_told_in_a_line_and_what_was_made_is_not_made_again(tmp_path):
    with pytest.raises(ValueError, match=r"^right failed: fake: error: this one cannot; see .*\.t"):
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


def test_no_job_begins_when_the_time_is_over(tmp_path):
    assert made(fake_jobs(tmp_path), tmp_path, minutes=0.0).over == set()
    assert not (tmp_path / "runs").exists()


def test_a_part_makes_its_own_and_leaves_what_waits_for_others(tmp_path):
    jobs = fake_jobs(tmp_path)
    mine = [job for job in jobs if job.name != "right"]
    progress = make_jobs(mine, jobs, tmp_path, (), at_once=1, cost=lambda job: job.work)
    assert progress.over == {"first", "left"}


def test_checkpoints_go_when_nothing_unfinished_needs_them(tmp_path):
    jobs = fake_jobs(tmp_path)
    for job in jobs:
        (tmp_path / "runs" / job.name / "stage-a" / "checkpoints" / "step").mkdir(parents=True)

    def kept():
        return {path.parts[-3] for path in (tmp_path / "runs").rglob("checkpoints")}

    remove_unneeded(jobs, {"first", "left"}, tmp_path, {"first", "left"})
    assert kept() == {"first", "left", "right", "last"}
    remove_unneeded(jobs, {"first", "left", "right"}, tmp_path, {"first", "left"})
    assert kept() == {"left", "right", "last"}
    remove_unneeded(jobs, {"first", "left", "right", "last"}, tmp_path, {"left", "last"})
    assert kept() == {"right"}
