"""`python -m training.pretrain`, through `main(argv)`: checkpoints, records, resuming, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import probes
from analysis.checkpoints import checkpoints, is_series
from probes.prompts import Prompts
from tests.border_tokenizers import tokenizer_of
from tests.training.small_runs import change_text, pretrain_arguments
from training.model_shapes import ModelShape, new_model, train_byte_pairs
from training.pretrain import main
from training.runs.directory import read_manifest
from training.runs.records import EntropyRecord, StepRecord, TaskRecord, read_items, records_of

STEPS = [0, 1, 2, 3, 6, 7]


@pytest.fixture
def run(pretrained):
    """A finished run, to be read only."""
    return pretrained


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_checkpoints_are_a_series_that_sweeps_take(run):
    assert is_series(str(run), ())
    assert [found.step for found in checkpoints(str(run), ())] == STEPS


def test_checkpoints_are_models_with_their_tokenizer(run):
    model = probes.load_model(str(run / "checkpoints" / "step-000007"))
    assert (model.n_layers, model.d_model, model.d_mlp) == (3, 22, 37)
    assert len(model.tokenizer) == 307
    assert model.tokenizer.decode(model.tokenizer.encode("the quick fox")) == "the quick fox"
    assert model.architecture.family == "olmo"


def test_the_first_checkpoint_is_the_untrained_model(run):
    shape = ModelShape(
        family="olmo", d_model=22, n_layers=3, n_heads=1, d_mlp=37, d_vocab=307, positions=1009
    )
    folder = run / "checkpoints" / "step-000000"
    start = new_model(shape, AutoTokenizer.from_pretrained(folder)).hf_model.state_dict()
    found = weights(folder)
    assert all(torch.equal(start[name], tensor) for name, tensor in found.items())
    trained = weights(run / "checkpoints" / "step-000007")
    assert not any(torch.equal(found[name], trained[name]) for name in found)


def test_what_is_looked_at_is_recorded_at_every_checkpoint(run):
    assert [record.step for record in records_of(run, StepRecord)] == list(range(1, 8))
    entropies = [r.step for r in records_of(run, EntropyRecord) if r.kind == "knowledge"]
    facts = [r.step for r in records_of(run, TaskRecord)]
    assert entropies == facts == STEPS
    items = read_items(run, "cloze")
    # Five facts of a person and three of a place, each in two wordings.
    assert len(items) == 2 * (5 * 5 + 3 * 3)


def test_learning_happens(run):
    losses = [record.loss for record in records_of(run, StepRecord)]
    assert losses[-1] < losses[0] - 0.2


def test_the_terminal_shows_a_table_and_where_things_are(texts, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(pretrain_arguments(texts, out, "--steps", "2", "--no-log-checkpoints")) == 0
    printed = capsys.readouterr().out
    assert "model: olmo, 19,888 parameters" in printed
    assert "knowledge entropy" in printed
    assert "facts recalled" in printed
    assert "untrained" in printed
    assert f"checkpoints: 2 in {out / 'checkpoints'}" in printed


def test_a_run_in_pieces_leaves_what_an_unbroken_one_leaves(run, texts, tmp_path, capsys):
    """Each piece ends after its first update, since its time is over by then."""
    out, pieces = tmp_path / "pieces", 0
    while not (out / "done.json").is_file():
        assert main([*pretrain_arguments(texts, out), "--resume", "--minutes", "1e-9"]) == 0
        pieces += 1
    assert pieces == 7
    assert "stopped after 6 of 7 steps; go on with --resume" in capsys.readouterr().out
    for name in ("records.jsonl", "done.json", "items/cloze.jsonl"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    for step in STEPS:
        name = f"checkpoints/step-{step:06d}/model.safetensors"
        assert (out / name).read_bytes() == (run / name).read_bytes()


def test_going_on_needs_no_settings_again(texts, tmp_path, run):
    out = tmp_path / "run"
    assert main([*pretrain_arguments(texts, out), "--minutes", "1e-9"]) == 0
    assert main(["--out", str(out), "--resume"]) == 0
    assert (out / "records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()


def test_a_finished_run_is_only_shown(run, capsys):
    before = (run / "records.jsonl").read_bytes()
    assert main(["--out", str(run), "--resume"]) == 0
    assert "over already; nothing was done" in capsys.readouterr().out
    assert (run / "records.jsonl").read_bytes() == before


def test_a_finished_run_of_other_texts_is_refused(run, texts, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shutil.copytree(texts, tmp_path / "texts")
    told = (out / "manifest.json").read_text().replace(str(texts), str(tmp_path / "texts"))
    (out / "manifest.json").write_text(told)
    assert main(["--out", str(out), "--resume"]) == 0
    change_text(tmp_path / "texts" / "familiar.jsonl")
    assert main(["--out", str(out), "--resume"]) == 2
    assert "holds a run with another inputs." in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_process_goes_on(run, texts, tmp_path):
    """The command as a user starts it, killed as soon as it has written a few checkpoints."""
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "training.pretrain", *pretrain_arguments(texts, out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not (out / "checkpoints" / "step-000002").is_dir():
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["--out", str(out), "--resume"]) == 0
    assert (out / "records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()


@pytest.mark.parametrize("family", ["llama", "pythia"])
def test_other_families(family, texts, tmp_path):
    out = tmp_path / family
    assert main(pretrain_arguments(texts, out, "--shape", family, "--steps", "1")) == 0
    model = probes.load_model(str(out / "checkpoints" / "step-000001"))
    assert model.architecture.family == {"llama": "llama", "pythia": "gpt_neox"}[family]


def test_facts_alone(texts, tmp_path):
    out = tmp_path / "facts"
    extra = ["--corpus", "--steps", "1", "--entropy-tokens", "None", "--held-out"]
    assert main(pretrain_arguments(texts, out, *extra)) == 0
    described = json.loads((out / "manifest.json").read_text())["inputs"]["texts"]
    assert described["corpus"] == "53 documents about 5 made-up people and 3 places"
    assert described["documents"] == 53


def test_a_tokenizer_that_there_is(texts, tmp_path):
    train_byte_pairs(["the quick brown fox"], 263).save_pretrained(tmp_path / "tokenizer")
    out = tmp_path / "run"
    extra = ["--tokenizer", str(tmp_path / "tokenizer"), "--steps", "1"]
    assert main(pretrain_arguments(texts, out, *extra)) == 0
    config = json.loads((out / "checkpoints" / "step-000001" / "config.json").read_text())
    assert config["vocab_size"] == 263


def test_a_dry_run_writes_nothing_and_needs_no_folder(texts, tmp_path, capsys):
    argv = pretrain_arguments(texts, tmp_path / "run", "--dry-run")
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "1,505 in 7 steps of 5 rows of 43" in printed
    assert "parameters        19,888" in printed
    assert not (tmp_path / "run").exists()
    assert main([word for word in argv if word not in ("--out", str(tmp_path / "run"))]) == 0


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (["--steps", "0"], "--steps and --checkpoint-every must be 1 or more, found 0"),
        (["--d-vocab", "9999"], "fewer than the 9999 asked for; ask for"),
        (["--batch-size", "9999"], "rows do not fill one batch of 9999"),
        (["--corpus", "nowhere.jsonl"], "no corpus 'nowhere.jsonl'"),
        (["--tokenizer", "./nothing"], "--tokenizer './nothing' could not be loaded"),
        (["--minutes", "0"], "--minutes must be above 0, found 0"),
        (["--tasks", "sciqq"], "no downstream task 'sciqq'"),
    ],
)
def test_mistakes_are_one_line(extra, line, texts, tmp_path, capsys):
    argv = pretrain_arguments(texts, tmp_path / "run", *extra)
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert line in err
    assert err.strip().count("\n") == 0
    assert not (tmp_path / "run" / "records.jsonl").exists()


def test_an_empty_corpus_is_refused(texts, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n  \n")
    argv = pretrain_arguments(texts, tmp_path / "run", "--corpus", str(tmp_path / "empty.txt"))
    assert main(argv) == 2
    assert "is empty" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(run, texts, tmp_path, capsys):
    assert main(pretrain_arguments(texts, run)) == 2
    assert "holds a finished run; give another folder" in capsys.readouterr().err
    assert main([*pretrain_arguments(texts, run), "--resume", "--seed", "5"]) == 2
    assert "another configuration.seed: 0 there, 5 asked for" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert main(pretrain_arguments(texts, other)) == 2
    assert "is not empty, and holds no run" in capsys.readouterr().err
    assert main(pretrain_arguments(texts, other)[:2]) == 2
    assert "--out is missing" in capsys.readouterr().err


def test_texts_begin_with_a_bos_where_that_is_asked_for(texts, tmp_path, capsys):
    folder, out = tmp_path / "tokenizer", tmp_path / "run"
    tokenizer_of("gpt2").save_pretrained(folder)
    asked = ("--tokenizer", str(folder), "--prepend-bos", "True")
    assert main(pretrain_arguments(texts, out, *asked)) == 0
    assert read_manifest(out)["inputs"]["texts"]["prepend_bos"] is True
    # So whoever measures the checkpoint begins texts as it was trained to.
    model = probes.load_model(str(out / "checkpoints" / "step-000007"))
    assert Prompts.of(model).ids(["the quick"])[0][0] == 1
    capsys.readouterr()
    assert main(pretrain_arguments(texts, tmp_path / "own", "--prepend-bos", "True")) == 2
    assert "has no BOS token" in capsys.readouterr().err
