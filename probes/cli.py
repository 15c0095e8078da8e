"""The commands' common manners: arguments from a dataclass, one plain line for a mistake.

Every command module holds a frozen dataclass of arguments, whose docstrings are the help, and a
`main(argv)`, made by `command_main`. A user's mistake (`ValueError`) ends with exit code 2
and one line; a traceback is shown with `--debug` only. The console script `mnemoscope` reaches
the same commands from a folder where a user's own `analysis/` would shadow ours.

Example:
    $ python -m analysis.entropy --model smollm2-135m-instruct-q4 --corpus general --out runs/e
    $ mnemoscope analysis.entropy --help
"""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

COMMANDS = {
    "probes.assets": "list and fetch the built-in models and texts",
    "analysis.entropy": "knowledge, attention and next-token entropy of a model over a corpus",
    "analysis.logit_lens": "in which layer a fact becomes readable",
    "analysis.edit_sweep": "what many edits do to a model's entropies and to its loss",
    "analysis.memory_updates": "whether memory vectors with larger coefficients get larger updates",
    "analysis.ckl_report": "what runs of continual knowledge learning acquired and forgot",
    "analysis.ckl_study": "continual knowledge learning over a trajectory, and its report",
    "analysis.remix_report": "what stages of memorizing taught, kept and lost",
    "analysis.remix_study": "arms and seeds of continual memorization, and their report",
    "analysis.report": "one page from any set of results",
    "interventions.patch": "edit a model's weights and save it as an ordinary checkpoint",
    "training.pretrain": "train a small model from scratch, with checkpoints from the start",
    "training.ckl": "teach a model new knowledge, and see what it forgets",
    "training.remix": "teach a model one set of items after another, and see what it keeps",
    "training.tuned_lens": "train a tuned lens for a model, and compare it with the logit lens",
}
PACKAGES = ("probes", "interventions", "training", "analysis")

Arguments = TypeVar("Arguments")


def command_main(
    arguments_type: type[Arguments],
    body: Callable[[Arguments, Sequence[str]], None],
    *,
    program: str,
) -> Callable[..., int]:
    """The `main` of a command."""

    def main(argv: Sequence[str] | None = None) -> int:
        given = list(sys.argv[1:] if argv is None else argv)
        return run_command(arguments_type, lambda found: body(found, given), given, program=program)

    return main


def run_command(
    arguments_type: type[Arguments],
    body: Callable[[Arguments], None],
    argv: Sequence[str] | None,
    *,
    program: str,
) -> int:
    """Parse arguments, run a command, and turn mistakes into one line."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in given
    try:
        body(parse_arguments(arguments_type, given, program=program))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read along, `head` say, has enough; Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if debug:
            raise
        return complain(program, error)
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


def complain(program: str, error: Exception) -> int:
    """Print one line about a mistake on the error stream, and give the exit code for it."""
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def parse_arguments(
    arguments_type: type[Arguments], argv: Sequence[str], *, program: str
) -> Arguments:
    """Arguments from a command line."""
    import tyro

    _refuse_unknown_flags(arguments_type, argv)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                arguments_type,
                args=list(argv),
                prog=program,
                config=(tyro.conf.EnumChoicesFromValues,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_first_paragraph(complaint.getvalue())) from None


def _refuse_unknown_flags(arguments_type: Any, argv: Sequence[str]) -> None:
    names = [field.name.replace("_", "-") for field in dataclasses.fields(arguments_type)]
    known = {f"--{name}" for name in names} | {f"--no-{name}" for name in names} | {"--help"}
    for word in argv:
        flag = word.partition("=")[0].replace("_", "-")
        if re.match(r"--[a-z]", flag) and flag not in known:
            nearest = difflib.get_close_matches(flag, sorted(known), n=1, cutoff=0)[0]
            raise ValueError(f"there is no option {flag}; did you mean {nearest}?")


def _first_paragraph(box: str) -> str:
    """The text of the first part of one of tyro's message boxes."""
    lines = [line.strip(" │╭╮╰╯─") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    text = " ".join(lines).strip()
    return re.split(r"─{3,}|For full helptext|Argument helptext|Got errors", text)[0].strip()


@contextlib.contextmanager
def progress(
    description: str, total: int | None, *, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """A progress bar on the error stream; calling what it yields advances the bar."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)
        # What ended early, a short corpus say, is done all the same.
        bar.update(task, total=bar.tasks[0].completed)


def console_script() -> NoReturn:
    """The `mnemoscope` script: `mnemoscope analysis.entropy ...`."""
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: mnemoscope COMMAND [OPTIONS]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:<26}{what}")
        sys.exit(0)
    name = argv[0]
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0)[0]
        sys.exit(complain("mnemoscope", ValueError(f"no command {name!r}; try {nearest}")))
    _mention_shadowing()
    sys.argv = [f"mnemoscope {name}", *argv[1:]]
    runpy.run_module(name, run_name="__main__")
    sys.exit(0)


def _mention_shadowing() -> None:
    ours = Path(__file__).resolve().parent.parent
    here = Path(os.getcwd()).resolve()
    shadows = [name for name in PACKAGES if here != ours and (here / name).is_dir()]
    if shadows:
        print(
            f"mnemoscope: ./{shadows[0]}/ here hides ours from `python -m`; this script uses ours",
            file=sys.stderr,
        )


def refuse_existing(out: Path, *, overwrite: bool, known: Collection[str]) -> None:
    """Make sure that a command may write its results to a folder, before it does any work."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder, which need not exist")
    _refuse_unwritable(out)
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"--out {out} is not empty; give another folder, or --overwrite")
    # Replacing deletes: whatever is not a result is not ours to delete.
    foreign = next((path for path in out.rglob("*") if not _is_result(path, known)), None)
    if foreign is not None:
        raise ValueError(
            f"--overwrite replaces earlier results only, but --out {out} also holds "
            f"{foreign.relative_to(out)}; give another folder"
        )


def _is_result(path: Path, known: Collection[str]) -> bool:
    if path.is_symlink():
        return False
    if path.is_dir():
        return all(inner.is_file() for inner in path.iterdir())
    return path.name in known


def _refuse_unwritable(out: Path) -> None:
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--out {out} lies beneath {existing}, which is a file")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"--out {out} cannot be made: {existing} is not writable")


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """A folder to write results into, which becomes `out` at the end."""
    target = out.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    earlier = target.with_name(f".{target.name}.earlier-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            target.rename(earlier)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if earlier.exists() and not target.exists():
            earlier.rename(target)
        shutil.rmtree(earlier, ignore_errors=True)
