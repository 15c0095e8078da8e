"""`python -m training.remix`, through `main(argv)`: stages, mixes, replay, edits, refusals."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

import probes
import training.remix_items as remix_items
from tests.training.remix.runs import remix_arguments
from tests.training.small_runs import change_weights
from training.data.rendering import Turn
from training.recall import FamiliaritySplit
from training.recipes import from_json
from training.remix import main
from training.remix_config import RemixConfig
from training.runs.records import (
    GradientAlignmentRecord,
    PerplexityRecord,
    RecallRecord,
    StepRecord,
    WeightDriftRecord,
    read_items,
    records_of,
)
from training.single_run import is_over

RESUSCITATION = ["--resuscitation-ratio", "0.5", "--resuscitation-factor", "2"]
HOOKS = ["--edit-form", "hooks"]
MIXED = ["--mix", "random", "generic"]
LIGHT = ["--relearning-steps", "None", "--gradient-every", "None", "--no-generation"]


@pytest.fixture(scope="module")
def run(texts, pretrained, tmp_path_factory):
    """A finished chain: random words at A, passages at B."""
    out = tmp_path_factory.mktemp("runs") / "mixed"
    assert main(remix_arguments(texts, pretrained, out, *MIXED)) == 0
    return out


@pytest.fixture
def trained(texts, pretrained, tmp_path):
    """Train with further options, and little that is not asked for; the run's folder."""

    def call(*extra, out="run", light=LIGHT):
        path = tmp_path / out
        assert main(remix_arguments(texts, pretrained, path, *light, *extra)) == 0
        return path

    return call


def records(run, stage, kind):
    return records_of(run / f"stage-{stage}", kind)


def recalls(run, stage, items, match="tokens"):
    found = records(run, stage, RecallRecord)
    return {r.step: r for r in found if (r.items, r.match) == (items, match)}


def losses(run, stage):
    return [record.loss for record in records(run, stage, StepRecord)]


def manifest(run, stage=None):
    folder = run if stage is None else run / f"stage-{stage}"
    return json.loads((folder / "manifest.json").read_text())


def identifiers(run, stage, items):
    return [row["identifier"] for row in read_items(run / f"stage-{stage}", items)]


def test_stages_learn_other_items_and_ask_for_all(run):
    lists = {(s, i): identifiers(run, s, i) for s in "AB" for i in "AB"}
    assert lists["A", "A"] == lists["B", "A"]
    assert lists["A", "B"] == lists["B", "B"]
    assert (len(lists["A", "A"]), len(lists["A", "B"])) == (7, 5)
    assert not set(lists["A", "A"]) & set(lists["A", "B"])


def test_what_is_looked_at_and_when(run):
    # 7 items and 10 of the mix in batches of 3, three times; 5 and 7, twice.
    epochs = {"A": [0, 6, 12, 17], "B": [0, 4, 8]}
    for stage, steps in epochs.items():
        for items in "AB":
            assert sorted(recalls(run, stage, items)) == steps
            assert sorted(recalls(run, stage, items, "aliases")) == [0, steps[-1]]
        assert [r.step for r in records(run, stage, PerplexityRecord)] == [0, steps[-1]]
        assert [r.step for r in records(run, stage, WeightDriftRecord)] == [0, steps[-1]]
        # After every second epoch, and at the ends.
        gradients = sorted({0, *steps[2::2], steps[-1]})
        assert [r.step for r in records(run, stage, GradientAlignmentRecord)] == gradients
    assert records(run, "B", GradientAlignmentRecord)[0].samples == ["A", "B", "M"]


def test_losses_are_told_apart_by_source(run):
    for stage, mix in (("A", "random"), ("B", "generic")):
        found = [record.loss_by_source for record in records(run, stage, StepRecord)]
        assert {name for losses in found for name in losses} == {stage, mix}
    batches = manifest(run, "A")["inputs"]["batches"]
    assert (batches["primary"], batches["mix"]["items"]) == (7, 10)


