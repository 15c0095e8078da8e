"""Packages import only what stands to their left: probes, interventions, training, analysis."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ("probes", "interventions", "training", "analysis")
MODULES = sorted(path for package in ORDER for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_the_left(path):
    own = ORDER.index(path.relative_to(ROOT).parts[0])
    reached = {name.split(".")[0] for name in imported(path)} & set(ORDER)
    assert {name for name in reached if ORDER.index(name) > own} == set()


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
