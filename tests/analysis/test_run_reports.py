"""What the reports of runs of both kinds do alike: commands, files, refusals, on planted runs."""

import shlex
from importlib import import_module
from pathlib import Path

import pytest

from analysis.arm_report import command_of
from analysis.runs import read_chain, read_run
from tests.analysis import ckl_runs, remix_runs
from training.recipes import as_json

KINDS = {"ckl": ckl_runs, "remix": remix_runs}


def run_report(kind, *arguments):
    return import_module(f"analysis.{kind}_report").main([*map(str, arguments)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_of_a_run_makes_it_again(kind, tmp_path):
    """Parsed as a command line is, it gives the configuration that the run was made with."""

    make = KINDS[kind].make_run
    first = make(tmp_path / "first", seed=3)
    if kind == "ckl":
        second = make(tmp_path / "second", edit=ckl_runs.UP, gain=0.5, unedited=True)
    else:
        given = {"seed": 3, "replay": "items", "mix": ("random", "generic")}
        second = make(tmp_path / "second", shared=first, **given)
    command = import_module(f"training.{kind}").COMMAND
    for folder in (first, second):
        run = (read_run if kind == "ckl" else read_chain)(folder)
        words = shlex.split(command_of(run.manifest))[3:]
        found = as_json(command.parsed(words).config)
        stored = {**run.configuration, **run.manifest["execution"]}
        if stored.get("from_stage_a") is not None:
            stored["from_stage_a"] = Path(stored["from_stage_a"]).name
        # Of a path only its name is shown.
        assert {**found, "model": None} == {**stored, "model": None}


@pytest.mark.parametrize(
    ("kind", "given", "shown"),
    [
        ("ckl", {}, ["25.0% [", "20.0% ["]),
        ("remix", {"written": True}, ["no mixing", "15.4% ["]),
    ],
)
def test_the_terminal_shows_a_table_and_where_the_page_is(kind, given, shown, tmp_path, capsys):
    out = tmp_path / "report"
    run = KINDS[kind].make_run(tmp_path / "run", **given)
    for _ in range(2):
        # A report may be made again where it is.
        assert run_report(kind, run, "--out", out) == 0
    printed = capsys.readouterr().out
    for words in [*shown, f"page: {out / kind}.html"]:
        assert words in printed.replace("\n", "")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere holds no run, found no manifest.json; give the --out folder of"),
        ([], "a report needs at least one run, found none; give run directories"),
        (["nowhere", "--bse", "x"], "there is no option --bse; did you mean --base?"),
    ],
)
def test_bad_input_is_one_line(kind, arguments, message, tmp_path, capsys):
    assert run_report(kind, *arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"analysis.{kind}_report: error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_number_of_items_to_locate_is_refused(tmp_path, capsys):
    assert run_report("remix", "x", "--localization-items", 0, "--out", tmp_path / "out") == 2
    assert "--localization-items must be 1 or more, found 0" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_something_else_is_left_alone(kind, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert run_report(kind, "nowhere", "--out", tmp_path) == 2
    assert "exists and holds no report; give another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
