"""The examples, the notebook and the code in README and docs run, and say what they should."""

import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import probes
import training

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


def code_of_notebook() -> str:
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "commit the notebook without outputs"
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")


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


def test_the_notebook_runs_from_top_to_bottom(model):
    names: dict = {}
    exec(compile(code_of_notebook(), "tour.ipynb", "exec"), names)
    assert names["mean"].shape == (model.d_mlp,)
    assert names["result"].next_token.mean > 0


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