def test_what_a_mix_gives_away_is_said(trained, tmp_path, capsys):
    """Asked for words of the texts that passages are cut from."""
    path = tmp_path / "words.jsonl"
    words = ["river", "stone", "bridge", "morning", "lazy", *(f"zzz{n}" for n in range(7))]
    rows = [{"question": f"word {n}?", "answers": [word]} for n, word in enumerate(words)]
    path.write_text("\n".join(map(json.dumps, rows)))
    asked = ["--data", str(path), str(path), "--mix", "none", "generic"]
    found = trained(*asked)
    overlap = manifest(found)["inputs"]["overlap"]
    assert list(overlap) == ["B"]
    common = [overlap["B"][stage]["answers"] for stage in "AB"]
    held = {row["accepted"][0] for s in "AB" for row in read_items(found / "stage-A", s)}
    assert [overlap["B"][stage]["factoids"] for stage in "AB"] == [7, 5]
    # Every common word is in some passage of ten words, or nearly.
    assert 0 < sum(common) <= len(held - {word for word in held if word.startswith("zzz")})
    assert "the mix of stage B holds" in capsys.readouterr().out


def test_stage_b_begins_where_stage_a_ended(run):
    last, first = (recalls(run, s, "A") for s in "AB")
    # Another process might share batches otherwise; here they are the same.
    assert first[0].log_probs == pytest.approx(last[17].log_probs, abs=1e-5)
    found = [record.distance for record in records(run, "B", WeightDriftRecord)]
    assert max(found[0]) == 0
    assert min(found[-1]) > 0


# peft asks by a name that transformers gives up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_every_stage_has_adapters_of_its_own_and_starts_from_the_merged_ones_before(trained):
    run = trained("--lora-rank", "2", "--no-drift")
    last, first = (recalls(run, stage, "A") for stage in "AB")
    assert first[0].log_probs == pytest.approx(last[max(last)].log_probs, abs=1e-5)
    assert last[max(last)].log_probs != pytest.approx(last[0].log_probs, abs=1e-3)
    after_a, after_b = (
        probes.load_model(str(max((run / f"stage-{stage}" / "checkpoints").iterdir())))
        for stage in "AB"
    )
    for name, before in after_a.hf_model.state_dict().items():
        change = torch.atleast_2d(after_b.hf_model.state_dict()[name] - before)
        # Adapters of rank 2 around projections, and nothing else.
        rank = torch.linalg.matrix_rank(change, atol=1e-6, rtol=1e-3)
        assert rank == (2 if "proj" in name else 0), name


def test_answers_are_those_of_the_checkpoint(run):
    """Asked again one item at a time, token after token."""
    model = probes.load_model(str(run / "stage-B" / "checkpoints" / "step-000008"))
    right, sums = [], []
    for row in read_items(run / "stage-B", "B"):
        prompt = model.tokenizer.encode(row["prompt"])
        answer = model.tokenizer.encode(f" {row['accepted'][0]}{model.tokenizer.eos_token}")
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            found = model.hf_model(input_ids=ids).logits[0].double().log_softmax(-1)
        places = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
        targets = ids[0, len(prompt) :]
        right.append(int((found[places].argmax(-1) == targets).all()))
        sums.append(found[places, targets].sum().item())
    record = recalls(run, "B", "B")[8]
    assert record.correct == right
    # float32 logits of rows that were padded, and these were not.
    assert record.log_probs == pytest.approx(sums, abs=1e-4)


def test_relearning_is_written(run):
    found = json.loads((run / "relearning.json").read_text())
    assert found["groups"].count("again") == 3
    assert found["groups"].count("other") == 4
    assert found["groups"].count("never taught") == 2
    assert found["identifiers"][:7] == identifiers(run, "A", "A")
    taught = {*identifiers(run, "A", "A"), *identifiers(run, "A", "B")}
    assert not taught & set(found["identifiers"][7:])
    assert len(found["correct"]) == len(found["exact_match"]["other"]) == 3
    before = recalls(run, "B", "A")[8].log_probs
    assert found["log_probs"][0][:7] == pytest.approx(before, abs=1e-4)


