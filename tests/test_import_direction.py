"""Packages import only what stands to their left: probes, interventions, training, analysis."""

import ast
import subprocess
import sys
from pathlib import Path

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
            names.add(node.module)
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
    # `EntropyResult.plot()` asks `analysis` to draw, and only when it is called.
    assert against == ["probes/results.py imports analysis.figures"]


@pytest.mark.parametrize("package", ORDER)
def test_no_exported_name_is_a_module_of_its_package(package):
    module = __import__(package)
    exported = set(getattr(module, "__all__", ()))
    modules = {path.stem for path in (ROOT / package).iterdir()}
    assert exported & modules == set()
    for name in exported:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("package", ORDER)
def test_importing_a_package_is_light_and_brings_in_no_backend(package):
    heavy = "'torch', 'transformers', 'transformer_lens', 'nnsight', 'plotly', 'pandas'"
    code = f"import sys, {package}; print([m for m in ({heavy}) if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert out.stdout.strip() == "[]", out.stderr
