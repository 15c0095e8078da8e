"""`python -m training.tuned_lens`, through `main(argv)`: files, terminal, held-out text, refusals."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

import probes
from probes.translators import load_translators
from tests.models import N_LAYERS, tiny_hf_model, tiny_tokenizer
from training.lens_run import learning_and_heldout
from training.tuned_lens import TunedLensArguments, main
from training.tuned_lens_fit import train_translators

FILES = {"translators.safetensors", "translators.json", "tuned_lens.json", "tuned_lens.csv"}
SMALL = [
    "--sequence-length",
    "13",
    "--batch-size",
    "3",
    "--steps",
    "40",
    "--held-out-tokens",
    "100",
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a tiny model and corpora."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_hf_model("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for name, count, shift in (("plants", 41, 0), ("stars", 11, 5), ("few", 1, 0)):
        lines = [json.dumps({"text": _text(i + shift), "body": _text(i)}) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    np.save(folder / "rows.npy", np.arange(3, 94).reshape(7, 13))
    return folder


def _text(shift):
    return " ".join(f"w{(7 * i + shift * i * i) % 97}" for i in range(23))


@pytest.fixture
def run(inputs, tmp_path):
    """Run the command on the tiny model; exit code."""

    def call(*extra, corpus="plants.jsonl"):
        given = ["--model", str(inputs / "model"), "--corpus", str(inputs / corpus)]
        return main([*given, "--out", str(tmp_path / "out"), *SMALL, *extra])

    return call


def test_a_lens_is_trained_compared_and_kept(run, inputs, tmp_path, capsys):
    assert run("--validate-every", "20") == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == FILES
    found = json.loads((out / "tuned_lens.json").read_text())
    assert found["layers_nearer"] == N_LAYERS
    assert found["layer_labels"] == ["embed", "0", "1"]
    assert len(found["history"]["kl"]) == 40
    assert [seen["steps"] for seen in found["history"]["validation"]] == [20, 40]
    # Exactly one document of eight is judged on, and none of those is learnt from.
    assert found["provenance"]["documents"] == 5
    configuration = found["provenance"]["configuration"]
    assert configuration["heldout"]["corpus"].endswith("plants.jsonl (1 of 8 documents)")
    assert configuration["training"]["corpus"].endswith("plants.jsonl (7 of 8 documents)")
    translators = load_translators(out, probes.load_model(str(inputs / "model")))
    assert translators.training["steps"] == 40
    assert len(translators.training["corpus_sha256"]) == 64
    table = pd.read_csv(out / "tuned_lens.csv")
    assert table["tuned_kl"].tolist() == pytest.approx(found["tuned_kl"], abs=0)
    printed = capsys.readouterr().out
    assert f"{found['tuned_kl'][1]:.3f}" in printed
    assert f"at {N_LAYERS} of {N_LAYERS} layers" in " ".join(printed.split())
    assert printed.rstrip().endswith(f"lens: {out}")
    assert list(tmp_path.iterdir()) == [out]


def test_the_command_gives_what_the_library_gives(run, inputs, tmp_path):
    extra = ("--optimizer", "sgd", "--learning-rate", "0.5", "--seed", "3", "--rows-per-step", "7")
    assert run(*extra, "--held-out", str(inputs / "stars.jsonl"), "--column", "body") == 0
    model = probes.load_model(str(inputs / "model"))
    corpus = probes.load_corpus(str(inputs / "plants.jsonl"), column="body")
    text = probes.token_batches(corpus, model.tokenizer, sequence_length=13, batch_size=3)
    expected, _ = train_translators(
        model, text, steps=40, optimizer="sgd", learning_rate=0.5, seed=3, rows_per_step=7
    )
    found = load_translators(tmp_path / "out", model)
    # The same code on the same inputs.
    assert torch.equal(found.weight, expected.weight)
    assert found.training["corpus_sha256"] == corpus.content_hash


def test_every_eighth_document_is_held_out_and_no_other(inputs):
    given = {"model": "none", "corpus": str(inputs / "plants.jsonl"), "out": inputs}
    corpora = learning_and_heldout(TunedLensArguments(**given))
    learning, heldout = (list(corpus.documents()) for corpus in corpora)
    every = [_text(i) for i in range(41)]
    assert heldout == [every[1], every[9], every[17], every[25], every[33]]
    assert learning == [text for text in every if text not in heldout]
    assert list(corpora[1].documents()) == heldout


def test_a_lens_that_falls_behind_is_said_to(run, capsys):
    # Steps as long as these wreck every layer.
    assert run("--learning-rate", "30", "--steps", "3") == 0
    assert "give it more --steps or a smaller" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--steps", "0"), "steps is 0; give 1 or more"),
        (("--learning-rate", "-1"), "give a positive number"),
        (("--optimizer", "muon"), "muon"),
        (("--step", "3"), "there is no option --step; did you mean --steps?"),
        (("--held-out", "nowhere.jsonl"), "no corpus 'nowhere.jsonl'"),
        (("--held-out", "SAME"), "is the corpus itself; give another"),
        (("--corpus", "FEW"), "has one document only, so none can be held out"),
        (("--corpus", "ROWS"), "holds rows of token ids.*--held-out"),
        (("--max-tokens", "0"), "max_tokens is 0: give 1 or more"),
    ],
)
def test_bad_input_is_refused_in_one_line(run, inputs, tmp_path, capsys, extra, message):
    names = {"SAME": "plants.jsonl", "FEW": "few.jsonl", "ROWS": "rows.npy"}
    given = [str(inputs / names[word]) if word in names else word for word in extra]
    assert run(*given) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in error if line.startswith("training.tuned_lens: error:")]) == 1
    assert re.search(message, error[-1])
    assert not (tmp_path / "out").exists()


def test_earlier_results_stay_unless_told(run, capsys):
    assert run("--steps", "1") == 0
    assert run("--steps", "1") == 2
    assert "is not empty; give another folder, or --overwrite" in capsys.readouterr().err
    assert run("--steps", "1", "--overwrite") == 0
