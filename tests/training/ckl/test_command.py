"""`python -m training.ckl`, through `main(argv)`: injections, scores, edits, resuming, refusals."""

import json
import re
import shutil

import pytest
import torch

import probes
from tests.training.small_runs import (
    change_text,
    change_weights,
    ckl_arguments,
)
from training import single_run as finished
from training.ckl import main
from training.ckl_config import CKL_RECIPES
from training.recipes import from_json
from training.runs.records import (
    InjectionRecord,
    PerplexityRecord,
    ScoresRecord,
    StepRecord,
    TaskRecord,
    read_items,
    records_of,
)
from training.single_run import is_over

RESUSCITATION = ["--resuscitation-ratio", "0.5", "--resuscitation-factor", "2"]


@pytest.fixture(scope="module")
def run(texts, pretrained, tmp_path_factory):
    """A finished run without edits."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    assert main(ckl_arguments(texts, pretrained, out)) == 0
    return out


@pytest.fixture
def trained(texts, pretrained, tmp_path):
    """Train with further options; the run's folder."""

    def call(*extra):
        out = tmp_path / "run"
        assert main(ckl_arguments(texts, pretrained, out, *extra)) == 0
        return out

    return call


def scores(run, items="knowledge"):
    return {r.step: r.log_probs for r in records_of(run, ScoresRecord) if r.items == items}


def losses(run):
    return [record.loss for record in records_of(run, StepRecord)]


def baseline(run):
    return [json.loads(line) for line in (run / "baseline.jsonl").read_text().splitlines()]


def test_rounds_are_injected_where_they_were_planned(run):
    found = [(record.step, record.passages) for record in records_of(run, InjectionRecord)]
    # Passages 0 and 1 are paraphrased, 2 duplicated, 3 to 5 met once each, 6 never.
    assert found == [(1, [0, 1, 2, 3]), (4, [0, 1, 2, 4]), (7, [0, 1, 2, 5])]


def test_what_is_looked_at_and_when(run):
    # Every 2 steps, at both lags after update 8, and at the end.
    assert sorted(scores(run)) == [0, 2, 4, 6, 8, 9, 10, 11]
    text = [record.step for record in records_of(run, PerplexityRecord)]
    facts = [record.step for record in records_of(run, TaskRecord) if record.task == "cloze"]
    assert text == facts == [0, 5, 8, 9, 10, 11]


def test_scores_are_those_of_the_checkpoints(run, pretrained):
    """Scored again, one probe at a time, on the models that lie there."""
    items = read_items(run, "knowledge")
    assert [item["exposure"] for item in items[::3]] == [
        *("paraphrase", "paraphrase", "duplication", "once", "once", "once", "held_out")
    ]
    for step, origin in (
        (0, pretrained / "checkpoints/step-000007"),
        (11, run / "checkpoints/step-000011"),
    ):
        model = probes.load_model(str(origin))
        for item, score in zip(items, scores(run)[step], strict=True):
            prompt = model.tokenizer.encode(item["prompt"])
            target = model.tokenizer.encode(f" {item['target']}")
            # float32 logits, summed in another order.
            assert score == pytest.approx(_mean_log_prob(model, prompt, target), abs=2e-5)


def _mean_log_prob(model, prompt, target):
    ids = torch.tensor([prompt + target])
    with torch.no_grad():
        found = model.hf_model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return found[places, ids[0, len(prompt) :]].mean().item()


def test_the_facts_of_the_pretraining_run_are_asked_for_again(run, pretrained):
    assert read_items(run, "cloze") == read_items(pretrained, "cloze")
    before = [r.log_probs for r in records_of(pretrained, ScoresRecord) if r.step == 7]
    # Other rows are scored together in the two runs.
    assert scores(run, "cloze")[0] == pytest.approx(before[0], abs=1e-4)


def test_an_unedited_run_has_no_baseline(run):
    assert not (run / "baseline.jsonl").exists()
    assert json.loads((run / "manifest.json").read_text())["inputs"]["edits"]["hooks"] == []


def test_the_terminal_says_what_was_learnt_and_lost(run, capsys):
    assert main(["--out", str(run), "--resume"]) == 0
    printed = capsys.readouterr().out
    for text in ("K, passages met", "held out", "memorization", "facts recalled", "change"):
        assert text in printed
    found, items = scores(run), read_items(run, "knowledge")
    met = [place for place, item in enumerate(items) if item["exposure"] != "held_out"]
    # Every passage has three probes here, so that K is a plain mean.
    for step in (0, 11):
        assert f"{sum(found[step][place] for place in met) / len(met):.3f}" in printed
    assert "the last injection is in update 8" in printed


