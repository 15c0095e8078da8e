"""Packages import only what stands to their left: probes, interventions, training, analysis."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("probes", "interventions", "training", "analysis")


def imported(path: Path) -> set[str]:
    """Modules that a file imports, by statement or by name (`import_module("...")`)."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant)}
    return names


def test_modules_import_only_from_the_left():
    against = [
        f"{path.relative_to(ROOT)} imports {name}"
        for own, package in enumerate(ORDER)
        for path in (ROOT / package).rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in ORDER[own + 1 :]
    ]
    assert against == []


def test_no_module_imports_itself_through_others():
    """Imports inside functions count too."""
    paths = [path for package in ORDER for path in (ROOT / package).rglob("*.py")]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in paths}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    order = TopologicalSorter(
        {name: (imported(path) & names.keys()) - {name} for name, path in names.items()}
    )
    order.prepare()  # raises CycleError, which names the circle


def test_results_are_drawn_by_who_registers_it_and_refused_in_one_line_without():
    code = """
import sys, torch, probes
from tests.models import tiny_model
model = tiny_model("llama")
batch = {"input_ids": torch.arange(3, 14)[None]}
result = probes.measure_entropy(model, batch, "knowledge")
assert "analysis" not in sys.modules
sys.modules["analysis"] = None
try:
    result.plot()
except ValueError as refusal:
    print(refusal)
del sys.modules["analysis"]
print(type(result.plot()).__module__)
"""
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    assert len(out) == 2, out
    assert out[0].startswith("analysis:plot_result draws this result and cannot be imported")
    assert out[1] == "analysis.figures"


@pytest.mark.parametrize("package", ORDER)
def test_no_exported_name_is_a_module_of_its_package(package):
    module = __import__(package)
    exported = set(dir(module))
    modules = {path.stem for path in (ROOT / package).iterdir()}
    # A package that is exported whole is found at the second access as well.
    whole = {name for name in exported if isinstance(getattr(module, name), ModuleType)}
    assert exported & modules == whole
    for name in exported:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("package", ORDER)
def test_importing_a_package_is_light_and_brings_in_no_backend(package):
    heavy = "'torch', 'transformers', 'transformer_lens', 'nnsight', 'plotly', 'pandas'"
    code = f"import sys, {package}; print([m for m in ({heavy}) if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]", out.stderr
