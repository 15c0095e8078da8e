"""Named edits: an edit of one's own, by the name of the Python object that it is.

`module:object` is looked for in the working directory first, then among what is installed. The
object is an edit, or a function that makes one of the model that is to be edited. No PyTorch is
loaded here, so that a command finds out what is wrong with a name before it does anything.

Example:
    >>> named_object("math:pi")
    3.141592653589793
"""

import difflib
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interventions.edit_forms import Edit
    from probes.hooked_model import HookedModel


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