@pytest.mark.parametrize("what", ["weights", "corpus", "held out", "knowledge"])
def test_a_finished_run_of_other_weights_or_texts_is_refused(
    what, texts, pretrained, run, tmp_path, capsys
):
    """The command compares all that went in; a study the weights and the text."""
    texts_here, start_here, out = (tmp_path / name for name in ("texts", "pretrained", "run"))
    for source, copy in ((texts, texts_here), (pretrained, start_here), (run, out)):
        shutil.copytree(source, copy)
    manifest = json.loads((out / "manifest.json").read_text())
    told = (
        json.dumps(manifest)
        .replace(str(texts), str(texts_here))
        .replace(str(pretrained), str(start_here))
    )
    (out / "manifest.json").write_text(told)
    stored = {**json.loads(told)["configuration"], **json.loads(told)["execution"]}
    config = from_json(type(CKL_RECIPES["smoke"]()), stored)
    assert is_over(out, config)
    records = (out / "records.jsonl").read_bytes()
    assert main(["--out", str(out), "--resume"]) == 0
    part = {
        "weights": "inputs.start_sha256",
        "corpus": "inputs.data.host.content_hash",
        "held out": "inputs.entropies.sha256",
        "knowledge": "inputs.data.passages_sha256",
    }[what]
    match what:
        case "weights":
            change_weights(start_here / "checkpoints" / "step-000007")
        case "corpus":
            change_text(texts_here / "new.jsonl")
        case "held out":
            change_text(texts_here / "familiar.jsonl")
        case _:
            path = texts_here / "passages.json"
            path.write_text(path.read_text().replace("the tower 0 is", "some tower 0 is"))
    capsys.readouterr()
    assert main(["--out", str(out), "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"holds a run with another {part}: " in error
    assert "give the weights and texts that it was begun with, or another folder" in error
    assert (out / "records.jsonl").read_bytes() == records
    # Hashes of files are kept within a process.
    for kept in (finished.weights_hash, finished._text, finished._held_out):
        kept.cache_clear()
    if what != "knowledge":
        name = {"weights": "weights in", "corpus": "text in", "held out": "text in"}[what]
        with pytest.raises(ValueError, match=f"holds a finished run of other {name}"):
            is_over(out, config)
    # What is gone cannot differ.
    shutil.rmtree(start_here / "checkpoints")
    finished.weights_hash.cache_clear()
    assert what in ("corpus", "held out") or is_over(out, config)


HOOKS = ["--edit-form", "hooks"]
DECAYING = ["--attention-temperature", "2", "--temperature-schedule", "linear", *HOOKS]


@pytest.mark.parametrize(
    "extra",
    [
        # Noise of the size of the weights that it finds, and an edit that changes over the run.
        [*RESUSCITATION, "--control", "matched_noise", *DECAYING],
        pytest.param([], marks=pytest.mark.slow),
        pytest.param(RESUSCITATION, marks=pytest.mark.slow),
        pytest.param([*RESUSCITATION, "--control", "row_learning_rates"], marks=pytest.mark.slow),
    ],
)
def test_a_run_in_pieces_leaves_what_an_unbroken_one_leaves(
    extra, texts, pretrained, tmp_path, trained
):
    whole, out = trained(*extra), tmp_path / "pieces"
    short = ckl_arguments(texts, pretrained, out, *extra)
    for _ in range(2):
        assert main([*short, "--resume", "--minutes", "1e-9"]) == 0
    assert main(["--out", str(out), "--resume"]) == 0
    for name in ("records.jsonl", "checkpoints/step-000011/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    if (whole / "baseline.jsonl").exists():
        assert (out / "baseline.jsonl").read_bytes() == (whole / "baseline.jsonl").read_bytes()


def test_hooks_and_weights_start_from_one_function_and_train_differently(trained, tmp_path, run):
    hooks = trained(*RESUSCITATION, *HOOKS)
    found, before = losses(hooks), scores(run)[0]
    hooks.rename(tmp_path / "hooks")
    weights = trained(*RESUSCITATION)
    # One multiplies what a projection gives, the other its rows.
    assert losses(weights)[0] == pytest.approx(found[0], abs=1e-5)
    assert losses(weights)[-1] != pytest.approx(found[-1], abs=1e-5)
    assert losses(run)[0] != pytest.approx(found[0], abs=1e-5)
    # Before it was edited, the model was what the unedited run starts from.
    unedited = next(r for r in baseline(weights) if r.get("items") == "knowledge")
    assert unedited["log_probs"] == before
    assert scores(weights)[0] != before


def test_controls_that_change_no_weight_start_as_the_unedited_model(trained, tmp_path, run):
    identity = trained(*RESUSCITATION, "--control", "identity")
    assert (identity / "records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()
    identity.rename(tmp_path / "identity")
    rates = trained(*RESUSCITATION, "--control", "row_learning_rates")
    assert losses(rates)[0] == losses(run)[0]
    assert losses(rates)[-1] != losses(run)[-1]


def test_edits_are_in_the_manifest(trained):
    out = trained(*RESUSCITATION, "--control", "redo", *DECAYING[:2])
    edits = json.loads((out / "manifest.json").read_text())["inputs"]["edits"]
    assert [edit["kind"] for edit in edits["weights"]] == ["redo", "attention_temperature"]
    assert edits["coefficients"]["tokens"] == 199
    assert edits["hooks"] == edits["optimizer"] == []


def test_a_temperature_that_decays_is_gone_at_the_end(trained, pretrained):
    """The scores that a run records at its end are those of its checkpoint without any edit."""
    out = trained(*DECAYING)
    model = probes.load_model(str(out / "checkpoints" / "step-000011"))
    items = [(item["prompt"], f" {item['target']}") for item in read_items(out, "knowledge")]
    again = probes.target_log_probs(model, items).tolist()
    assert scores(out)[11] == pytest.approx(again, abs=1e-5)
    warm = probes.load_model(str(pretrained / "checkpoints" / "step-000007"))
    assert scores(out)[0] != pytest.approx(probes.target_log_probs(warm, items).tolist(), abs=1e-5)


def test_generated_passages(trained):
    """Long rows, for passages of 140 words in a vocabulary of 307 entries."""
    out = trained(
        *("--knowledge", "generated", "--passage-words", "140", "--paraphrase", "1"),
        *("--duplication", "0", "--once", "1", "--held-out", "1", "--row-length", "901"),
        *("--batch-size", "2", "--steps", "2", "--injection-interval", "1"),
        *("--injection-rounds", "1", "--injection-first", "0", "--epochs", "3"),
        *("--evaluation-corpora", "--entropy-tokens", "None", "--lags"),
        *("--revision", "step-000003"),
    )
    assert len(read_items(out, "knowledge")) == 45


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (["--batch-size", "3"], "4 passages are to be injected.*3 rows"),
        (["--row-length", "1010"], "longer than the 1009 positions"),
        (["--row-length", "9"], "has .* tokens with its end token, but a row has 9"),
        (["--steps", "900"], "of the 900 steps; give more text, --epochs [0-9]+ or more"),
        (["--lags", "9"], "9 steps after the last encounter"),
        (["--once", "4"], "4 once, 1 held_out, but there are 7 passages"),
        (
            ["--injection-rounds", "5", "--steps", "20"],
            "wording 5 is to be injected.*at most 4 rounds",
        ),
        (["--corpus", "nowhere.txt"], "no corpus 'nowhere.txt'"),
        (["--knowledge", "nowhere.json"], "no file of fictional knowledge at nowhere.json"),
        (
            ["--model", "runs/tiny"],
            "there is no runs/tiny; make it with python -m training.pretrain",
        ),
        (["--revision", "step-000009"], "has no checkpoint 'step-000009'; it has step-000000"),
        (["--cloze", "nothing.jsonl"], "nothing.jsonl is no list of cloze items"),
        ([*RESUSCITATION, "--resuscitation-layers", "7"], "layer 7 does not exist"),
        ([*RESUSCITATION, "--resuscitation-site", "up_preactivation"], "use site='up'"),
        (["--attention-temperature", "0"], "must be finite and above 0"),
    ],
)
def test_mistakes_are_one_line(extra, line, texts, pretrained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(ckl_arguments(texts, pretrained, tmp_path / "run", *extra)) == 2
    err = capsys.readouterr().err
    message = err[err.index("training.ckl: error:") :]
    assert re.search(line, message), message
    assert message.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_command_is_refused(pretrained, capsys):
    assert main(["--out", str(pretrained), "--resume"]) == 2
    assert "holds a run of training.pretrain; go on with that" in capsys.readouterr().err


def test_recipes_of_the_papers_say_what_is_missing(tmp_path, capsys):
    assert main(["--recipe", "lr-1e-3", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "recipe 'lr-1e-3' leaves to be given: --corpus" in err
    assert "--knowledge" in err
