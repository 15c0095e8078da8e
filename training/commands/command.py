"""A training command: arguments from a recipe, a plan on request, or a run.

What the commands have in common stands here once; each says what its settings and recipes are, and
how a run is planned and made.

Example:
    >>> from training.pretrain.command import COMMAND
    >>> COMMAND.program, "tiny" in COMMAND.recipes
    ('training.pretrain', True)
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.cli import complain, run_command
from training.commands.recipes import (
    Recipes,
    from_json,
    option_value,
    plain_fields,
    recipe_named,
    with_defaults,
)

NOT_DECISIVE = ("device", "resume_every")
"""Fields of a configuration that a run may be gone on with in another way."""


@dataclass(frozen=True, kw_only=True)
class RunFields:
    """Where a run goes, and how much of it is done now."""

    out: Path | None = None
    """Folder of the run; made if it is not there, and not needed to --dry-run."""
    resume: bool = False
    """Go on with the run in --out, from its last checkpoint; begin it where there is none."""
    dry_run: bool = False
    """Print what the run would do, try what it needs on a start that is here, and stop."""
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


def resolved(
    arguments: type[Any], kind: type[Any], recipes: Recipes, argv: Sequence[str], *, command: str
) -> type[Any]:
    """The class of arguments whose defaults are those that a command line starts from."""
    named = option_value(argv, "--recipe")
    stored = _stored(argv) if named is None else None
    if stored is None:
        name = next(iter(recipes)) if named is None else named
        return with_defaults(arguments, recipe_named(name, recipes), recipe=name)
    if stored["command"] != command:
        raise ValueError(
            f"--out {option_value(argv, '--out')} holds a run of {stored['command']}; go on with "
            "that, or give another folder"
        )
    configuration = from_json(kind, {**stored["configuration"], **stored["execution"]})
    return with_defaults(arguments, configuration, recipe=stored["recipe"])


def _stored(argv: Sequence[str]) -> Mapping[str, Any] | None:
    """The manifest of the run that is to be gone on with; None where there is none yet."""
    out = option_value(argv, "--out")
    if "--resume" not in argv or out is None:
        return None
    from training.runs.directory import MANIFEST_FILE, read_manifest

    return read_manifest(out) if (Path(out) / MANIFEST_FILE).is_file() else None


@dataclass(frozen=True, kw_only=True)
class TrainingCommand:
    """A command that trains.

    Attributes:
        program: what it is called.
        arguments: frozen dataclass with the fields of `configuration`, of `RunFields`, and
            `recipe`.
        configuration: frozen dataclass of what decides a run; it checks itself.
        recipes: configurations by name.
        plan: what a run would do, line by line, from its configuration and its recipe's.
        run: makes it, from its configuration and folder, `recipe`, `resume` and `seconds`.
        attempt: tries what a run needs, without training, from its configuration, its recipe's and
            its folder (None where that is not given); returns lines about what it was changed to.
        untried: why that cannot be tried here, from its configuration; None where it can.
    """

    program: str
    arguments: type[Any]
    configuration: type[Any]
    recipes: Mapping[str, Callable[[], Any]]
    plan: Callable[[Any, Any], Sequence[str]]
    run: Callable[..., None]
    attempt: Callable[[Any, Any, Path | None], Sequence[str]]
    untried: Callable[[Any], str | None]

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command."""
        given = list(sys.argv[1:] if argv is None else argv)
        try:
            arguments = resolved(
                self.arguments, self.configuration, self.recipes, given, command=self.program
            )
        except ValueError as error:
            return complain(self.program, error)
        return run_command(arguments, self._body, given, program=self.program)

    def configured(self, arguments: Any) -> Any:
        """The configuration that arguments ask for."""
        names = {field.name for field in dataclasses.fields(self.configuration)}
        values = {name: v for name, v in plain_fields(arguments).items() if name in names}
        return self.configuration(**values)

    def _body(self, arguments: Any) -> None:
        config = self.configured(arguments)
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
        print("\n".join(self.plan(config, recipe)))
        if (why := self.untried(config)) is not None:
            print(f"\nnot tried: {why}")
            return
        lines = self.attempt(config, recipe, out)
        print("\n".join(["", *lines, "tried on the start, with a checkpoint read back: all fits"]))
