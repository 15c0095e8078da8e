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
from training.commands.fields import resolved
from training.commands.recipes import plain_fields


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
        """Run the command.

        Args:
            argv: arguments; None for the process's own.

        Returns:
            Exit code.
        """
        given = list(sys.argv[1:] if argv is None else argv)
        try:
            arguments = resolved(
                self.arguments, self.configuration, self.recipes, given, command=self.program
            )
        except ValueError as error:
            return complain(self.program, error)
        return run_command(arguments, self._body, given, program=self.program)

    def configured(self, arguments: Any) -> Any:
        """The configuration that arguments ask for.

        Raises:
            ValueError: settings do not go together.
        """
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
