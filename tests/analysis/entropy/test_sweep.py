"""Sweeps over checkpoints: through the command, killed and gone on with, and over processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import analysis.entropy as entropy
import probes
from analysis.entropy import main
from tests.models import tiny_hf_model, tiny_tokenizer

ROOT = Path(__file__).parents[3]
STEPS = (8, 64, 512)
SMALL = ["--sequence-length", "13", "--batch-size", "2"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A run directory with three checkpoints, and two corpora."""
    folder = tmp_path_factory.mktemp("inputs")
    for step in STEPS:
        path = folder / "run" / "checkpoints" / f"step-{step:06d}"
        tiny_hf_model("llama", seed=step).save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)
    for name, factor in (("plants", 7), ("stars", 11)):
        lines = [
            json.dumps({"text": " ".join(f"w{(factor * i + d * i * i) % 97}" for i in range(29))})
            for d in range(9)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def arguments(inputs, out, *extra):
    corpora = [str(inputs / "plants.jsonl"), str(inputs / "stars.jsonl")]
    model = str(inputs / "run")
    return ["--model", model, "--corpus", *corpora, "--out", str(out), *SMALL, *extra]


def results(out):
    """Every result of a sweep, by its place; without what may differ between runs: nothing."""
    found = {str(p.relative_to(out)): json.loads(p.read_text()) for p in out.rglob("entropy.json")}
    return dict(sorted(found.items()))


def test_a_sweep_gives_a_folder_per_checkpoint_a_table_and_a_page(inputs, tmp_path, capsys):
    assert main(arguments(inputs, tmp_path / "out", "--variants", "relu_gate")) == 0
    out = tmp_path / "out"
    places = {f"step-{s:06d}/{c}/entropy.json" for s in STEPS for c in ("plants", "stars")}
    assert set(results(out)) == places
    table = pd.read_csv(out / "trajectory.csv")
    model = probes.load_model(str(inputs / "run" / "checkpoints" / "step-000064"))
    batches = probes.token_batches(
        probes.load_corpus(str(inputs / "stars.jsonl")),
        model.tokenizer,
        sequence_length=13,
        batch_size=2,
    )
    alone = probes.measure_entropy(model, batches, variants=["relu_gate"])
    rows = table[(table["step"] == 64) & table["corpus"].str.endswith("stars.jsonl")]
    totals = rows[rows["layer"].isna()].set_index("measure")["entropy"]
    assert totals["|c|"] == pytest.approx(alone.knowledge.total, rel=1e-12)
    assert totals["|max(gate, 0) · up|"] == pytest.approx(
        alone.variants["relu_gate"].total, rel=1e-12
    )
    assert totals["attention"] == pytest.approx(alone.attention.total, rel=1e-12)
    layers = rows[(rows["measure"] == "|c|") & rows["layer"].notna()]["entropy"].tolist()
    assert layers == pytest.approx(alone.knowledge.per_layer.tolist(), rel=1e-12)
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(f"page: {out / 'trajectory.html'}")
    assert "step-000512" in printed


def test_going_on_repeats_nothing_that_is_finished(inputs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert entropy.main(arguments(inputs, out)) == 0
    whole = results(out)
    finished = out / "step-000008" / "plants" / "entropy.json"
    stamp = finished.stat().st_mtime_ns
    for path in sorted((out / "step-000512").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (out / "step-000512").rmdir()
    measured = []
    measure = entropy.measure
    monkeypatch.setattr(
        entropy, "measure", lambda a, m, t, label: measured.append(label) or measure(a, m, t, label)
    )
    assert entropy.main(arguments(inputs, out)) == 0
    assert measured == ["step-000512", "step-000512"]
    assert finished.stat().st_mtime_ns == stamp
    assert results(out) == whole


@pytest.mark.parametrize("what", ["weights", "corpus", "dtype", "torch"])
def test_results_of_other_weights_texts_or_versions_are_refused(
    inputs, tmp_path, capsys, monkeypatch, what
):
    """Nothing is measured either: what changed is found out before."""
    shutil.copytree(inputs, tmp_path / "in")
    given = arguments(tmp_path / "in", tmp_path / "out", "--kinds", "next_token")
    assert entropy.main(given) == 0
    shutil.rmtree(tmp_path / "out" / "step-000008")
    before = results(tmp_path / "out")
    folder = tmp_path / "in/run/checkpoints/step-000512"
    match what:
        case "weights":
            tiny_hf_model("llama", seed=5).save_pretrained(folder)
        case "dtype":
            tiny_hf_model("llama", seed=512).bfloat16().save_pretrained(folder)
            what = "weights"  # their hash is of their type as well
        case "corpus":
            path = tmp_path / "in/stars.jsonl"
            path.write_text(path.read_text().replace("w11", "w13"))
        case _:
            monkeypatch.setattr("probes.results._version", lambda name: f"{name} 0")
            what = "mnemoscope"
    assert entropy.main(given) == 2
    error = capsys.readouterr().err
    assert f"was measured with {what} " in error
    assert "give another --out, or remove it to measure again" in error
    assert results(tmp_path / "out") == before


def start(argv):
    command = [sys.executable, "-m", "analysis.entropy", *argv]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"}, **quiet)


@pytest.mark.parametrize("moment", [pytest.param("between", marks=pytest.mark.slow), "within"])
def test_a_killed_sweep_ends_the_same(inputs, tmp_path, moment):
    assert main(arguments(inputs, tmp_path / "whole")) == 0
    out = tmp_path / "killed"
    child = start(arguments(inputs, out))
    # Between: as soon as the first checkpoint is there. Within: while its results are written.
    sign = "step-000008" if moment == "between" else ".step-000008.partial-*"
    deadline = time.monotonic() + 60
    while not list(out.glob(sign)) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.returncode == -signal.SIGKILL, "the sweep was over before it could be killed"
    assert len(results(out)) < 2 * len(STEPS)
    before = {p: p.stat().st_mtime_ns for p in out.glob("step-*/*/entropy.json")}
    assert main(arguments(inputs, out)) == 0
    assert results(out).keys() == results(tmp_path / "whole").keys()
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert results(out) == {**results(out), **results(tmp_path / "whole")}


def test_two_processes_sweep_like_one(inputs, tmp_path):
    assert main(arguments(inputs, tmp_path / "one")) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "analysis.entropy"]
    done = subprocess.run(
        [*command, *arguments(inputs, tmp_path / "two")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("page: ") == 1
    one, two = (pd.read_csv(tmp_path / name / "trajectory.csv") for name in ("one", "two"))
    assert one["entropy"].tolist() == pytest.approx(two["entropy"].tolist(), rel=1e-12)


@pytest.mark.slow
def test_one_model_over_two_processes_prints_once(inputs, tmp_path):
    argv = arguments(inputs, tmp_path / "out")
    argv[1] = str(inputs / "run" / "checkpoints" / "step-000064")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "analysis.entropy", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("page: ") == 1
    assert (tmp_path / "out" / "plants" / "entropy.json").is_file()


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (["--sequence-length", "17"], "holds a sweep with sequence_length 13, not 17"),
        (["--overwrite"], "--overwrite is for single results; a sweep goes on"),
    ],
)
def test_a_sweep_of_other_settings_is_refused(inputs, tmp_path, capsys, extra, line):
    assert main(arguments(inputs, tmp_path / "out", "--kinds", "next_token")) == 0
    before = results(tmp_path / "out")
    assert main(arguments(inputs, tmp_path / "out", "--kinds", "next_token", *extra)) == 2
    assert line in capsys.readouterr().err
    assert results(tmp_path / "out") == before


def test_a_folder_that_holds_something_else_is_refused(inputs, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(arguments(inputs, tmp_path)) == 2
    assert "exists and holds no sweep; give another folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_mistake_before_the_first_result_binds_nobody(inputs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(arguments(inputs, out, "--kinds", "next_token", "--blocks", "1")) == 2
    assert "blocks must be at least 2" in capsys.readouterr().err
    assert main(arguments(inputs, out, "--kinds", "next_token")) == 0
    assert json.loads((out / "sweep.json").read_text())["blocks"] == 10
    assert len(results(out)) == 2 * len(STEPS)