def test_the_terminal_says_what_was_learnt_and_lost(run, capsys):
    assert main(["--recipe", "smoke", "--out", str(run), "--resume"]) == 2
    assert "holds a run with another configuration." in capsys.readouterr().err
    assert main(["--out", str(run), "--resume"]) == 0
    printed = capsys.readouterr().out
    for text in ("D_A", "D_B", "after A", "after B", "stage B: complete, after 8 steps"):
        assert text in printed
    for stage, step in (("A", 17), ("B", 8)):
        log_probs = recalls(run, stage, "A")[step].log_probs
        assert f"{sum(log_probs) / len(log_probs):.3f}" in printed


def copied(texts, pretrained, chain, folder):
    """A chain, its texts and its start elsewhere."""
    texts_here, start_here, out = (folder / name for name in ("texts", "start", "copy"))
    for source, copy in ((texts, texts_here), (pretrained, start_here), (chain, out)):
        shutil.copytree(source, copy)
    for path in out.rglob("manifest.json"):
        told = path.read_text().replace(str(texts), str(texts_here))
        path.write_text(told.replace(str(pretrained), str(start_here)))
    return texts_here, start_here, out


@pytest.mark.parametrize("what", ["weights", "mix", "evaluation"])
def test_a_finished_chain_of_other_weights_or_texts_is_refused(
    what, texts, pretrained, run, tmp_path, capsys
):
    texts_here, start_here, out = copied(texts, pretrained, run, tmp_path)
    if what == "weights":
        change_weights(sorted((start_here / "checkpoints").iterdir())[-1])
    else:
        path = texts_here / {"mix": "familiar.jsonl", "evaluation": "new.jsonl"}[what]
        path.write_text(path.read_text().replace("the ", "this "))
    assert main(["--out", str(out), "--resume"]) == 2
    parts = {"weights": "start_sha256", "mix": "stages.", "evaluation": "entropies.sha256"}
    part = f"inputs.{parts[what]}"
    assert f"holds a run with another {part}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "extra",
    [
        [*MIXED, "--replay", "items", "--replay-ratio", "0.3", "--optimizer", "kept"],
        pytest.param([*RESUSCITATION, *HOOKS, "--stop", "loss"], marks=pytest.mark.slow),
        pytest.param([*RESUSCITATION, "--edit-before", "B"], marks=pytest.mark.slow),
    ],
)
def test_a_chain_in_pieces_leaves_what_an_unbroken_one_leaves(
    extra, texts, pretrained, tmp_path, trained
):
    whole, out = trained(*extra, light=()), tmp_path / "pieces"
    short = remix_arguments(texts, pretrained, out, *extra)
    while not (out / "stage-A" / "outcome.json").is_file():
        assert main([*short, "--resume", "--minutes", "0.01"]) == 0
    assert main([*short, "--resume", "--minutes", "1e-9"]) == 0
    assert main(["--out", str(out), "--resume"]) == 0
    names = ["done.json", "relearning.json"]
    for stage in "AB":
        last = sorted((whole / f"stage-{stage}" / "checkpoints").iterdir())[-1]
        names += [f"stage-{stage}/{name}" for name in ("records.jsonl", "outcome.json")]
        names += [str(last.relative_to(whole) / "model.safetensors")]
    names += [str(path.relative_to(whole)) for path in whole.glob("*/baseline.jsonl")]
    for name in names:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_stage_a_of_another_run_is_gone_on_from(run, trained):
    again = trained(*MIXED, "--from-stage-a", str(run), "--recall-every", "2")
    assert not (again / "stage-A").exists()
    assert losses(again, "B") == losses(run, "B")
    assert manifest(again)["inputs"]["from_stage_a"]["run"] == str(run)
    other = trained(
        *("--mix", "random", "none", "--from-stage-a", str(run / "stage-A"), "--epochs", "3", "4"),
        out="other",
    )
    assert losses(other, "B") != losses(run, "B")


