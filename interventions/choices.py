"""Choices: the settings of an edit that have a few named values, and edits by their Python name.

Commands name them in their help and find out what is wrong with a name before they do anything, so
no PyTorch is loaded here. `module:object` is looked for in the working directory first, then among
what is installed; the object is an edit, or a function that makes one of the model to be edited.

Example:
    >>> ResuscitationSite("down") is ResuscitationSite.DOWN, named_object("math:pi")
    (True, 3.141592653589793)
"""

import difflib
import sys
from collections.abc import Iterable
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any

from probes.choices import as_choice as as_choice

if TYPE_CHECKING:
    from interventions.edit_forms import Edit
    from probes.hooked_model import HookedModel


class ResuscitationSite(StrEnum):
    """Which weights a resuscitation multiplies; u is the multiplier of a neuron."""

    UP = "up"
    """Rows of the linear half of a gated MLP, times u: the paper's. Multiplies the coefficients."""
    DOWN = "down"
    """Memory vectors, times u; in every family."""
    PRESERVING = "preserving"
    """Up rows times u, memory vectors divided by u: the same function, other coefficients."""
    GATE = "gate"
    """Rows of the gate, times u, before its nonlinearity."""
    UP_PREACTIVATION = "up_preactivation"
    """Up rows of an MLP without a gate, times u, before its nonlinearity."""


class Selection(StrEnum):
    """Which neurons of a layer are the inactive ones."""

    QUANTILE = "quantile"
    """All whose mean coefficient is at most the quantile `ratio`, ties included: the paper's."""
    EXACT = "exact"
    """Exactly `ratio` times `d_mlp` of them, rounded; ties in the order of their index."""


class Schedule(StrEnum):
    """How a temperature changes over a run."""

    CONSTANT = "constant"
    """Not at all."""
    LINEAR = "linear"
    """From its value at the start straight to 1 at the end, as the released code's default."""


def named_object(name: str) -> Any:
    """The object of a `module:object`."""
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ValueError(
            f"--edit takes module:object, my_edits:half for half in my_edits.py say; found {name!r}"
        )
    found = _imported(module, name)
    for part in path.split("."):
        if not hasattr(found, part):
            public = [known for known in vars(found) if not known.startswith("_")]
            near = difflib.get_close_matches(part, public, n=1)
            meant = f"did you mean {near[0]}?" if near else f"it has {', '.join(public) or 'none'}"
            raise ValueError(f"--edit {name}: {module} has no {part}; {meant}")
        found = getattr(found, part)
    return found


def edits_named(names: Iterable[str], model: "HookedModel") -> list["Edit"]:
    """The edits of some names, made for a model where they are functions of it."""
    from interventions.edit_forms import an_edit

    found = []
    for name in names:
        made = named_object(name)
        if not isinstance(made, type) and an_edit(made) is not None and callable(made):
            made = made(model)
        if (wrong := an_edit(made)) is not None:
            raise ValueError(f"--edit {name} is {wrong}, or a function that makes one of a model")
        found.append(made)
    return found


def _imported(module: str, name: str) -> Any:
    # `python -m` looks there too; the script `mnemoscope` does not.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return import_module(module)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name in module.split(".")
        why = f"there is no {module}.py here, and no such package is installed"
        if not absent:
            why = f"importing {module} fails with {type(error).__name__}: {error}"
        raise ValueError(f"--edit {name}: {why}") from error
