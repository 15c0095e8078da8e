"""`python -m analysis.entropy`, through `main(argv)`: files, terminal, refusals."""

import json

import pytest

import analysis.document
import probes
from analysis.entropy import _folders, main
from tests.models import tiny_hf_model, tiny_tokenizer

SMALL = ["--sequence-length", "13", "--batch-size", "2"]
FILES = {"entropy.csv", "entropy.html", "entropy.json", "mean_coefficients.safetensors"}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a tiny model and two corpora."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_hf_model("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "plants.txt").write_text(_text(0), encoding="utf-8")
    lines = [json.dumps({"body": _text(shift)}) for shift in range(7)]
    (folder / "stars.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "plain.jsonl").write_text(json.dumps({"text": _text(3)}) + "\n", encoding="utf-8")
    (folder / "empty.txt").write_text(" \n", encoding="utf-8")
    return folder


def _text(shift):
    return " ".join(f"w{(7 * i + shift * i * i) % 97}" for i in range(53))


@pytest.fixture
def run(inputs, tmp_path):
    """Run the command on the tiny model; exit code. `corpus` and `out` may be replaced."""

    def call(*extra, corpus=("plants.txt",), model=None, out=None):
        paths = [str(inputs / name) if (inputs / name).exists() else name for name in corpus]
        given = ["--model", model or str(inputs / "model"), "--corpus", *paths]
        return main([*given, "--out", str(out or tmp_path / "out"), *SMALL, *extra])

    return call


def test_one_corpus_gives_four_files_and_a_table(run, tmp_path, capsys):
    assert run() == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "entropy.json").read_text())
    assert f"{found['knowledge_entropy']['total']:.2f}" in out
    assert out.rstrip().endswith(f"page: {tmp_path / 'out' / 'entropy.html'}")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_results_are_those_of_the_library(run, inputs, tmp_path):
    assert run("--coefficient", "relu_output", "--weighting", "token", "--layout", "document") == 0
    model = probes.load_model(str(inputs / "model"))
    corpus = probes.load_corpus(str(inputs / "plants.txt"))
    batches = probes.token_batches(
        corpus, model.tokenizer, sequence_length=13, batch_size=2, layout="document"
    )
    expected = probes.measure_entropy(model, batches, coefficient="relu_output", weighting="token")
    found = json.loads((tmp_path / "out" / "entropy.json").read_text())
    # The same code on the same inputs: through JSON and back, not a bit is lost.
    assert found["knowledge_entropy"]["per_layer"] == expected.knowledge.per_layer.tolist()
    assert found["next_token_entropy"]["mean"] == expected.next_token.mean
    assert found["provenance"]["configuration"]["weighting"] == "token"


def test_several_corpora_are_compared(run, tmp_path):
    assert run("--max-tokens", "40", corpus=("plants.txt", "plain.jsonl")) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"plants", "plain", "entropy.html"}
    for name in ("plants", "plain"):
        assert {path.name for path in (out / name).iterdir()} == FILES - {"entropy.html"}
        assert json.loads((out / name / "entropy.json").read_text())["tokens"] == 40
    assert "Memory is used more evenly over" in (out / "entropy.html").read_text()


def test_column_and_kinds_and_documents(run, tmp_path):
    extra = ("--column", "body", "--kinds", "next_token", "--max-documents", "3")
    assert run(*extra, corpus=("stars.jsonl",)) == 0
    found = json.loads((tmp_path / "out" / "entropy.json").read_text())
    assert found["documents"] == 3
    assert found["knowledge_entropy"] is None
    assert not (tmp_path / "out" / "mean_coefficients.safetensors").exists()


def test_official_arithmetic(run, tmp_path):
    assert run("--compat", "official", "--kinds", "knowledge") == 0
    found = json.loads((tmp_path / "out" / "entropy.json").read_text())
    assert found["provenance"]["configuration"]["compat"] == "official"
    assert "log(p + 1e-9)" in (tmp_path / "out" / "entropy.html").read_text()


def test_overwrite_replaces_results_only(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(corpus=("plants.txt", "plain.jsonl")) == 0
    assert run() == 2
    assert "is not empty; give another folder, or --overwrite" in capsys.readouterr().err
    assert run("--overwrite") == 0
    assert {path.name for path in out.iterdir()} == FILES
    (out / "thesis.tex").write_text("years of work")
    assert run("--overwrite") == 2
    assert "also holds thesis.tex" in capsys.readouterr().err
    assert (out / "thesis.tex").read_text() == "years of work"


def test_existing_results_are_refused_before_anything_is_loaded(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "entropy.json").write_text("{}")
    assert run(model="no/such-model", corpus=("no-such-corpus",)) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_a_failure_while_writing_leaves_the_earlier_results(run, tmp_path, monkeypatch):
    assert run() == 0
    before = (tmp_path / "out" / "entropy.json").read_bytes()

    def full_disk(results):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(analysis.document, "html", full_disk)
    assert run("--overwrite", "--kinds", "attention") == 2
    assert (tmp_path / "out" / "entropy.json").read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize(
    ("extra", "given", "said"),
    [
        (["--kinds", "knowlege"], {}, "'knowlege'"),
        (["--coeficient", "abs"], {}, "did you mean --coefficient?"),
        (["--max-tokens", "many"], {}, "many"),
        (["--batch-size", "0"], {}, "batch_size"),
        (["--max-tokens", "0"], {}, "max_tokens"),
        (["--dtype", "float13"], {}, "float13"),
        (["--device", "abacus"], {}, "abacus"),
        (["--compat", "official"], {}, "kinds"),
        (["--revision", "step7"], {}, "step7"),
        (["--column", "body"], {"corpus": ("plain.jsonl",)}, "body"),
        ([], {"corpus": ()}, "--corpus is empty"),
        ([], {"corpus": ("plants.txt", "plants.txt")}, "twice"),
        ([], {"corpus": ("empty.txt",)}, "empty"),
        ([], {"corpus": ("no-such-corpus.txt",)}, "no-such-corpus"),
        ([], {"model": "no/such-model"}, "no/such-model"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path, capsys, extra, given, said):
    assert run(*extra, **given) == 2
    err = capsys.readouterr().err
    line = err[err.index("analysis.entropy: error:") :]
    assert said in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_out_that_cannot_be_made_is_refused(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(out=tmp_path / "file") == 2
    assert run(out=tmp_path / "file" / "below") == 2
    err = capsys.readouterr().err
    assert "is a file; give a folder" in err
    assert "which is a file" in err


def test_debug_shows_the_traceback(run):
    with pytest.raises(ValueError, match="no-such-corpus"):
        run("--debug", corpus=("no-such-corpus.txt",))


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["general"], ["."]),
        (["allenai/c4", "general"], ["allenai-c4", "general"]),
        (["a b", "a/b", "a-b"], ["a-b", "a-b-2", "a-b-3"]),
        (["???", "Ünï"], ["corpus", "ünï"]),
    ],
)
def test_every_corpus_has_a_folder_of_its_own(names, folders):
    assert _folders(names) == folders
