"""The commands' common manners, on a small command of the tests' own."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

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
    from probes.cli import run_command

    return run_command(Arguments, body, argv, program="python -m some.command")


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
    from probes.cli import COMMANDS

    listed = script().stdout
    assert all(name in listed for name in COMMANDS)
    done = script("analysis.entropi")
    assert done.returncode == 2
    assert done.stderr == "mnemoscope: error: no command 'analysis.entropi'; try analysis.entropy\n"


def test_every_command_of_the_script_exists():
    from importlib.util import find_spec

    from probes.cli import COMMANDS

    for name in COMMANDS:
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations is None or find_spec(f"{name}.__main__")


def test_a_users_own_analysis_folder_is_mentioned_and_not_used(tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "entropy.py").write_text("print('the user's own')")
    done = script("analysis.entropy", "--help", cwd=tmp_path)
    assert "./analysis/ here hides ours" in done.stderr
    assert "--corpus" in done.stdout


def test_a_reader_that_goes_away_is_no_mistake():
    words = f"{sys.executable} -m training.ckl --recipe paper-1b --dry-run"
    shell = ["bash", "-c", f"set -o pipefail; {words} | true"]
    for _ in range(3):
        done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
