"""A run that is killed and goes on leaves the bits of one that was never stopped."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from interventions import MatchedNoise, Resuscitation
from tests.training.loop_runs import model_of, run, same_bits, settings_of, weights_of
from training.runs.checkpoints import load_weights

ROOT = Path(__file__).parent.parent.parent
NAMED = (
    "after the temporary write",
    "before the rename",
    "after the rename",
    "between record and checkpoint",
    "inside an injection interval",
)


def crashed(out, moments, points):
    """Let the worker kill runs; returns how often each was started."""
    command = [sys.executable, "-m", "tests.training.crash_worker", str(out), str(moments), *points]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def bits_of(run_directory):
    """Every byte that a run has left, but for times."""
    files = {}
    for path in sorted(run_directory.rglob("*")):
        name = str(path.relative_to(run_directory))
        if not path.is_file() or name == "timing.jsonl":
            continue
        content = path.read_bytes()
        if path.name == ".metadata":
            # Of torch.distributed.checkpoint, which notes down the folder and a random name.
            content = repr(pickle.loads(content).state_dict_metadata).encode()
        if path.name == "training_state.json":
            header = json.loads(content)
            header["files"].pop("training_state/optimizer/.metadata", None)
            content = json.dumps(header).encode()
        files[name] = content
    return files


def refuse_differences(out):
    """Assert that all runs in a folder are the same."""
    whole = bits_of(out / "whole")
    assert {"records.jsonl", "done.json"} < whole.keys()
    assert sum(name.endswith(".distcp") for name in whole) == 2
    assert sum(name.endswith(".safetensors") for name in whole) == 4
    for path in sorted(out.iterdir()):
        found = bits_of(path)
        assert found.keys() == whole.keys(), path.name
        assert [name for name in whole if whole[name] != found[name]] == [], path.name


def test_killed_at_named_points(tmp_path):
    starts = crashed(tmp_path, 0, NAMED)
    assert starts == dict.fromkeys(NAMED, 2)
    refuse_differences(tmp_path)


@pytest.mark.slow
def test_killed_at_every_point_and_at_ten_random_moments(tmp_path):
    starts = crashed(tmp_path, 10, [])
    assert set(NAMED) < starts.keys()
    assert sum(starts[f"moment {number}"] > 1 for number in range(10)) > 3
    refuse_differences(tmp_path)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_goes_on_to_the_same_bits(precision, tmp_path):
    settings = settings_of(precision=precision, checkpoint_every=4)
    whole, _ = run(tmp_path / "whole", model_of(dropout=0.1), settings=settings)
    run(tmp_path / "cut", model_of(dropout=0.1), settings=settings, time_limit=0.0)
    parts, _ = run(tmp_path / "cut", model_of(dropout=0.1), settings=settings, resume=True)
    assert same_bits(weights_of(whole), weights_of(parts))
    records = [(tmp_path / name / "records.jsonl").read_bytes() for name in ("whole", "cut")]
    assert records[0] == records[1]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    settings = settings_of(checkpoint_every=4)
    run(tmp_path / "run", settings=settings, time_limit=0.0)
    with pytest.raises(ValueError, match=r"the weights in .*step-000001 do not fit this model"):
        run(tmp_path / "run", model_of("olmo"), settings=settings, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.norm.weight"), r"1 missing \(model\.norm\.weight\)"),
        (lambda weights: weights.update(more=weights["model.norm.weight"]), r"1 left over \(more"),
        (
            lambda weights: weights.update({"model.norm.weight": weights["model.norm.weight"][:7]}),
            r"1 of another shape \(model\.norm\.weight \[7\] in the file, \[42\] in the model\)",
        ),
    ],
)
def test_a_checkpoint_that_does_not_hold_exactly_the_weights_is_refused(tmp_path, change, message):
    model = model_of()
    before = weights_of(model)
    model.hf_model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    weights = {name: weight.clone() for name, weight in weights.items()}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_weights(model, tmp_path)
    assert same_bits(before, weights_of(model))


def test_edits_are_made_to_the_start_and_not_to_the_checkpoint(tmp_path):
    """Noise is drawn to the size of the weights that an edit finds: those of the start."""

    def edited(name, **given):
        model = model_of()
        means = torch.rand(3, model.d_mlp, generator=torch.Generator().manual_seed(1))
        edit = MatchedNoise(Resuscitation(means, ratio=0.5, factor=2.0), seed=1)
        return run(tmp_path / name, model, edits=[edit], **given)[0]

    whole = edited("whole")
    edited("cut", time_limit=0.0)
    assert same_bits(weights_of(whole), weights_of(edited("cut", resume=True)))
