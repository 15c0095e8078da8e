"""The head of every command: arguments from a dataclass, one plain line for a mistake.

A command is a frozen dataclass of arguments, whose attribute docstrings are the help, and a `main`
that `command_main` makes of it. Options stand in groups, one for each class that the arguments
inherit from or hold. A user's mistake (`ValueError`) ends with exit code 2 and one line; `--debug`
shows the traceback. The script `mnemoscope` reaches the same commands where a user's own
`analysis/` would hide ours.

Example:
    $ python -m analysis.entropy --model smollm2-135m-instruct-q4 --corpus general --out runs/e
    $ mnemoscope analysis.entropy --help
"""

import contextlib
import dataclasses
import difflib
import gc
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_type_hints

from probes.choices import RowLayout, SampleBy

if TYPE_CHECKING:
    from probes.corpus.batching import TokenBatches
    from probes.corpus.sources import Corpus
    from probes.hooked_model import HookedModel


COMMANDS = {
    "probes.assets": "list and fetch the built-in models and texts",
    "analysis.entropy": "knowledge, attention and next-token entropy of a model over a corpus",
    "analysis.logit_lens": "in which layer a fact becomes readable",
    "analysis.edit_sweep": "what many edits do to a model's entropies and to its loss",
    "analysis.corpus_novelty": "how new corpora are to a model, by their entities",
    "analysis.memory": "which memory vectors a prompt uses, what they write, and where else",
    "analysis.memory_updates": "whether memory vectors with larger coefficients get larger updates",
    "analysis.ckl_report": "what runs of continual knowledge learning acquired and forgot",
    "analysis.ckl_study": "continual knowledge learning over a trajectory, and its report",
    "analysis.remix_report": "what stages of memorizing taught, kept and lost",
    "analysis.remix_study": "arms and seeds of continual memorization, and their report",
    "analysis.report": "one page from any set of results",
    "analysis.reproduce": "every claim of the papers, tested on runs made for it",
    "interventions.patch": "edit a model's weights and save it as an ordinary checkpoint",
    "training.data": "list the data sets, corpora and models of the hub, and try them",
    "training.pretrain": "train a small model from scratch, with checkpoints from the start",
    "training.ckl": "teach a model new knowledge, and see what it forgets",
    "training.remix": "teach a model one set of items after another, and see what it keeps",
    "training.tuned_lens": "train a tuned lens for a model, and compare it with the logit lens",
    "training.jacobian_lens": "fit a Jacobian lens of a model, and compare it with the logit lens",
}
PACKAGES = ("probes", "interventions", "training", "analysis")

Arguments = TypeVar("Arguments")


def command_main(
    arguments_type: type[Arguments],
    body: Callable[[Arguments, Sequence[str]], None],
    *,
    program: str,
    defaults: Callable[[Sequence[str]], Mapping[str, Any]] = lambda _words: {},
) -> Callable[..., int]:
    """The `main` of a command, from its arguments' dataclass and a body that takes them."""

    def main(argv: Sequence[str] | None = None) -> int:
        words = list(sys.argv[1:] if argv is None else argv)
        if "--version" in words:
            print(version_line())
            return 0
        try:
            start = defaults(words)
            arguments = parse_arguments(arguments_type, words, program=program, defaults=start)
            body(arguments, words)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read along, `head` say, has enough; Python would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (ValueError, OSError) as error:
            if "--debug" in words:
                raise
            return complain(program, error)
        except KeyboardInterrupt:
            print(f"\n{program}: interrupted; nothing half-written is left", file=sys.stderr)
            return 130
        return 0

    return main


@contextmanager
def importing(heaviest: str) -> Iterator[None]:
    """Import modules in a `with` block without looking for garbage: a fifth of the time goes there.

    What is imported is never looked at again: modules stay until the process ends.
    """
    if heaviest in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def version_line() -> str:
    """What `--version` prints."""
    return f"mnemoscope {version('mnemoscope')}"


def complain(program: str, error: Exception) -> int:
    """Print one line about a mistake on the error stream, and give the exit code for it."""
    print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


