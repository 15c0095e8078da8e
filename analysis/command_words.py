"""Command words: a configuration, or a run, as the command line that asks for it.

Example:
    >>> option("attention_temperature", 1.5), option("document_mask", True)
    (['--attention-temperature', '1.5'], ['--document-mask'])
"""

import shlex
from collections.abc import Mapping
from typing import Any

from analysis.numbers import shown_path
from training.ckl.config import CklConfig
from training.ckl.recipes import CKL_RECIPES
from training.commands.recipes import as_json, changed, from_json, recipe_named
from training.pretrain.config import PRETRAIN_RECIPES, PretrainConfig
from training.remix.config import RemixConfig
from training.remix.recipes import REMIX_RECIPES

_PROGRAMS: Mapping[str, tuple[type[Any], Any]] = {
    "training.pretrain": (PretrainConfig, PRETRAIN_RECIPES),
    "training.ckl": (CklConfig, CKL_RECIPES),
    "training.remix": (RemixConfig, REMIX_RECIPES),
}


def configured(config: Any, recipe: Any, name: str) -> list[str]:
    """The recipe, and every setting in which a configuration differs from it."""
    stored = as_json(config)
    return [
        *("--recipe", name),
        *(word for field in changed(config, recipe) for word in option(field, stored[field])),
    ]


def option(name: str, value: Any) -> list[str]:
    """A setting as the words of a command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]


def command_of(manifest: Mapping[str, Any]) -> str:
    """The command that makes a run, but for where it goes."""
    program = str(manifest["command"])
    kind, recipes = _PROGRAMS[program]
    try:
        config = from_json(kind, {**manifest["configuration"], **manifest["execution"]})
    except ValueError:
        return f"python -m {program} --recipe {manifest['recipe']} # of another version"
    words = configured(config, recipe_named(manifest["recipe"], recipes), manifest["recipe"])
    return shlex.join(["python", "-m", program, *map(shown_path, words)])
