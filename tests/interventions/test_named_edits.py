"""Edits of one's own by name: what `--edit module:object` finds, does and refuses."""

import json
import sys

import pytest

import probes
from interventions.choices import edits_named, named_object
from interventions.edits import patch_weights
from interventions.patch import main
from tests.interventions.editing import logits, relative_gap
from tests.models import tiny_hf_model, tiny_tokenizer
from tests.refusals import refused

MODULE = """
import interventions

third = interventions.MemoryEdit({1: [3, 5]}, scale=1 / 3)
number = 3

def of_model(model):
    return interventions.MemoryEdit({model.n_layers - 1: [0]})

class group:
    third = third
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with a module of edits and one that fails."""
    (tmp_path / "my_edits.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "my_edits", raising=False)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_an_object_or_a_function_of_the_model_is_found_here():
    model = probes.load_model(tiny_hf_model("llama"))
    third, inner, last = edits_named(
        ["my_edits:third", "my_edits:group.third", "my_edits:of_model"], model
    )
    assert third is inner
    assert last.describe()["vectors"] == {"2": [0]}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_edits", "--edit takes module:object, my_edits:half"),
        ("my_edits:", "--edit takes module:object"),
        ("my_edit:third", "there is no my_edit.py here, and no such package is installed"),
        ("my_edits:thirds", "my_edits has no thirds; did you mean third?"),
        ("my_edits:xyz", "my_edits has no xyz; it has interventions, third"),
        ("my_broken:third", "importing my_broken fails with ZeroDivisionError: division by zero"),
        ("my_edits:number", "is the number 3; give one such as .*, or a function that makes one"),
        ("my_edits:group", "is the class group; give one of it"),
    ],
)
def test_a_wrong_name_gets_one_line(name, message):
    with refused(message):
        edits_named([name], model=None)


def test_patch_makes_and_records_it(here):
    tiny_hf_model("llama").save_pretrained("llama")
    tiny_tokenizer().save_pretrained("llama")
    words = ["--model", "llama", "--edit", "my_edits:third", "--out"]
    assert main([*words, "out"]) == 0
    record = json.loads((here / "out" / "edits.json").read_text())
    assert record["measured"]["named_edits"] == ["my_edits:third"]
    assert record["edits"][0]["kind"] == "memory_edit"
    model, saved = (probes.load_model(str(here / name)) for name in ("llama", "out"))
    patch_weights(model, named_object("my_edits:third"))
    assert relative_gap(logits(saved), logits(model)) == 0


@pytest.mark.usefixtures("here")
def test_a_command_complains_before_it_loads_anything(capsys):
    assert main(["--model", "nothing", "--edit", "my_edits:thirds", "--dry-run"]) == 2
    assert "did you mean third?" in capsys.readouterr().err