def _nearest(name: str, known: Collection[str]) -> str:
    """The question whether another name is meant; where none is near, what tells them all."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "; --help lists what there is"


def parse_arguments(
    arguments_type: type[Arguments],
    argv: Sequence[str],
    *,
    program: str,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> Arguments:
    """Arguments from a command line, those that it leaves out from defaults."""
    import tyro

    groups = _groups(arguments_type, defaults)
    _refuse_unknown_flags(groups, argv)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            found = tyro.cli(
                _form(arguments_type, groups),
                args=list(argv),
                prog=program,
                config=(tyro.conf.EnumChoicesFromValues,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_first_paragraph(complaint.getvalue())) from None
    values = dict(vars(found))
    for group in groups[1:]:
        values |= vars(getattr(found, group.name))
    return _made(arguments_type, values)


@dataclass(frozen=True)
class _Group:
    """Options that stand together in the help: name, type with its help, and default of each."""

    name: str
    description: str | None
    options: list[tuple[str, Any, Any]]


def _groups(kind: type[Any], defaults: Mapping[str, Any]) -> list[_Group]:
    """The options of a dataclass: its own first, then those of what it inherits and holds."""
    hints = get_type_hints(kind, include_extras=True)
    own = _Group(_group_name(kind), kind.__doc__, [])
    groups = {own.name: own}
    inside: list[_Group] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        value = defaults.get(field.name, field.default)
        if dataclasses.is_dataclass(hint):
            start = {} if value is dataclasses.MISSING else vars(value)
            inside += [group for group in _groups(hint, start) if group.options]  # type: ignore[arg-type]
            continue
        owner = next(c for c in kind.__mro__ if field.name in vars(c).get("__annotations__", {}))
        name = _group_name(owner)
        group = groups.setdefault(name, _Group(name, owner.__doc__, []))
        group.options.append((field.name, _with_help(owner, field.name, hint), value))
    return [*groups.values(), *inside]


def _group_name(owner: type[Any]) -> str:
    words = re.findall("[A-Z][a-z]*", re.sub("(Fields|Settings)$", "", owner.__name__))
    return "_".join(words).lower()


def _with_help(owner: type[Any], name: str, hint: Any) -> Any:
    """A type with the docstring of its field, whose lines tyro would leave broken."""
    import tyro

    return Annotated[hint, tyro.conf.arg(help=_docstrings(owner).get(name, ""))]  # type: ignore[arg-type]


@cache
def _docstrings(owner: type[Any]) -> dict[str, str]:
    import docstring_parser

    found = docstring_parser.parse_from_object(owner).params
    return {param.arg_name: " ".join((param.description or "").split()) for param in found}


def _form(kind: type[Any], groups: Sequence[_Group]) -> type[Any]:
    """A dataclass with a field for each option of the first group and for every other group."""
    import tyro

    def made(group: _Group, doc: str | None, *others: Any) -> type[Any]:
        own = [(n, hint, dataclasses.field(default=value)) for n, hint, value in group.options]
        return dataclasses.make_dataclass(
            group.name or "Options", [*own, *others], kw_only=True, namespace={"__doc__": doc}
        )

    help_of_version = tyro.conf.arg(help="Show the version and stop.")
    version_option = Annotated[bool, tyro.conf.FlagCreatePairsOff, help_of_version]
    nested = [
        (group.name, tyro.conf.OmitArgPrefixes[made(group, group.description)])  # type: ignore[misc]
        for group in groups[1:]
    ]
    return made(groups[0], kind.__doc__, ("version", version_option, False), *nested)


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    return kind(
        **{
            field.name: _made(hints[field.name], values)
            if dataclasses.is_dataclass(hints[field.name])
            else values[field.name]
            for field in dataclasses.fields(kind)
        }
    )


def _refuse_unknown_flags(groups: Sequence[_Group], argv: Sequence[str]) -> None:
    known = ["--help", "--version"]
    for name, _, value in (option for group in groups for option in group.options):
        flag = name.replace("_", "-")
        known += [f"--{flag}", f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}"]
    for word in argv:
        flag = word.partition("=")[0].replace("_", "-")
        if re.match(r"--[a-z]", flag) and flag not in known:
            raise ValueError(f"there is no option {flag}{_nearest(flag, known)}")


def _first_paragraph(box: str) -> str:
    lines = [line.strip(" │╭╮╰╯─") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    borders = r"[─-]{3,}|For full helptext|Argument helptext|Got errors"
    parts = [part.strip() for part in re.split(borders, " ".join(lines)) if part.strip()]
    # Where a terminal has no such characters the title is a part of its own.
    text = parts[0 if box.startswith("╭") or len(parts) < 2 else 1]
    wrong = re.search(r"invalid choice '(.*?)' for (.*?)\. Expected one of \((.*?)\)", text)
    if wrong is None:
        return text
    known = sorted(re.findall(r"'(.*?)'", wrong[3]))
    near = "".join(f"; did you mean {n}?" for n in difflib.get_close_matches(wrong[1], known, n=1))
    return f"invalid choice {wrong[1]!r} for {wrong[2]}{near or '.'} It takes {', '.join(known)}"


@contextlib.contextmanager
def progress(
    description: str, total: int | None, *, shown: bool = True
) -> Iterator[Callable[[int], None]]:
    """A progress bar on the error stream; calling what it yields advances the bar."""
    from rich import progress as bars
    from rich.console import Console

    counts = (bars.BarColumn(), bars.MofNCompleteColumn())
    times = (bars.TimeElapsedColumn(), bars.TimeRemainingColumn())
    columns = (bars.TextColumn("{task.description}"), *counts, *times)
    # The end of a long path says more than its beginning, and the numbers need the width.
    described = description if len(description) <= 36 else f"…{description[-35:]}"
    with bars.Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(described, total=total)
        bar.live.transient = True  # an error stands by itself
        yield lambda steps: bar.advance(task, steps)
        bar.live.transient = False
        # What ended early, a short corpus say, is done all the same.
        bar.update(task, total=bar.tasks[0].completed)


def console_script() -> NoReturn:
    """The `mnemoscope` script: `mnemoscope analysis.entropy ...`."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print("usage: mnemoscope COMMAND [OPTIONS]\n")
        for command, what in COMMANDS.items():
            print(f"  {command:<26}{what}")
        sys.exit(0)
    if name == "--version":
        print(version_line())
        sys.exit(0)
    if name not in COMMANDS:
        error = ValueError(f"there is no command {name}{_nearest(name, COMMANDS)}")
        sys.exit(complain("mnemoscope", error))
    _mention_shadowing()
    is_folder = find_spec(name).submodule_search_locations is not None  # type: ignore[union-attr]
    sys.exit(import_module(f"{name}.__main__" if is_folder else name).main(words))


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


