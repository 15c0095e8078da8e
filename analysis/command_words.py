"""Command words: a run as the command line that asks for it."""

import shlex
from collections.abc import Mapping
from typing import Any

from analysis.numbers import shown_path
from training.ckl.config import CklConfig
from training.ckl.recipes import CKL_RECIPES
from training.commands.recipes import command_words, from_json, recipe_named
from training.pretrain.config import PRETRAIN_RECIPES, PretrainConfig
from training.remix.config import RemixConfig
from training.remix.recipes import REMIX_RECIPES

_PROGRAMS: Mapping[str, tuple[type[Any], Any]] = {
    "training.pretrain": (PretrainConfig, PRETRAIN_RECIPES),
    "training.ckl": (CklConfig, CKL_RECIPES),
    "training.remix": (RemixConfig, REMIX_RECIPES),
}


def command_of(manifest: Mapping[str, Any]) -> str:
    """The command that makes a run, but for where it goes."""
    program = str(manifest["command"])
    kind, recipes = _PROGRAMS[program]
    try:
        config = from_json(kind, {**manifest["configuration"], **manifest["execution"]})
    except ValueError:
        return f"python -m {program} --recipe {manifest['recipe']} # of another version"
    words = command_words(config, recipe_named(manifest["recipe"], recipes), manifest["recipe"])
    return shlex.join(["python", "-m", program, *map(shown_path, words)])
