"""`--generate-every` of `training.ckl`: which targets of probes a model generates, and when."""

import json
import shutil

import pytest
import torch

import probes
from tests.training.small_runs import ckl_arguments
from training.ckl import main
from training.runs.records import RecallRecord, read_items, records_of

OFTEN = ("--generate-every", "3", "--lags", "1", "--learning-rate", "0.03")


@pytest.fixture(scope="module")
def begun(texts, pretrained, tmp_path_factory):
    """Texts, and a finished pretraining run."""
    folder = shutil.copytree(texts, tmp_path_factory.mktemp("texts") / "same")
    # Text of a single word, which is the target of the probes of one passage.
    same = [json.dumps({"text": "the" + " the" * 59}) for _ in range(97)]
    (folder / "new.jsonl").write_text("\n".join(same), encoding="utf-8")
    return folder, pretrained


@pytest.fixture(scope="module")
def run(begun, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "plain"
    assert main(ckl_arguments(*begun, out, *OFTEN)) == 0
    return out


def generated(run):
    found = {}
    for record in records_of(run, RecallRecord):
        assert (record.items, record.match) == ("probes", "tokens")
        found[record.step] = record.correct
    return found


def test_looks_are_at_the_start_the_last_injection_the_lags_and_the_end(run):
    # Every three steps, right after update 8 though 0 is no lag, one step later, and at the end.
    assert sorted(generated(run)) == [0, 3, 6, 8, 9, 11]


def test_what_is_generated_is_what_greedy_decoding_writes(run, begun):
    """Token by token, one probe at a time, on the models that lie there."""
    items = read_items(run, "knowledge")
    origins = {0: begun[1] / "checkpoints/step-000007", 11: run / "checkpoints/step-000011"}
    for step, origin in origins.items():
        model = probes.load_model(str(origin))
        expected = [int(_writes(model, item)) for item in items]
        assert generated(run)[step] == expected
    # A test of nothing but failures, or successes, would not see much.
    assert 0 < sum(expected) < len(expected)


def _writes(model, item):
    ids = model.tokenizer.encode(item["prompt"])
    target = model.tokenizer.encode(f" {item['target']}")
    for token in target:
        with torch.no_grad():
            best = int(model.hf_model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best != token:
            return False
        ids = [*ids, best]
    return True


def test_entry_by_entry_they_are_the_knowledge_probes(run):
    probes, asked = read_items(run, "knowledge"), read_items(run, "probes")
    assert [(item["prompt"], item["accepted"]) for item in asked] == [
        (probe["prompt"], [probe["target"]]) for probe in probes
    ]
    assert asked[4]["identifier"] == "passage 1, probe 1"


def test_a_run_in_pieces_leaves_what_an_unbroken_one_leaves(run, begun, tmp_path):
    out = tmp_path / "pieces"
    for _ in range(2):
        short = ckl_arguments(*begun, out, *OFTEN, "--resume", "--minutes", "1e-9")
        assert main(short) == 0
    assert main(["--out", str(out), "--resume"]) == 0
    assert (out / "records.jsonl").read_bytes() == (run / "records.jsonl").read_bytes()
    assert (out / "items/probes.jsonl").read_bytes() == (run / "items/probes.jsonl").read_bytes()


def test_an_edited_run_has_a_baseline_of_it(begun, tmp_path):
    edit = ("--resuscitation-ratio", "0.5", "--resuscitation-factor", "2")
    assert main(ckl_arguments(*begun, tmp_path / "run", *OFTEN, *edit)) == 0
    lines = (tmp_path / "run/baseline.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["record"] for line in lines]
    assert kinds.count("recall") == 1


def test_the_plan_says_so_and_nothing_is_generated_by_default(begun, tmp_path, capsys):
    assert main(ckl_arguments(*begun, tmp_path / "no", *OFTEN, "--dry-run")) == 0
    assert "every 2 steps, token_mean; targets generated every 3 steps" in capsys.readouterr().out
    assert main(ckl_arguments(*begun, tmp_path / "run")) == 0
    assert generated(tmp_path / "run") == {}
    assert "probes" not in {path.stem for path in (tmp_path / "run/items").iterdir()}


def test_a_cadence_below_one_is_refused(begun, tmp_path, capsys):
    assert main(ckl_arguments(*begun, tmp_path / "run", "--generate-every", "0")) == 2
    assert "--generate-every must be 1 or more, found 0" in capsys.readouterr().err