def refuse_foreign(out: Path, file: str, what: str) -> None:
    """Refuse a folder that nothing can be written to, or that has files but not a certain one."""
    if (out / file).is_file():
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out {out} exists and holds no {what}; give another folder")
    refuse_existing(out, overwrite=False, known=())


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


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """How the model is loaded."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    device: str | None = None
    """cpu or cuda; cuda where there is one."""
    dtype: str | None = None
    """float32, bfloat16, ...; the checkpoint's own."""

    def load(self, model: str, revision: str | None = None, **more: Any) -> "HookedModel":
        with importing("transformers.masking_utils"):
            import transformers.masking_utils
            import transformers.modeling_layers  # noqa: F401 - what every model's own module needs

            import probes.models

        revision = revision or self.revision
        return probes.models.load_model(
            model, revision=revision, device=self.device, dtype=self.dtype, **more
        )


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How texts are read and put into rows."""

    column: str | None = None
    """Column of the text in files with columns and data sets; theirs is "text"."""
    sample_by: SampleBy = SampleBy.DOCUMENT
    """What a document of a .txt file is: all of it (document), each line, or each paragraph."""
    layout: RowLayout = RowLayout.PACKED
    """packed: documents end to end in full rows; document: one document a row, padded."""
    prepend_bos: bool | None = None
    """Whether documents begin with a BOS token; None for the tokenizer's own habit."""
    sequence_length: int = 512
    """Tokens of a row."""
    batch_size: int = 8
    """Rows run at once."""

    def corpus_of(self, name: str, max_documents: int | None = None) -> "Corpus":
        import probes

        return probes.load_corpus(
            name, column=self.column, sample_by=self.sample_by, max_documents=max_documents
        )

    def batches_of(
        self, model: "HookedModel", corpus: "Corpus", max_tokens: int | None = None
    ) -> "TokenBatches":
        import probes

        return probes.token_batches(
            corpus,
            model.tokenizer,
            sequence_length=self.sequence_length,
            batch_size=self.batch_size,
            layout=self.layout,
            prepend_bos=self.prepend_bos,
            max_tokens=max_tokens,
        )