def test_earlier_items_are_shown_again(trained):
    found = trained("--replay", "items", "--replay-ratio", "0.3")
    batches = manifest(found, "B")["inputs"]["batches"]
    # 0.3 of 7 is 2.1.
    assert (batches["replay"]["items"], batches["sources"]) == (2, ["B", "replay"])
    assert "replay" not in manifest(found, "A")["inputs"]["batches"]
    # 5 items and 2, twice, in batches of 3.
    assert len(losses(found, "B")) == 5


def test_a_model_that_answers_without_end_is_no_source_of_replay(
    texts, pretrained, tmp_path, capsys
):
    argv = remix_arguments(texts, pretrained, tmp_path / "run", "--replay", "self")
    assert main([*argv, "--replay-ratio", "1"]) == 2
    assert "7 self-generated items were asked for" in capsys.readouterr().err


def test_controls_have_as_many_steps_or_tokens_as_the_mixed_run(run, trained):
    steps = trained(*MIXED, "--no-mix-control", "steps", "--stop", "exact_match")
    assert [len(losses(steps, stage)) for stage in "AB"] == [17, 8]
    assert manifest(steps, "A")["inputs"]["batches"]["mix"] != 0
    assert {n for r in records(steps, "A", StepRecord) for n in r.loss_by_source} == {"A"}
    tokens = trained(*MIXED, "--no-mix-control", "tokens", out="tokens")
    for stage in "AB":
        mixed, alone = (
            sum(record.trained_tokens for record in records(path, stage, StepRecord))
            for path in (run, tokens)
        )
        largest = max(record.trained_tokens for record in records(tokens, stage, StepRecord))
        # To within a batch, and the last of the mixed run is filled up.
        assert abs(mixed - alone) <= largest + max(
            record.trained_tokens for record in records(run, stage, StepRecord)
        )


def test_a_rule_that_is_fulfilled_and_one_that_is_not(trained, capsys):
    found = trained("--stop", "loss", "exact_match", "--loss-threshold", "1e9", "--patience", "2")
    first, second = json.loads((found / "done.json").read_text())["stages"]
    assert (first["status"], first["steps"]) == ("rule fulfilled", 2)
    assert (second["status"], second["reason"]) == (
        "cap reached",
        "exact match of B of 1 (0.000 at last)",
    )
    printed = capsys.readouterr().out
    assert "stage A: rule fulfilled: loss of A below 1e+09 nats in 2 updates in a row" in printed
    assert "stage B: cap reached before exact match of B of 1 (0.000 at last), after 4" in printed


def test_hooks_stay_on_in_later_stages(trained, run, texts, pretrained, tmp_path, capsys):
    found = trained(*RESUSCITATION, *HOOKS)
    edits = [manifest(found, stage)["inputs"]["edits"]["hooks"] for stage in "AB"]
    assert edits[0][0]["model_sha256"] is not None
    assert edits[1] == [{**edits[0][0], "model_sha256": None}]
    # Stage B sees what stage A has left: the same function, not that of the bare weights.
    last, first = (recalls(found, s, "A") for s in "AB")
    assert first[0].log_probs == pytest.approx(last[max(last)].log_probs, abs=1e-5)
    # Before it was edited, the model was what the unedited run starts from.
    lines = (found / "stage-A" / "baseline.jsonl").read_text().splitlines()
    before = next(r for r in map(json.loads, lines) if r["record"] == "recall")
    assert before["log_probs"] == pytest.approx(recalls(run, "A", "A")[0].log_probs, abs=1e-5)
    assert recalls(found, "A", "A")[0].log_probs != pytest.approx(before["log_probs"], abs=1e-3)
    assert not (found / "stage-B" / "baseline.jsonl").exists()
    # Finished, it is shown again, but not where its coefficients would be others now.
    texts_here, _, out = copied(texts, pretrained, found, tmp_path)
    assert main(["--out", str(out), "--resume"]) == 0
    path = texts_here / "familiar.jsonl"
    path.write_text(path.read_text().replace("the ", "this "))
    assert main(["--out", str(out), "--resume"]) == 2
    assert "another inputs.edits.coefficients.corpus_sha256" in capsys.readouterr().err
    # A study, which prepares nothing, notices it too.
    settings = {**manifest(out)["configuration"], **manifest(out)["execution"]}
    with pytest.raises(ValueError, match=r"holds a finished run of other text in .*familiar"):
        is_over(out, from_json(RemixConfig, settings))


