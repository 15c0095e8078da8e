"""`python -m analysis.logit_lens`, through `main(argv)`: files, terminal, refusals, processes."""

import json
import os
import subprocess
import sys

import pytest

import analysis
import probes
from analysis.logit_lens import main
from tests.models import tiny_hf_model, tiny_tokenizer

FILES = {"lens.html", "lens.json", "lens.csv", "items.csv"}
ITEMS = ["--prompt", "w1 w2 w3", "w4 w5", "--target", "w6", "w7 w8", "--no-controls"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Two tiny models, a factoid file and a corpus."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, seed in (("model", 0), ("other", 1)):
        tiny_hf_model("llama", seed=seed).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    lines = [
        json.dumps({"question": f"w{i} w{i + 1} w{2 * i}", "answer": f"w{3 * i}"})
        for i in range(1, 12)
    ]
    (folder / "facts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    broken = [*lines[:2], '{"question": "w1"', *lines[2:]]
    (folder / "broken.jsonl").write_text("\n".join(broken) + "\n", encoding="utf-8")
    words = " ".join(f"w{(7 * i + i * i) % 97}" for i in range(997))
    (folder / "words.txt").write_text(words, encoding="utf-8")
    return folder


@pytest.fixture
def run(inputs, tmp_path):
    """Run the command on a tiny model; exit code."""

    def call(*extra, model="model", out=None):
        given = ["--model", str(inputs / model), "--out", str(out or tmp_path / "out")]
        return main([*given, *(str(inputs / e) if "." in e else e for e in extra)])

    return call


def lens_json(folder):
    return json.loads((folder / "lens.json").read_text())


def test_prompts_give_four_files_and_a_table(run, tmp_path, capsys):
    assert run(*ITEMS) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    out = capsys.readouterr().out
    assert out.rstrip().endswith(f"page: {tmp_path / 'out' / 'lens.html'}")
    model = probes.load_model(tiny_hf_model("llama"), tokenizer=tiny_tokenizer())
    lens = analysis.lens(model, ["w1 w2 w3", "w4 w5"], ["w6", "w7 w8"])
    written = lens_json(tmp_path / "out")["items"]
    assert [item["rank"] for item in written] == lens.rank.T.tolist()
    assert [item["prompt"] for item in written] == ["w1 w2 w3", "w4 w5"]


def test_factoids_have_controls_and_a_histogram(run, tmp_path, capsys):
    facts = ("--factoids", "facts.jsonl", "--limit", "7", "--control-corpus", "words.txt")
    assert run(*facts, "--top-k", "40", "--positions", "last") == 0
    written = lens_json(tmp_path / "out")
    assert len(written["items"]) == 7
    assert set(written["controls"]) == {"shuffled", "frequency"}
    firsts = [item["first_layer"] for item in written["items"] if item["first_layer"] is not None]
    shares = [firsts.count(layer) / len(firsts) for layer in range(3)]
    assert written["first_layer_histogram"] == pytest.approx(shares)
    assert "For comparison" in " ".join(capsys.readouterr().out.split())


def test_two_models_are_paired_item_by_item(run, inputs, tmp_path, capsys):
    facts = ("--factoids", "facts.jsonl", "--no-controls", "--top-k", "30")
    assert run(*facts, "--compare", str(inputs / "other")) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES | {"compared", "comparison.json"}
    one, other = (lens_json(tmp_path / "out" / name) for name in (".", "compared"))
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())
    differences = [
        b["log_prob"][-1] - a["log_prob"][-1]
        for a, b in zip(one["items"], other["items"], strict=True)
    ]
    # Both are sums of the same eleven float32 numbers.
    mean = sum(differences) / len(differences)
    assert compared["tests"]["log_prob"]["effect"] == pytest.approx(mean, rel=1e-5)
    assert "Targets found at some layer" in " ".join(capsys.readouterr().out.split())


def test_the_causal_check_is_written_beside(run, tmp_path, capsys):
    assert run(*ITEMS, "--causal") == 0
    table = (tmp_path / "out" / "causal.csv").read_text().splitlines()
    # 3 sites, 3 layers, 2 items.
    assert len(table) == 1 + 3 * 3 * 2
    assert "estor" in capsys.readouterr().out


def test_two_processes_read_what_one_reads(run, inputs, tmp_path):
    facts = ("--factoids", "facts.jsonl", "--no-controls")
    assert run(*facts) == 0
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("-m", "analysis.logit_lens", "--model", str(inputs / "model")),
        *("--factoids", str(inputs / "facts.jsonl"), "--no-controls"),
        *("--out", str(tmp_path / "shared")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, shared = lens_json(tmp_path / "out"), lens_json(tmp_path / "shared")
    for a, b in zip(one["items"], shared["items"], strict=True):
        assert a["prompt"] == b["prompt"]
        assert a["rank"] == b["rank"]
        # Other rows share the batch, so float32 products may be summed in another order.
        assert a["log_prob"] == pytest.approx(b["log_prob"], abs=1e-5)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((), "say what to read: --prompt with --target, or --factoids"),
        (("--prompt", "w1", "--target", "w2", "--factoids", "kvr"), "one of the two"),
        (("--prompt", "w1", "w2", "--target", "w3"), "found 2 prompts and 1 targets"),
        (("--prompt", "w1", "--target", ""), "target '' has no tokens"),
        (("--prompt", "w1", "--target", "w2", "--positions", "5"), "position 5 does not exist"),
        (("--prompt", "w1", "--target", "w2", "--positions", "first"), "found 'first'"),
        (("--factoids", "trivaqa"), "triviaqa"),
        (("--factoids", "broken.jsonl"), "line 3"),
        (("--factoids", "kvr", "--limit", "0"), "--limit is 0"),
        (("--prompt", "w1", "--target", "w2", "--lens", "tuned"), "python -m training.tuned_lens"),
        (("--prompt", "w1", "--target", "w2", "--top_q", "3"), "did you mean --top-k"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, tmp_path, capsys, extra, message):
    assert run(*extra) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert error.startswith("analysis.logit_lens: error: ")
    assert not list(tmp_path.iterdir())


def test_earlier_results_are_kept_unless_told_otherwise(run, capsys):
    assert run(*ITEMS) == 0
    assert run(*ITEMS) == 2
    assert "is not empty; give another folder, or --overwrite" in capsys.readouterr().err
    assert run(*ITEMS, "--overwrite") == 0
