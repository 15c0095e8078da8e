"""Command words: a configuration as the words of the command line that asks for it.

Example:
    >>> option("attention_temperature", 1.5), option("document_mask", True)
    (['--attention-temperature', '1.5'], ['--document-mask'])
"""

from typing import Any

from training.commands.recipes import as_json, changed


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