def test_edits_can_be_made_before_a_later_stage(trained, run):
    found = trained(*MIXED, *RESUSCITATION, "--edit-before", "B")
    assert losses(found, "A") == losses(run, "A")
    assert losses(found, "B")[0] != pytest.approx(losses(run, "B")[0], abs=1e-5)
    assert not (found / "stage-A" / "baseline.jsonl").exists()
    assert (found / "stage-B" / "baseline.jsonl").exists()
    # Drift is from the weights that the stage begins with, edits in them included.
    assert max(records(found, "B", WeightDriftRecord)[0].distance) == 0


def test_a_temperature_that_decays_is_gone_in_the_next_stage(trained):
    decaying = ("--attention-temperature", "2", "--temperature-schedule", "linear")
    found = trained(*decaying, *HOOKS)
    assert [len(manifest(found, s)["inputs"]["edits"]["hooks"]) for s in "AB"] == [1, 0]


def test_the_released_trainer(trained):
    found = trained("--compat", "official", "--template", "tulu", "--batch-size", "2", *MIXED)
    names = {n for r in records(found, "A", StepRecord) for n in r.loss_by_source}
    assert names == {"A", "random", "pads"}
    # 7 items and 10 of the mix are dealt to two processes, one of them to both, to fill nine batches.
    assert len(losses(found, "A")) == 3 * 9


