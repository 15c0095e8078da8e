"""The examples, the notebooks and the code in README and docs run, and say what they should.

Every notebook runs twice: cell by cell on a tiny model, in the place of its cell of parameters; and,
as a slow test, in a kernel with its own parameters, to a page that a browser draws.
"""

import ast
import json
import random
import re
import runpy
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import probes
import training
from analysis.figures import NotebookFigure
from tests.browser import wait
from tests.models import tiny_hf_model, tiny_tokenizer

ROOT = Path(__file__).parent.parent


NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+) -->\n")
"""What stands before a block that cannot run here."""


def code_of(page: Path) -> list[str]:
    blocks = rf"(?:{NOT_RUN.pattern})?```python\n(?P<code>.*?)```"
    found = re.finditer(blocks, page.read_text(), flags=re.DOTALL)
    return [block["code"] for block in found if not block["reason"]]


PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if code_of(page)
]


def cells_of(name: str) -> list[str]:
    """The code of a notebook, cell by cell, without that of its parameters."""
    cells = json.loads((ROOT / "examples" / f"{name}.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "commit notebooks without outputs"
    plain = [c for c in cells if c["cell_type"] == "code" and not c["metadata"].get("tags")]
    return ["".join(cell["source"]) for cell in plain]


def shown_by(cell: str, names: dict) -> object:
    """Run a cell; what its last line shows."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    assert getattr(shown, "_repr_html_", shown.__repr__)()
    return shown


TINY = {
    "where_a_fact_comes_from": {
        **{"CLEAN": "w1 w2 w3", "ANSWER": "w5", "CORRUPTED": "w1 w9 w3", "OTHER": "w6"},
        **{"TOKENS": 512, "LENGTH": 32},
    },
    "edit_and_train": {
        **{"TOKENS": 512, "LENGTH": 32, "LAYER": 1, "PROMPT": "w1 w2 w3", "SUBJECT": "w2"},
        **{"TARGET": " w5", "NEIGHBOUR": "w1 w7 w3", "PREFIXES": [""], "SUMS_STEPS": 40},
        "SEARCH": {"steps": 60, "largest": 40.0, "weight_decay": 0.0, "drift": 0.0},
    },
    "read_a_run": {"STEPS": 8, "EVERY": 2},
}
FIGURES = {"where_a_fact_comes_from": 7, "edit_and_train": 4, "read_a_run": 4}


@pytest.mark.usefixtures("smollm2")
def test_three_entropies(capsys):
    runpy.run_path(str(ROOT / "examples" / "three_entropies.py"))["main"]()
    out = capsys.readouterr().out
    total = float(re.search(r"knowledge entropy +([\d.]+) of at most 220.11", out)[1])
    # 2,048 tokens of general text; longer passes give 216.
    assert 210 < total < 220
    assert "layer 29 works as if" in out


@pytest.mark.usefixtures("smollm2")
def test_hook_points(capsys):
    runpy.run_path(str(ROOT / "examples" / "hook_points.py"))["main"]()
    assert "goes on ' Paris'" in capsys.readouterr().out


@pytest.fixture(scope="module")
def thin(smollm2):
    """As many layers and the same words as the built-in model has, with random narrow weights."""
    shape = {"hidden_size": 64, "intermediate_size": 307, "head_dim": 8}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    config = LlamaConfig(**{**smollm2.hf_model.config.to_dict(), **shape, **heads})
    torch.manual_seed(0)
    return probes.load_model(LlamaForCausalLM(config).eval(), tokenizer=smollm2.tokenizer)


@pytest.fixture(params=["thin", pytest.param("smollm2", marks=pytest.mark.slow)])
def model(request, monkeypatch):
    """What code gets for the name of the built-in model, loading of which the scripts above do."""
    load, found = probes.load_model, request.getfixturevalue(request.param)
    built_in = "smollm2-135m-instruct-q4"
    loaded = lambda given, **how: found if given == built_in else load(given, **how)  # noqa: E731
    monkeypatch.setattr(probes, "load_model", loaded)
    return found


@pytest.mark.parametrize("name", TINY)
def test_a_notebook_runs_on_a_tiny_model(name, tmp_path):
    folder = tmp_path / "tiny"
    tiny_hf_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    text = tmp_path / "texts.jsonl"
    text.write_text("\n".join(json.dumps({"text": words(seed)}) for seed in range(64)))
    names = {"MODEL": str(folder), "CORPUS": str(text), **TINY[name]}
    found = [shown_by(cell, names) for cell in cells_of(name)]
    figures = [one for one in found if isinstance(one, NotebookFigure)]
    assert len(figures) == FIGURES[name]
    assert all(any(len(trace.x) for trace in figure.data) for figure in figures)


def words(seed: int) -> str:
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(98)}" for _ in range(32))


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("name", TINY)
def test_a_notebook_becomes_a_page_with_its_pictures(name, driver, tmp_path):
    nbconvert, nbformat = map(pytest.importorskip, ("nbconvert", "nbformat"))
    book = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    where = {"metadata": {"path": str(ROOT)}}
    nbconvert.preprocessors.ExecutePreprocessor(timeout=600).preprocess(book, where)
    page = tmp_path / "book.html"
    page.write_text(nbconvert.HTMLExporter().from_notebook_node(book)[0], encoding="utf-8")
    driver.get(page.as_uri())
    drawn = "document.querySelectorAll('.js-plotly-plot .gtitle').length"
    wait(driver, f"return {drawn} === {FIGURES[name]}")
    shown = str(book)
    assert {"edit_and_train": "Rome", "where_a_fact_comes_from": "Paris"}.get(name, "") in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("model")
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in code_of(page):
        exec(compile(block, page.name, "exec"), names)
    if page.name == "README.md":
        assert (tmp_path / "runs" / "general" / "entropy.json").is_file()
        assert names["result"].knowledge.total < names["edited"].knowledge.total
    if page.name == "edits.md":
        # Hook, patch and the start of training: one function, but for float32 rounding.
        gap = names["hooked"].detach() - names["patched"].detach()
        assert float(gap.abs().max()) < 1e-3
        weights, hooks = names["losses"]["weights"], names["losses"]["hooks"]
        assert abs(weights[0] - hooks[0]) < 1e-5 < abs(weights[2] - hooks[2])
    if page.name == "training.md":
        norms = list(training.records_of(tmp_path / "runs/script", names["NormRecord"]))
        assert [record.step for record in norms] == [0, 2, 4]
        assert [record for record in names["seen"] if record in norms] == norms
        assert len(names["observer"].losses) == 4
