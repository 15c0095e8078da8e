"""The examples, the notebook and the README's snippets run, and say what they should."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def code_of_readme() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


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


@pytest.mark.usefixtures("smollm2")
def test_the_notebook_runs_from_top_to_bottom():
    names: dict = {}
    exec(compile(code_of_notebook(), "tour.ipynb", "exec"), names)
    assert names["mean"].shape == (1536,)
    assert names["result"].next_token.mean > 0


@pytest.mark.usefixtures("smollm2")
def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in code_of_readme():
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "runs" / "general" / "entropy.json").is_file()
    assert names["result"].knowledge.total < names["result"].knowledge.maximum


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing
    tree = re.search(r"```\n(probes/.*?)```", text, flags=re.DOTALL)[1]
    folder = ""
    for line in tree.splitlines():
        name = line.split()[0] if line.split() else ""
        if name.endswith("/") and not line.startswith(" "):
            folder = name
            assert (ROOT / name).is_dir(), name
        elif name.endswith((".py", "/")):
            assert (ROOT / folder / name).exists(), folder + name
