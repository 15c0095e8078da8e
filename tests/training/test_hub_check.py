"""What of the hub can be read is told apart from what cannot, in one table."""

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from huggingface_hub import errors

from analysis.reproduce_scales import SCALES
from probes.assets.table import HUB_CORPORA, HUB_MODELS, asset_names
from tests.models import tiny_hf_model
from tests.training.hub_caches import parquet
from training.ckl_config import CKL_RECIPES
from training.data import hub_check
from training.data.__main__ import main
from training.data.primary_sets import primary_names
from training.remix import REMIX_RECIPES

QUESTIONS = [{"question": f"who wrote book {n}?", "answer": [f"Author {n}"]} for n in range(7)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder in place of the hub: files of data sets below their ids."""
    monkeypatch.setattr(hub_check, "_FILE", f"{tmp_path}/{{dataset}}/{{pattern}}")
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *_, **__: None)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def put(dataset, name, data):
        path = tmp_path / dataset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path.parent

    return put


def outcome(name):
    (found,) = hub_check.checked(hub_check.chosen_entries([name]), 60.0)
    return found.read, found.outcome


def answer_with(error, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)


def lines(rows):
    return "\n".join(map(json.dumps, rows))


def test_first_rows_of_every_file_go_through_the_reader_of_training(hub):
    hub("google-research-datasets/nq_open", "nq_open/train-0.parquet", parquet(QUESTIONS))
    assert outcome("nq-open-train") == ("7 rows of 1 file: 7 items", "ok")
    fields = ("id", "subj", "prop", "obj", "possible_answers", "question")
    rows = [
        (n, "Ann", "job", "smith", '"[""smith"", ""null""]"', f"What is job {n}?") for n in range(7)
    ]
    table = "\n".join("\t".join(map(str, row)) for row in (fields, *rows))
    hub("akariasai/PopQA", "test.tsv", table)
    assert outcome("popqa") == ("7 rows of 1 file: 7 items", "ok")
    programs = [
        {"question": "q", "solutions": '["print(1)"]', "difficulty": level, "input_output": ""}
        for level in ("interview", "competition", "introductory")
    ]
    hub("codeparrot/apps", "train.jsonl", lines(programs * 40))  # of 120 rows 100 are read
    hub("codeparrot/apps", "test.jsonl", lines(programs[:2]))
    assert outcome("apps") == ("102 rows of 2 files: 68 items", "ok")
    passage = {"train_context": "A text."}
    for kind in ("mem", "gen", "hard_gen"):
        passage |= {f"{kind}_input": ["The text is"], f"{kind}_target": ["A"]}
    hub("kaist-ai/fictional-knowledge", "fictional_knowledge.json", json.dumps([passage] * 3))
    assert outcome("fictional-knowledge") == ("3 rows of 1 file: 3 items", "ok")


def test_what_changed_is_named(hub):
    renamed = [{"query": row["question"], "answer": row["answer"]} for row in QUESTIONS]
    hub("google-research-datasets/nq_open", "nq_open/train-0.parquet", parquet(renamed))
    read, failed = outcome("nq-open-train")
    assert read == "nothing"
    assert "no 'question'; found 'query', 'answer'" in failed
    hub("codeparrot/apps", "train.jsonl", lines([{"question": "q", "solutions": '["s"]'}]))
    assert "test.jsonl" in outcome("apps")[1]  # of two files one is gone
    hub("codeparrot/apps", "test.jsonl", lines([{"question": "q", "solutions": '["s"]'}]))
    assert outcome("apps")[1] == "no item in the first 2 rows, of question, solutions"
    assert "\n" not in failed


def test_corpora_and_mixes(hub, monkeypatch):
    folder = hub("sets/pile", "train.jsonl", lines([{"content": "w " * n} for n in (5, 150, 7)]))
    hub("sets/pile", "README.md", "---\nconfigs:\n- config_name: default\n---\n")
    local = replace(HUB_CORPORA["knowledge-pile"], dataset=str(folder))
    monkeypatch.setitem(HUB_CORPORA, "knowledge-pile", local)
    assert outcome("knowledge-pile") == ("3 documents, passages of a mix", "ok")
    hub("sets/pile", "train.jsonl", lines([{"content": "w " * 99}]))
    assert outcome("knowledge-pile")[1].startswith("a mix of 1 passages was asked for")
    monkeypatch.setitem(HUB_CORPORA, "knowledge-pile", replace(local, column="text"))
    assert "'text'" in outcome("knowledge-pile")[1]
    assert "'content'" in outcome("knowledge-pile")[1]


def test_models_need_their_revisions_and_a_family_that_is_understood(hub, tmp_path, monkeypatch):
    tiny_hf_model("olmo").config.save_pretrained(tmp_path / "olmo")
    refs = SimpleNamespace(branches=[SimpleNamespace(name="step20-tokens3B")], tags=[])
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_refs", lambda *_: refs)
    local = replace(HUB_MODELS["olmo-1b"], model=str(tmp_path / "olmo"))
    for revisions, answer in (
        ((), "ok"),
        (("step20-tokens3B",), "ok"),
        (("step20-tokens4B",), "no revision step20-tokens4B: did you mean step20-tokens3B?"),
    ):
        monkeypatch.setitem(HUB_MODELS, "olmo-1b", replace(local, revisions=revisions))
        assert outcome("olmo-1b")[1] == answer
    assert outcome("olmo-1b")[0] == "nothing"
    config = json.loads((tmp_path / "olmo" / "config.json").read_text())
    (tmp_path / "olmo" / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    monkeypatch.setitem(HUB_MODELS, "olmo-1b", replace(local, revisions=()))
    assert outcome("olmo-1b")[1] == "its family, mamba, is not understood"


def test_an_entry_that_hangs_is_given_up_and_the_next_is_tried():
    slow = hub_check.Entry("slow", "a/b", "MIT", lambda: time.sleep(5) or "nothing")
    quick = replace(slow, name="quick", attempt=lambda: "3 rows")
    found = list(hub_check.checked([slow, quick], 0.1))
    assert [one.outcome for one in found] == ["no answer within 0.1 seconds", "ok"]


def test_without_a_network_each_entry_fails_at_once_in_one_line(monkeypatch, capsys):
    answer_with(httpx.ConnectError("Name or service not known"), monkeypatch)
    began = time.monotonic()
    assert main(["check"]) == 2
    out, err = capsys.readouterr()
    names = list(hub_check.named_entries())
    assert out.count("cannot") == len(names)
    assert err.splitlines()[-1].startswith(
        f"training.data: error: {len(names)} of {len(names)} failed: popqa, lama"
    )
    assert time.monotonic() - began < 2 * len(names)


def test_what_the_hub_answers_is_told_in_words(monkeypatch):
    response = httpx.Response(404, request=httpx.Request("GET", "https://hub.example"))
    for kind, answer in (
        (errors.RevisionNotFoundError, "has no revision 098765c79ea10a2cb19c828324e33281b8336ec0"),
        (errors.RepositoryNotFoundError, "is not there, or not open to this account"),
    ):
        answer_with(kind("404 Client Error.", response=response), monkeypatch)
        assert outcome("popqa") == ("nothing", answer)


def test_some_are_chosen_and_what_has_no_name_is_refused(capsys):
    assert main(["list", "--only", "c4", "olmo-1b"]) == 0
    listed = capsys.readouterr().out
    assert "allenai/c4@1588ec4, en" in listed
    assert "PopQA" not in listed
    for words, answer in (("--only popqq", "did you mean popqa?"), ("--timeout 0", "positive")):
        assert main(["check", *words.split()]) == 2
        assert answer in capsys.readouterr().err


def test_whatever_recipes_and_scales_name_of_the_hub_is_tried():
    recipes = [make() for make in (*CKL_RECIPES.values(), *REMIX_RECIPES.values())]
    scale = SCALES["paper"]()
    models = {one.model for one in HUB_MODELS.values()}
    asked = {config.model for config in recipes} | {scale.trajectory.model}
    assert {name for name in asked if "/" in name and not name.startswith("runs/")} <= models
    texts = {scale.knowledge.config.corpus, scale.knowledge.familiar_corpus, *scale.corpora}
    assert texts <= {*asset_names(), *HUB_CORPORA}
    stages = [scale.memorization.config.data, *(one.data for one in recipes if hasattr(one, "mix"))]
    assert {name for data in stages for name in data} <= set(primary_names())
    assert scale.trajectory.revisions == HUB_MODELS["olmo-1b"].revisions


def test_the_guide_has_every_name_with_its_address():
    guide = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    rows = [line for line in guide.splitlines() if line.startswith("| `")]
    for name, entry in hub_check.named_entries().items():
        address, licence = entry.address.partition("@")[0], entry.licence.partition(",")[0]
        assert any(f"`{name}`" in row and address in row and licence in row for row in rows), name
