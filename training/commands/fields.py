"""The options of a training command that say where a run goes, and not what it is.

`resolved` finds out which configuration a command line starts from: that of the recipe it names, or
with `--resume` alone that of the run in `--out`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.commands.recipes import Recipes, from_json, option_value, recipe_named, with_defaults

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
        """Where the run goes.

        Raises:
            ValueError: that was not said.
        """
        if self.out is None:
            raise ValueError("--out is missing; give a folder for the run, or --dry-run")
        return self.out

    @property
    def seconds(self) -> float | None:
        """How long to go on for; None to the end.

        Raises:
            ValueError: it is not a positive number.
        """
        if self.minutes is None:
            return None
        if not self.minutes > 0:
            raise ValueError(f"--minutes must be above 0, found {self.minutes:g}")
        return 60 * self.minutes


def resolved(
    arguments: type[Any], kind: type[Any], recipes: Recipes, argv: Sequence[str], *, command: str
) -> type[Any]:
    """The class of arguments whose defaults are those that a command line starts from.

    Args:
        arguments: frozen dataclass with the fields of `kind`, of `RunFields`, and `recipe`.
        kind: dataclass of the configuration.
        recipes: what there is; the first is used where none is named.
        argv: the command line.
        command: whose it is.

    Raises:
        ValueError: there is no such recipe, or the run is another command's or version's.
    """
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
