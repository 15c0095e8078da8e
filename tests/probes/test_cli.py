"""The commands' common manners, on a small command of the tests' own."""

import dataclasses
import gc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from probes.cli import COMMANDS, command_main, importing, parse_arguments, progress

ROOT = Path(__file__).parent.parent.parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """A command that adds."""

    number: int
    """What to add to."""
    weighting: str = "instance"
    """Something with a default."""
    debug: bool = False
    """Show the traceback of an error."""


def run(argv, body=lambda arguments: None):
    def told(arguments, words):
        assert words == argv
        body(arguments)

    return command_main(Arguments, told, program="python -m some.command")(argv)


def test_garbage_is_looked_for_again_when_modules_are_imported():
    frozen, seen = gc.get_freeze_count(), []

    def imported():
        seen.append(gc.isenabled())
        import_module("no_such_module")

    with pytest.raises(ModuleNotFoundError), importing("no_such_module"):
        imported()
    with importing("pytest"):
        seen.append(gc.isenabled())
    assert (seen, gc.isenabled(), gc.get_freeze_count()) == ([False, True], True, frozen)


def test_arguments_reach_the_command():
    seen = []
    assert run(["--number", "3", "--weighting", "token"], seen.append) == 0
    assert seen == [Arguments(number=3, weighting="token")]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--nmber", "3"], "there is no option --nmber; did you mean --number?"),
        (["--number", "three"], "--number"),
        ([], "--number"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(capsys, argv, line):
    assert run(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("python -m some.command: error: ")
    assert line in err
    assert err.count("\n") == 1
    assert not set(err) & set("╭│╰─")


def test_a_users_mistake_inside_the_command_is_one_line_too(capsys):
    def fail(_arguments):
        raise ValueError("three apples asked for,\n  two found; buy one")

    assert run(["--number", "3"], fail) == 2
    assert capsys.readouterr().err == (
        "python -m some.command: error: three apples asked for, two found; buy one\n"
    )
    with pytest.raises(ValueError, match="three apples"):
        run(["--number", "3", "--debug"], fail)


def test_our_own_mistakes_are_not_hidden():
    def fail(_arguments):
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        run(["--number", "3"], fail)


def test_an_interruption_says_so(capsys):
    def stop(_arguments):
        raise KeyboardInterrupt

    assert run(["--number", "3"], stop) == 130
    assert "interrupted" in capsys.readouterr().err


def test_help_goes_to_the_terminal_and_ends_well(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["--help"])
    assert not stop.value.code
    assert "What to add to." in capsys.readouterr().out


def script(*argv, cwd=ROOT):
    code = "import sys; from probes.cli import console_script; sys.argv[0] = 'm'; console_script()"
    command = [sys.executable, "-c", code, *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_the_script_lists_the_commands_and_names_the_nearest():
    listed = script().stdout
    assert all(name in listed for name in COMMANDS)
    done = script("analysis.entropi")
    assert done.returncode == 2
    assert done.stderr == (
        "mnemoscope: error: there is no command analysis.entropi; did you mean analysis.entropy?\n"
    )
    assert script("--version").stdout.startswith("mnemoscope ")


@dataclasses.dataclass(frozen=True)
class PlaceFields:
    """Where it is."""

    north: float
    """How far north, of a docstring that is longer than a line and goes on
    in another."""


@dataclasses.dataclass(frozen=True)
class MapConfig(PlaceFields):
    """A map, which checks itself."""

    scale: int = 7
    """How large."""

    def __post_init__(self):
        if self.scale < 1:
            raise ValueError("--scale must be 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapArguments:
    """A command that draws."""

    colour: str
    """Of what."""
    config: MapConfig
    """Inside."""


def test_a_dataclass_inside_gives_its_options_in_titled_groups(capsys):
    def parsed(*argv, **defaults):
        return parse_arguments(MapArguments, argv, program="map", defaults=defaults)

    found = parsed("--north", "1.5", "--colour", "red")
    assert found == MapArguments(colour="red", config=MapConfig(1.5))
    stored = parsed("--scale", "3", colour="blue", config=MapConfig(2.5, 5))
    assert stored == MapArguments(colour="blue", config=MapConfig(2.5, 3))
    with pytest.raises(ValueError, match="--scale must be 1 or more"):
        parsed("--north", "1", "--colour", "red", "--scale", "0")
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    assert "place options" in shown
    assert "longer than a line and goes on in another." in " ".join(shown.split()).replace(
        "│ │", ""
    )


def test_a_users_own_analysis_folder_is_mentioned_and_not_used(tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "entropy.py").write_text("print('the user's own')")
    done = script("analysis.entropy", "--help", cwd=tmp_path)
    assert "./analysis/ here hides ours" in done.stderr
    assert "--corpus" in done.stdout


def test_a_reader_that_goes_away_is_no_mistake():
    code = (
        "import sys; from tests.probes.test_cli import run\n"
        "sys.exit(run(['--number', '1'], lambda given: print('words ' * 99_999)))"
    )
    shell = ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | true', sys.executable, code]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bar_that_an_error_ends_leaves_no_line(capsys):
    with progress("rows", 3) as advance:
        advance(3)
    assert "rows" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no row"), progress("rows", 3):
        raise ValueError("no row")
    assert capsys.readouterr().err.strip() == ""


def test_a_bar_of_a_long_path_keeps_its_numbers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with progress("/a/" + "long/" * 12 + "step-000350, items", 3) as advance:
        advance(3)
    line = capsys.readouterr().err
    assert "step-000350, items" in line
    assert "3/3" in line
    # The beginning of the path is left out, and of the times nothing.
    assert line.count("…") == 1
