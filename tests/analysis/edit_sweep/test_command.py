"""`python -m analysis.edit_sweep`: its numbers against patches, its files, and going on."""

import csv
import json
import sys
from math import exp, nan
from pathlib import Path
from types import SimpleNamespace

import pytest

import analysis.edit_measures as measurements
import probes
from analysis.edit_measures import edit_settings, sites_of
from analysis.edit_sweep import EditSweepArguments, main
from interventions import AttentionTemperature, MemoryEdit, Resuscitation, patch_weights
from interventions.patch_run import Effects, keep_tokens, open_texts
from probes.cli import TextSettings
from probes.perplexity import measure_perplexity
from tests.models import tiny_hf_model, tiny_model, tiny_tokenizer

SMALL = ["--sequence-length", "13", "--batch-size", "3"]
FEW = ["--factors", "2", "--ratios", "0.3", "--temperatures", "1.5"]
FILES = {"edits.md", "edits.csv", "edits.json", "edits.html", "sweep.json", "unedited", "rows"}


def words(shift, count=23):
    return " ".join(f"w{(7 * i + shift * i * i + shift) % 97}" for i in range(count))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with tiny models and a corpus."""
    folder = tmp_path_factory.mktemp("inputs")
    for family in ("llama", "gpt2"):
        tiny_hf_model(family).save_pretrained(folder / family)
        tiny_tokenizer().save_pretrained(folder / family)
    lines = [json.dumps({"text": words(shift)}) for shift in range(11)]
    (folder / "plants.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "alone.txt").write_text(words(1), encoding="utf-8")
    return folder


@pytest.fixture
def run(inputs, tmp_path):
    """Run the command on a tiny model; exit code."""

    def call(*extra, model="llama", corpus="plants.jsonl"):
        given = ["--model", str(inputs / model), "--corpus", str(inputs / corpus), *SMALL]
        return main([*given, "--out", str(tmp_path / "out"), *extra])

    return call


def edits(tmp_path):
    found = json.loads((tmp_path / "out" / "edits.json").read_text())["edits"]
    return {row["edit"]: row for row in found}


def parts(inputs, model):
    texts = list(probes.load_corpus(str(inputs / "plants.jsonl")).documents())
    held_out = texts[1::5]
    rest = [text for text in texts if text not in held_out]
    sizes = {"sequence_length": 13, "batch_size": 3}
    return (
        list(probes.token_batches(rest, model.tokenizer, **sizes)),
        list(probes.token_batches(held_out, model.tokenizer, **sizes)),
    )


def by_patch(model, edit, rest, held_out):
    """The numbers of a row from another way to the same edit: in the weights, passes apart."""
    report = patch_weights(model, edit)
    try:
        found = probes.measure_entropy(model, rest)
        losses = [measure_perplexity(model, part).mean_loss for part in (rest, held_out)]
    finally:
        report.undo()
    return {
        "knowledge_entropy": found.knowledge.total,
        "contribution_entropy": found.contribution.total,
        "attention_entropy": found.attention.total,
        "next_token_entropy": found.next_token.mean,
        "loss": losses[0],
        "held_out_loss": losses[1],
        "held_out_perplexity": exp(losses[1]),
    }


def test_rows_are_what_patched_weights_give(run, inputs, tmp_path):
    assert run(*FEW) == 0
    found = edits(tmp_path)
    assert len(found) == 4 * 2 + 1
    model = probes.load_model(str(inputs / "llama"))
    rest, held_out = parts(inputs, model)
    before = probes.measure_entropy(model, rest)
    loss = measure_perplexity(model, held_out).mean_loss
    for label, row in found.items():
        edit = (
            AttentionTemperature(1.5)
            if row["site"] is None
            else Resuscitation(before, row["ratio"], row["factor"], row["site"])
        )
        assert row["refused"] is None, label
        for measure, value in by_patch(model, edit, rest, held_out).items():
            # float32: weights times u against activations times u, through three layers.
            assert row[f"{measure}_after"] == pytest.approx(value, rel=1e-4), (label, measure)
        assert row["knowledge_entropy_before"] == before.knowledge.total
        assert row["contribution_entropy_before"] == before.contribution.total
        assert row["held_out_loss_before"] == loss
        if row["site"] is not None:
            assert row["neurons"] == int((edit.multipliers() != 1).sum())
        predicted = edit.predicted_entropy() if row["site"] else None
        assert row["knowledge_entropy_predicted"] == (predicted and predicted.total)
        assert row["contribution_entropy_predicted"] == (predicted and predicted.contribution_total)


def test_up_and_down_are_one_function(run, tmp_path):
    assert run(*FEW, "--sites", "up", "down") == 0
    found = edits(tmp_path)
    for label in ("ratio 0.5, factor 2", "ratio 0.3, factor 1"):
        up, down = found[f"up, {label}"], found[f"down, {label}"]
        # The same products in another order, in float32.
        for measure in ("held_out_loss", "loss", "contribution_entropy", "attention_entropy"):
            assert up[f"{measure}_after"] == pytest.approx(down[f"{measure}_after"], rel=1e-5)
        assert abs(up["knowledge_entropy_after"] - down["knowledge_entropy_after"]) > 0.01
    document = (tmp_path / "out" / "edits.md").read_text()
    assert "Sites up and down make the same change of the model in other rows" in document


def usual_settings(family):
    given = EditSweepArguments(model="m", corpus="c", out=Path())
    return edit_settings(
        sites_of(tiny_model(family), given.sites),
        factors=given.factors,
        ratios=given.ratios,
        temperatures=given.temperatures,
    )


def test_the_usual_sweep_is_the_papers_grid_at_every_site():
    found = usual_settings("llama")
    for site in ("up", "down", "preserving", "gate"):
        assert [(one.ratio, one.factor) for one in found if one.site == site] == [
            *((0.5, factor) for factor in (0.5, 1, 2, 3)),
            *((ratio, 1) for ratio in (0.3, 0.7, 0.9)),
        ]
    assert [one.temperature for one in found if one.temperature] == [1.5, 2.0, 3.0]
    assert len(found) == 4 * 7 + 3
    # Whole numbers are the same settings, with the same files.
    assert len({one.slug for one in found}) == len(found)
    assert {one.site for one in usual_settings("gpt2")} == {"down", "up_preactivation", None}


def test_files_agree_with_each_other(run, inputs, tmp_path, capsys):
    assert run(*FEW, "--sites", "preserving") == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == FILES
    rows = edits(tmp_path)
    with (out / "edits.csv").open() as file:
        table = {row["edit"]: row for row in csv.DictReader(file)}
    assert table.keys() == rows.keys()
    document, page = ((out / name).read_text() for name in ("edits.md", "edits.html"))
    terminal = capsys.readouterr().out
    for label, row in rows.items():
        value = row["held_out_perplexity_after"]
        assert float(table[label]["held_out_perplexity_after"]) == value
        line = next(line for line in document.splitlines() if line.startswith(f"| {label} "))
        assert [cell.strip() for cell in line.strip("|").split("|")][-1] == f"{value:,.1f}"
        assert f"{value:,.1f}" in page
        assert f"{value:,.1f}" in terminal
    # Of paths only the ends are shown, as in every report.
    command = "python -m analysis.edit_sweep --model llama"
    assert command in document
    assert command in page
    assert json.loads((out / "edits.json").read_text())["command"].startswith(command)
    assert terminal.rstrip().endswith(f"page: {out / 'edits.html'}")


def test_every_file_says_where_the_numbers_are_from(run, inputs, tmp_path):
    assert run(*FEW, "--sites", "up") == 0
    model = probes.load_model(str(inputs / "llama"))
    rest, held_out = parts(inputs, model)
    found = json.loads((tmp_path / "out" / "edits.json").read_text())
    assert found["provenance"]["weights_sha256"] == model.content_hash()
    read, kept_back = (
        sum(int(batch["attention_mask"].sum()) for batch in part) for part in (rest, held_out)
    )
    assert found["provenance"]["tokens"] == read
    corpus = inputs / "plants.jsonl"
    assert found["held_out"] | {"sha256": ""} == {
        "corpus": f"{corpus} (1 of 5 documents)",
        "sha256": "",
        "documents": 2,
        "tokens": kept_back,
    }
    for name in ("edits.md", "edits.html"):
        text = (tmp_path / "out" / name).read_text()
        assert f"weights {model.content_hash()[:12]}, float32 on cpu" in text
        assert f"{read} tokens of 9 documents of {corpus} (4 of 5 documents)" in text
        assert f"{kept_back} tokens of 2 documents of {corpus} (1 of 5 documents)" in text
        assert found["held_out"]["sha256"][:12] in text
        assert f"torch {found['provenance']['versions']['torch']}" in text


def test_an_mlp_without_a_gate_is_swept_at_its_own_sites(run, tmp_path, capsys):
    assert run(*FEW, model="gpt2") == 0
    assert {row["site"] for row in edits(tmp_path).values()} == {"down", "up_preactivation", None}
    assert run(*FEW, "--sites", "down", "gate", model="gpt2") == 2
    assert "no gate to scale" in capsys.readouterr().err


def stopped_after(monkeypatch, passes):
    """Interrupt the measuring of effects after so many; gives the list of passes begun."""
    measure, begun = measurements.measure_effects, []

    def counted(*arguments, **keywords):
        begun.append(1)
        if len(begun) == passes + 1:
            raise KeyboardInterrupt
        return measure(*arguments, **keywords)

    monkeypatch.setattr(measurements, "measure_effects", counted)
    return begun


def test_a_sweep_goes_on_where_it_stopped(run, tmp_path, monkeypatch):
    asked = [*FEW, "--sites", "up", "down"]
    assert run(*asked) == 0
    out, whole = tmp_path / "out", tmp_path / "whole"
    out.rename(whole)

    begun = stopped_after(monkeypatch, 3)
    assert run(*asked) == 130
    # The unedited model and two edits are done; of what was interrupted nothing is left.
    rows = {path: path.read_bytes() for path in (out / "rows").iterdir()}
    assert len(rows) == 2
    assert run(*asked) == 0
    assert len(begun) == 4 + 3
    assert all(path.read_bytes() == content for path, content in rows.items())
    # What was stopped ends with the files of what was not, to the last byte; but safetensors
    # writes its header in any order.
    for path in [path for path in whole.rglob("*.*") if path.suffix != ".safetensors"]:
        assert (out / path.relative_to(whole)).read_bytes() == path.read_bytes(), path
    # Another run with more edits measures those only; and with the same, none.
    more = [*asked, "--factors", "2", "3"]
    assert run(*more) == 0
    assert len(begun) == 7 + 2
    assert run(*more) == 0
    assert len(begun) == 9
    # Files with which a process was killed are in nobody's way.
    killed = out / "rows" / "up-ratio-0.3-factor-1.0.json"
    killed.rename(killed.with_suffix(".partial"))
    assert run(*more) == 0
    assert len(begun) == 10
    assert killed.read_bytes() == (whole / "rows" / killed.name).read_bytes()


def test_edits_are_hooks_that_come_off_again(inputs, tmp_path, monkeypatch):
    model = tiny_model("llama")
    weights, kept = model.content_hash(), kept_parts(inputs, model)
    before = hooks_of(model)
    settings = edit_settings(["down", "up"], factors=[2.0], ratios=[], temperatures=[2.0])
    measure, states = measurements.measure_effects, []

    def watched(model, *arguments, **keywords):
        states.append((model.content_hash() == weights, hooks_of(model) == before))
        if len(states) == 3:
            raise RuntimeError("power cut")
        return measure(model, *arguments, **keywords)

    monkeypatch.setattr(measurements, "measure_effects", watched)
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError, match="power cut"):
        measurements.sweep_edits(model, settings, tmp_path / "out", *kept)
    assert hooks_of(model) == before
    sweep = measurements.sweep_edits(model, settings, tmp_path / "out", *kept)
    assert hooks_of(model) == before
    # The weights are never touched; hooks are there but while the unedited model is measured.
    assert [same for same, _ in states] == [True] * 5
    assert states[0] == (True, True)
    assert states[2] == (True, False)
    assert [row.setting for row in sweep.rows] == settings


def hooks_of(model):
    """How many hooks are on every module, and which have a `forward` of their own."""
    return [
        (len(part._forward_hooks), len(part._forward_pre_hooks), "forward" in part.__dict__)
        for part in model.hf_model.modules()
    ]


def kept_parts(inputs, model):
    given = TextSettings(sequence_length=13, batch_size=3)
    return keep_tokens(given, model, open_texts(given, str(inputs / "plants.jsonl"), None))


def test_an_edit_that_is_refused_is_a_row_that_says_so(run, tmp_path):
    assert run(*FEW[:4], "--sites", "up", "--temperatures", "1", "2") == 0
    row = edits(tmp_path)["temperature 1"]
    assert "changes nothing" in row["refused"]
    assert row["held_out_loss_after"] is None
    out = tmp_path / "out"
    assert "| temperature 1 (refused) |" in (out / "edits.md").read_text()
    assert "Refused, temperature 1: edit" in (out / "edits.md").read_text()
    assert "Refused, temperature 1: edit" in (out / "edits.html").read_text()
    assert edits(tmp_path)["temperature 2"]["refused"] is None


def test_an_edited_model_that_overflows_is_a_refused_row(run, tmp_path, monkeypatch, capsys):
    totals, calls = Effects.totals, []

    def overflowing(self):
        calls.append(1)
        return totals(self) | ({"loss": nan} if len(calls) == 2 else {})

    monkeypatch.setattr(Effects, "totals", overflowing)
    assert run(*FEW, "--sites", "up") == 0
    found = edits(tmp_path)
    refused = [row["refused"] for row in found.values() if row["refused"]]
    assert len(found) == 3
    assert [text.split(":")[0] for text in refused] == ["loss is nan"]
    assert "refused" in capsys.readouterr().out


def test_a_sweep_in_which_everything_is_refused_still_has_its_files(run, tmp_path):
    assert run("--factors", "--ratios", "--temperatures", "1") == 0
    assert [row["refused"] is None for row in edits(tmp_path).values()] == [False]
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_a_sweep_of_other_settings_weights_or_texts_is_not_mixed_in(run, inputs, tmp_path, capsys):
    few = [*FEW, "--sites", "up", "--held-out", str(inputs / "alone.txt")]
    assert run(*few) == 0
    assert run(*few, "--max-tokens", "50") == 2
    assert "holds a sweep with max_tokens 6144, not 50" in capsys.readouterr().err
    for path, other, what in (
        (inputs / "llama" / "model.safetensors", None, "weights"),
        (inputs / "plants.jsonl", b'{"text": "w1 w2 w3"}\n', "corpus"),
        (inputs / "alone.txt", b"w1 w2 ", "held-out corpus"),
    ):
        before = path.read_bytes()
        try:
            if other is None:
                tiny_hf_model("llama", seed=1).save_pretrained(inputs / "llama")
            else:
                path.write_bytes(other + before)
            assert run(*few) == 2
            assert f"was measured with {what} " in capsys.readouterr().err
        finally:
            path.write_bytes(before)
    assert run(*few) == 0


def test_rows_that_are_not_rows_are_refused_by_name(run, tmp_path, capsys):
    few = [*FEW, "--sites", "up"]
    assert run(*few) == 0
    first, second = sorted((tmp_path / "out" / "rows").glob("up-*"))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert run(*few) == 2
    assert f"{first} is of another edit than its name says" in capsys.readouterr().err
    for broken in (b"{", b"[]", b"{}"):
        first.write_bytes(broken)
        assert run(*few) == 2
        assert f"{first} is no measurement of an edit" in capsys.readouterr().err
    first.write_bytes(kept)
    (tmp_path / "out" / "sweep.json").unlink()
    assert run(*few) == 2
    assert "exists and holds no sweep" in capsys.readouterr().err


REFUSED = {
    "ratio": (["--ratios", "0.5", "1.2"], "ratio is a share above 0, to 1, found 1.2"),
    "factor": (["--factors", "-2"], "factor must be a finite number above 0, found -2.0"),
    "temperature": (["--temperatures", "0"], "finite and above 0, found 0.0"),
    "nothing": (["--factors", "--ratios", "--temperatures"], "the sweep is empty; give factors"),
    "site": (["--sites", "sideways"], "sideways"),
    "corpus": (["--held-out", "no-such-corpus"], "no corpus 'no-such-corpus'"),
    "flag": (["--factor", "2"], "did you mean --factors?"),
    "model": (["--model", "no-such-model"], "no-such-model"),
    "rows": (["--sequence-length", "1"], "sequence_length is 1: give 2 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(case, run, tmp_path, monkeypatch, capsys):
    extra, message = REFUSED[case]
    # All else is found out without a model.
    if case not in ("model", "rows"):
        monkeypatch.setattr(probes, "load_model", None)
    assert run(*extra) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_one_document_has_nothing_to_hold_out(run, tmp_path, capsys):
    assert run(*FEW, corpus="alone.txt") == 2
    assert "has one document only" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["file", "beneath a file"])
def test_a_folder_that_cannot_be_is_refused_before_anything_is_loaded(
    where, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(probes, "load_model", None)
    path = tmp_path / "out"
    path.write_text("years of work")
    extra = [] if where == "file" else ["--out", str(path / "inner")]
    assert run(*extra) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert path.read_text() == "years of work"


def test_edits_of_ones_own_are_measured_in_the_weights(run, inputs, tmp_path, monkeypatch):
    own = MemoryEdit({1: [2, 3]}, scale=3.0)
    module = SimpleNamespace(tripled=own)
    monkeypatch.setitem(sys.modules, "own_edits", module)
    words = ["--factors", "--ratios", "--temperatures", "1.5", "--edit", "own_edits:tripled"]
    assert run(*words) == 0
    found = edits(tmp_path)["own_edits:tripled"]
    model = probes.load_model(str(inputs / "llama"))
    expected = by_patch(model, own, *parts(inputs, model))
    # The same passes over the same weights.
    assert {name: found[f"{name}_after"] for name in expected} == pytest.approx(expected)
    module.tripled = MemoryEdit({1: [2, 3]}, scale=2.0)
    assert run(*words) == 2