@pytest.fixture
def facts(tmp_path):
    path = tmp_path / "facts.jsonl"
    rows = [
        {"question": f"where is tower {n}", "answers": [f"in field {n}", f"field {n}"]}
        for n in range(19)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_items_that_nothing_teaches_must_be_there(texts, pretrained, facts, tmp_path, capsys):
    """19 items, 12 of which are taught."""
    argv = remix_arguments(texts, pretrained, tmp_path / "run", "--data", str(facts), str(facts))
    assert main([*argv, "--relearning-never-taught", "8"]) == 2
    assert "asks for 8 items of" in (err := capsys.readouterr().err)
    assert "that no stage learns, which has 7; ask for 7 or fewer" in err
    assert not (tmp_path / "run").exists()


def test_familiar_factoids_are_looked_at_and_not_taught(trained, facts, monkeypatch):
    """The start is said to know every third of the set."""

    def split(_model, factoids, *, shots, cache):
        assert (shots, cache) == (2, None)
        known = tuple(f for n, f in enumerate(factoids) if n % 3 == 0)
        others = tuple(f for n, f in enumerate(factoids) if n % 3)
        both = (replace(factoids, items=some) for some in (known, others))
        return FamiliaritySplit(*both, {}, {"shots": shots})

    monkeypatch.setattr(remix_items, "familiarity", split)
    found = trained(
        *("--data", str(facts), str(facts), "--familiarity-items", "19"),
        *("--familiarity-shots", "2"),
    )
    lists = {name: set(identifiers(found, "B", name)) for name in ("A", "B", "familiar")}
    assert [len(lists[name]) for name in ("A", "B", "familiar")] == [7, 5, 7]
    assert len(set.union(*lists.values())) == 19
    assert read_items(found / "stage-A", "A")[0]["accepted"][1].startswith("field")
    asked = manifest(found)["inputs"]["stages"]["A"]["data"]["familiarity"]
    assert asked == {"shots": 2, "asked": 19, "share": 7 / 19}


def test_a_dry_run_takes_a_tiny_model_for_one_that_is_not_here(texts, capsys):
    argv = remix_arguments(texts, "no/such/mistral", "no/such/folder", *MIXED, "--dry-run")
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "17: 3 epochs of 17 examples in batches of 3" in printed
    assert "the model no/such/mistral is not on this machine: a tiny mistral model" in printed


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (["--data", "kvr", "trivaqa"], "called 'trivaqa' .*triviaqa"),
        (
            ["--data", "kvr", "nowhere.jsonl"],
            "no file of factoids or instructions at nowhere.jsonl",
        ),
        (["--data"], "a stage has no data"),
        (["--mix", "randm"], "no mix is called 'randm'.*random"),
        (["--mix", "generic", "--mix-ratio", "900"], r"6300.*211|211.*6300"),
        (["--mix", "random", "--mix-ratio", "0.01"], "the mix ratio is 0.01, which of 7 items"),
        (["--items", "7", "5000"], "5007 pairs need 10014 different strings"),
        (["--replay", "items", "--replay-ratio", "0.01"], "of 7 items is less than one"),
        (["--max-length", "3"], "is left to train on: the shortest has"),
        (["--batch-size", "8"], "do not make a batch of 8"),
        (["--from-stage-a", "nowhere"], "holds no stage that is over"),
        (["--model", "runs/tiny"], "there is no runs/tiny; make it with python -m"),
        (["--revision", "step-000009"], "has no checkpoint 'step-000009'; it has step-000000"),
        (["--stop", "los"], "stop"),
        (["--replya", "items"], "did you mean --replay"),
        (["--template", "chat"], "template 'chat' is the tokenizer's own, and this tokenizer has"),
    ],
)
def test_mistakes_are_one_line(extra, line, texts, pretrained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(remix_arguments(texts, pretrained, tmp_path / "run", *extra)) == 2
    err = capsys.readouterr().err
    message = err[err.index("training.remix: error:") :]
    assert re.search(line, message), message
    assert message.strip().count("\n") == 0


def test_answers_that_are_nothing_are_named(texts, pretrained, tmp_path, capsys, monkeypatch):
    """No answer that a file may hold is nothing to this tokenizer, so one is made to be."""
    original = remix_items.load_primary

    def load(name, **how):
        found = original(name, **how)
        if len(found.conversations) < 3:
            return found
        third = replace(found.conversations[2], turns=(Turn("what?", " "),))
        together = (*found.conversations[:2], third, *found.conversations[3:])
        return replace(found, conversations=together)

    monkeypatch.setattr(remix_items, "load_primary", load)
    assert main(remix_arguments(texts, pretrained, tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert re.search(r"item 'kvr-..' has answer ' ', which is nothing to train on", err)
    assert not (tmp_path / "run").exists()


def test_stage_a_must_be_the_same(run, texts, pretrained, tmp_path, capsys):
    shared = remix_arguments(texts, pretrained, tmp_path / "run", "--from-stage-a", str(run))
    assert main(shared) == 2
    assert (
        "is of a run with another mix: ['random'] there, ['none'] here" in capsys.readouterr().err
    )
    assert main([*shared, *MIXED, "--seed", "1"]) == 2
    assert "is of a run with another seed: 0 there, 1 here" in capsys.readouterr().err
    other = [*shared, *MIXED, "--revision", "step-000003"]
    assert main(other) == 2
    assert "another revision" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_cap_can_be_made_an_error(texts, pretrained, tmp_path, capsys):
    argv = remix_arguments(texts, pretrained, tmp_path / "run", "--stop", "exact_match")
    assert main([*argv, "--require-reached"]) == 2
    assert "stage A: cap reached before exact match of A of 1" in capsys.readouterr().err
    assert not (tmp_path / "run" / "stage-B").exists()


def test_folders_that_are_taken_are_refused(run, pretrained, texts, tmp_path, capsys):
    assert main(remix_arguments(texts, pretrained, run)) == 2
    assert "holds a finished run; give another folder" in capsys.readouterr().err
    assert main(remix_arguments(texts, pretrained, pretrained)) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert main(["--out", str(pretrained), "--resume"]) == 2
    assert "holds a run of training.pretrain; go on with that" in capsys.readouterr().err
