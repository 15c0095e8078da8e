"""The manners that all commands share, each command once."""

import json
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from probes.cli import COMMANDS

ROOT = Path(__file__).parent.parent

HELP_BOTH_WAYS = """
import contextlib, io, json, os, runpy, sys, time, warnings
warnings.simplefilter("error", RuntimeWarning)  # as runpy gives where a package imports its command
os.environ["COLUMNS"] = "100"
def told(start, words):
    sys.argv, raw = words, io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, "utf-8")) as out:
        try: start()
        except SystemExit as stop: assert not stop.code
        out.flush()
    return raw.getvalue().decode()
name = sys.argv[1]
module = told(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True), [name, "--help"])
seconds = time.process_time()
from probes.cli import console_script
script = told(console_script, ["mnemoscope", name, "--help"])
heavy = sorted({"torch", "transformers", "plotly", "pandas"} & sys.modules.keys())
print(json.dumps({"module": module, "script": script, "seconds": seconds, "heavy": heavy}))
"""


def main_of(name):
    folder = find_spec(name).submodule_search_locations is not None
    return import_module(f"{name}.__main__" if folder else name).main


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_quick_has_texts_and_is_the_same_both_ways(name):
    command = [sys.executable, "-c", HELP_BOTH_WAYS, name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["module"] == found["script"]
    assert "Show the traceback of an error." in found["module"]
    assert "Show the version and stop." in found["module"]
    assert found["heavy"] == []
    # Of processor time, which other programs do not lengthen much.
    assert found["seconds"] < 2


@pytest.mark.parametrize("name", COMMANDS)
def test_version_and_unknown_options(name, capsys):
    main = main_of(name)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mnemoscope ")
    for word, answer in (("--debgu", "; did you mean --debug?"), ("--xyzzy", "; --help lists")):
        assert main([word]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"{name}: error: there is no option {word}{answer}")
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("probes.assets fetch genral", "general"),
        ("analysis.entropy --out x", "--model"),
        ("analysis.report --out page", ""),
        ("interventions.patch --model m --resuscitation-ratio half", "--resuscitation-ratio"),
        ("interventions.patch --model m --heldout t", "did you mean --held-out?"),
        ("training.tuned_lens --model m --corpus c --out o --heldout t", "mean --held-out?"),
        ("training.ckl --recipe lba", "there is no recipe 'lba'; did you mean lab?"),
        ("analysis.reproduce --scale smok", "'--scale'; did you mean smoke? It takes desk, lab"),
        ("training.ckl --recipe", "--recipe"),
        ("training.ckl --schedule cosin --dry-run", "--schedule"),
        ("training.remix --batch-size 0 --dry-run", "batch_size must be 1 or more"),
        ("training.remix", "--out is missing"),
        ("training.pretrain --betas 0.9 --dry-run", "--betas"),
        ("analysis.ckl_study --recipe nothing", "there is no recipe 'nothing'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, *rest = words.split()
    assert main_of(name)(rest) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"{name}: error: ")
    assert line in err
    assert err.count("\n") == 1
    assert not set(err) & set("╭│╰─")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        "training.ckl --model nobody/nothing",
        "training.remix --model nobody/nothing",
        "training.tuned_lens --model nobody/nothing --corpus general --out o",
    ],
)
def test_a_dry_run_of_what_is_not_here_says_so_and_writes_nothing(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    name, *rest = words.split()
    assert main_of(name)([*rest, "--dry-run"]) == 0
    assert re.search("not tried: |: a tiny olmo model stands in", capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
