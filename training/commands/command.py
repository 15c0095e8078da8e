"""A training command: arguments from a recipe, a plan on request, or a run.

What the commands have in common stands here once; each says what its settings and recipes are, and
how a run is planned and made.

Example:
    >>> from training.pretrain import COMMAND
    >>> COMMAND.program, "tiny" in COMMAND.recipes
    ('training.pretrain', True)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.cli import command_main, parse_arguments
from training.commands.plan import Plan
from training.commands.recipes import beginning_of, from_json, recipe_named


@dataclass(frozen=True, kw_only=True)
class RunFields:
    """Where a run goes, and how much of it is done now."""

    out: Path | None = None
    """Folder of the run; made if it is not there, and not needed to --dry-run."""
    resume: bool = False
    """Go on with the run in --out, from its last checkpoint; begin it where there is none."""
    dry_run: bool = False
    """Print what the run would do, try what it needs on a model that is here, and stop."""
    minutes: float | None = None
    """Stop after so many with a checkpoint, to be gone on with later; at the end of the run."""
    debug: bool = False
    """Show the traceback of an error."""

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        if self.out is None:
            raise ValueError("--out is missing; give a folder for the run, or --dry-run")
        return self.out

    @property
    def seconds(self) -> float | None:
        """How long to go on for; None to the end."""
        if self.minutes is None:
            return None
        if not self.minutes > 0:
            raise ValueError(f"--minutes must be above 0, found {self.minutes:g}")
        return 60 * self.minutes


@dataclass(frozen=True, kw_only=True)
class TrainingCommand:
    """A command that trains.

    Attributes:
        program: what it is called.
        arguments: frozen dataclass with the fields of `RunFields`, `recipe` and `config`, a frozen
            dataclass of what decides a run, which checks itself.
        recipes: configurations by name, the default first.
        plan: what a run would do, from its configuration and its recipe's.
        run: makes it, from its configuration and folder, `recipe`, `resume` and `seconds`.
        attempt: tries what a run needs, without training, from its configuration, its recipe's and
            its folder (None where that is not given); returns lines about what it was changed to.
        untried: why that cannot be tried here, from its configuration; None where it can.
    """

    program: str
    arguments: type[Any]
    recipes: Mapping[str, Callable[[], Any]]
    plan: Callable[[Any, Any], Plan]
    run: Callable[..., None]
    attempt: Callable[[Any, Any, Path | None], Sequence[str]]
    untried: Callable[[Any], str | None] = lambda _config: None

    @property
    def main(self) -> Callable[..., int]:
        """The command."""
        return command_main(
            self.arguments, self._body, program=self.program, defaults=self.defaults
        )

    def parsed(self, words: Sequence[str]) -> Any:
        """The arguments of a command line."""
        start = self.defaults(words)
        return parse_arguments(self.arguments, words, program=self.program, defaults=start)

    def recipe_defaults(self, words: Sequence[str]) -> dict[str, Any]:
        """The name and the configuration of the recipe that a command line starts from."""
        name = beginning_of(words).recipe or next(iter(self.recipes))
        return {"recipe": name, "config": recipe_named(name, self.recipes)}

    def defaults(self, words: Sequence[str]) -> dict[str, Any]:
        """What a command line starts from: a recipe, or the run that is to be gone on with."""
        given = beginning_of(words)
        stored = None if given.recipe is not None else _stored(given.out, given.resume)
        if stored is None:
            return self.recipe_defaults(words)
        if stored["command"] != self.program:
            raise ValueError(
                f"--out {given.out} holds a run of {stored['command']}; go on with that, or give "
                "another folder"
            )
        kind = self.arguments.__annotations__["config"]
        config = from_json(kind, {**stored["configuration"], **stored["execution"]})
        return {"recipe": stored["recipe"], "config": config}

    def _body(self, arguments: Any, _words: Sequence[str]) -> None:
        config = arguments.config
        if arguments.dry_run:
            self._dry_run(config, self.recipes[arguments.recipe](), arguments.out)
            return
        self.run(
            config,
            arguments.folder,
            recipe=arguments.recipe,
            resume=arguments.resume,
            seconds=arguments.seconds,
        )

    def _dry_run(self, config: Any, recipe: Any, out: Path | None) -> None:
        """Print the plan, and try what can be tried here."""
        print("\n".join(self.plan(config, recipe).lines()))
        if (why := self.untried(config)) is not None:
            print(f"\nnot tried: {why}")
            return
        lines = self.attempt(config, recipe, out)
        print("\n".join(["", *lines, "tried, with a checkpoint read back: all fits"]))


def _stored(out: str | None, resume: bool) -> Mapping[str, Any] | None:
    """The manifest of the run that is to be gone on with; None where there is none yet."""
    if not resume or out is None:
        return None
    from training.runs.directory import MANIFEST_FILE, read_manifest

    return read_manifest(out) if (Path(out) / MANIFEST_FILE).is_file() else None
