"""`analysis.memory_updates` from its arguments to its files."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import probes
from analysis import update_measures as checkpoint_results
from analysis.claims import Table
from analysis.memory_updates import main, updates_report
from analysis.result_folders import find_results, tables_of
from analysis.update_measures import measure_updates, rank_correlations
from tests.models import tiny_hf_model, tiny_tokenizer
from training.settings import OptimizerSettings

ROOT = Path(__file__).parents[3]
STEPS = (8, 64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A run directory with two checkpoints, and a corpus."""
    folder = tmp_path_factory.mktemp("inputs")
    for step in STEPS:
        path = folder / "tiny-seed3" / "checkpoints" / f"step-{step:06d}"
        tiny_hf_model("llama", seed=step).save_pretrained(path)
        tiny_tokenizer().save_pretrained(path)
    lines = [
        json.dumps({"text": " ".join(f"w{(7 * i + d * i * i) % 97}" for i in range(29))})
        for d in range(9)
    ]
    (folder / "plants.jsonl").write_text("\n".join(lines))
    return folder


def arguments(inputs, out, *extra, model="tiny-seed3"):
    words = ["--model", str(inputs / model), "--corpus", str(inputs / "plants.jsonl")]
    words += ["--sequence-length", "13", "--batch-size", "2", "--batches", "3"]
    return [*words, "--out", str(out), *extra]


def run(*words):
    return main(list(words))


@pytest.fixture(scope="module")
def series(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "updates"
    assert run(*arguments(inputs, out)) == 0
    return out


def test_numbers_are_those_of_the_measurement(inputs, series):
    content = json.loads((series / "updates.json").read_text())
    assert (content["tokens"], content["batches"], content["revision"]) == (78, 3, None)
    assert [one["step"] for one in content["checkpoints"]] == list(STEPS)
    table = pd.read_csv(series / "updates.csv")
    for one in content["checkpoints"]:
        path = inputs / "tiny-seed3/checkpoints" / one["checkpoint"]
        model = probes.load_model(str(path))
        corpus = probes.load_corpus(str(inputs / "plants.jsonl"))
        tokens = probes.token_batches(
            corpus, model.tokenizer, sequence_length=13, batch_size=2, max_tokens=78
        )
        found = measure_updates(model, tokens, OptimizerSettings())
        norms = {"gradients": found.gradient_norms, "updates": found.update_norms}
        rows = table[table["step"] == one["step"]]
        for name, of in norms.items():
            wanted = rank_correlations(found.mean_coefficients, of)
            assert [layer[name] for layer in one["layers"]] == wanted
            assert rows[name].tolist() == pytest.approx(wanted, rel=1e-12)
        told = one["provenance"]
        assert told["weights_sha256"] == model.content_hash()
        assert (told["tokens"], told["rows"]) == (78, 6)
        assert told["configuration"]["betas"] == [0.9, 0.95]


def test_the_table_of_claims_reads_it(series):
    results = find_results([series.parent])
    assert results.updates == (series,)
    table = tables_of(results)[Table.UPDATES]
    assert len(table) == 2 * 3 * 2
    assert set(table["seed"]) == {3}


def test_the_page_holds_both_figures_and_asks_nobody(series):
    page = (series / "updates.html").read_text()
    assert page.count('"type":"heatmap"') == 2
    assert "rank correlation" in page
    assert "step-000064" in page
    assert 'src="http' not in page


def test_the_figure_has_a_row_for_each_layer_and_a_column_for_each_checkpoint():
    def layers(*values):
        return [{"layer": n, "gradients": v, "updates": -1.0} for n, v in enumerate(values)]

    # In the order of the series, which is not that of the names.
    named = (("step9", 9, layers(0.5, None, 0.25)), ("step10", 10, layers(-0.5, 0.75, 0.0)))
    checkpoints = [{"checkpoint": n, "step": s, "layers": v} for n, s, v in named]
    content = {"model": "m", "corpus": "c", "tokens": 7, "batches": 1, "checkpoints": checkpoints}
    gradients, _ = updates_report(content, "command").sections[0].parts[0].panels
    (heatmap,) = gradients.plot.data
    found = pd.DataFrame(heatmap.z).astype(object).where(lambda cells: cells.notna(), None)
    assert found.values.tolist() == [[0.5, -0.5], [None, 0.75], [0.25, 0.0]]
    assert (heatmap.zmin, heatmap.zmid, heatmap.zmax) == (-1, 0, 1)


def test_a_series_that_was_stopped_goes_on(inputs, tmp_path, monkeypatch):
    measured = []
    measure = checkpoint_results.checkpoint_result

    def counted(checkpoint, *given, **named):
        measured.append(checkpoint.step)
        if checkpoint.step == 64 and measured.count(64) == 1:
            raise KeyboardInterrupt
        return measure(checkpoint, *given, **named)

    monkeypatch.setattr(checkpoint_results, "checkpoint_result", counted)
    out = tmp_path / "out"
    assert run(*arguments(inputs, out)) == 130
    assert not (out / "updates.json").exists()
    assert run(*arguments(inputs, out)) == 0
    assert measured == [8, 64, 64]


@pytest.mark.parametrize("what", ["weights", "corpus"])
def test_results_of_other_weights_or_texts_are_refused(inputs, tmp_path, capsys, what):
    shutil.copytree(inputs, tmp_path / "in")
    given = arguments(tmp_path / "in", tmp_path / "out", model="tiny-seed3/checkpoints/step-000064")
    assert run(*given) == 0
    before = (tmp_path / "out/step-000064/checkpoint.json").read_text()
    if what == "weights":
        folder = tmp_path / "in/tiny-seed3/checkpoints/step-000064"
        tiny_hf_model("llama", seed=5).save_pretrained(folder)
    else:
        path = tmp_path / "in/plants.jsonl"
        path.write_text(path.read_text().replace("w7", "w11"))
    assert run(*given) == 2
    assert f"step-000064 was measured with {what}" in capsys.readouterr().err
    assert (tmp_path / "out/step-000064/checkpoint.json").read_text() == before


def test_one_checkpoint_is_measured_alone(inputs, tmp_path, capsys):
    model = "tiny-seed3/checkpoints/step-000064"
    assert run(*arguments(inputs, tmp_path / "out", model=model)) == 0
    content = json.loads((tmp_path / "out/updates.json").read_text())
    assert [one["step"] for one in content["checkpoints"]] == [64]
    printed = capsys.readouterr().out
    assert "step-000064" in printed
    assert "the mean rank correlation is" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (["--batches", "0"], "--batches must be 1 or more, found 0"),
        (["--batches", "1009"], "gave 11 batches, but --batches asks for 1009"),
        (["--betas", "0.9", "1"], "betas"),
        (["--eps", "0"], "eps"),
        (["--revisions", "step8"], "has no checkpoint 'step8'"),
        (["--batchs", "3"], "there is no option --batchs; did you mean --batches?"),
    ],
)
def test_bad_input_is_one_line(inputs, tmp_path, capsys, extra, complaint):
    assert run(*arguments(inputs, tmp_path / "out", *extra)) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("analysis.memory_updates")]
    assert len(lines) == 1
    assert complaint in lines[0]


def test_another_folder_is_refused(inputs, series, tmp_path, capsys):
    assert run(*arguments(inputs, series, "--eps", "1e-8")) == 2
    assert "holds a sweep with eps 1e-05, not 1e-08" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("mine")
    assert run(*arguments(inputs, tmp_path)) == 2
    assert "exists and holds no sweep" in capsys.readouterr().err
