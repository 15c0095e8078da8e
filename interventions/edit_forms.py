"""The two forms of an edit: hooks that come off again, and new values for weights.

An `Edit` says how it is done in both. `interventions.edits` applies edits in either form.

Example:
    >>> import torch
    >>> change = WeightChange("mlp.up_proj.weight", 0, torch.tensor([1]), lambda rows: 2 * rows)
    >>> change.new(torch.ones(1, 3)).tolist()
    [[2.0, 2.0, 2.0]]
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from probes.given import shown
from probes.hooked_model import HookedModel


class Clock:
    """How far a run has come; edits that change over it ask in every forward pass.

    Args:
        progress: 0 at the start, 1 at the end.

    Raises:
        ValueError: the progress is not between 0 and 1.
    """

    def __init__(self, progress: float = 0.0) -> None:
        self.progress = progress

    @property
    def progress(self) -> float:
        """0 at the start of the run, 1 at its end."""
        return self._progress

    @progress.setter
    def progress(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"progress of a run goes from 0 to 1, found {value}; set a share")
        self._progress = value


@dataclass(frozen=True, eq=False)
class WeightChange:
    """Some rows of one parameter, or all of it, get new values."""

    parameter: str
    """Its name in the Hugging Face model's state dict."""
    axis: int
    """The axis along which `index` selects."""
    index: Int64[Tensor, "n"] | None
    """Which rows, each at most once; None for all."""
    new: Callable[[Tensor], Tensor]
    """From the selected values, as float32 or wider, to new ones of the same shape."""


@runtime_checkable
class Edit(Protocol):
    """A change of a model, as hooks and, where weights can express it, as weights."""

    def attached(self, model: HookedModel, clock: Clock) -> AbstractContextManager[None]:
        """Make the change by hooks for the length of a `with` block.

        Args:
            model: the model to change.
            clock: how far the run has come.

        Raises:
            ValueError: the edit does not fit the model, or its backend cannot do it.
        """

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        """The change as weights; nothing is written.

        Args:
            model: the model to change.

        Raises:
            ValueError: the edit does not fit the model, or weights cannot express it.
        """

    def describe(self) -> dict[str, Any]:
        """The edit and all its settings, as JSON takes them."""


def an_edit(value: Any) -> str | None:
    """What is wrong with a value as an edit (a check of `probes.given`)."""
    if isinstance(value, type):
        return f"{shown(value)}; give one of it, {value.__name__}(...)"
    if isinstance(value, Edit):
        return None
    if isinstance(value, list | tuple):
        return f"{shown(value)}; give edits one by one: *edits"
    if hasattr(value, "parameter_multipliers"):
        return f"{shown(value)}, which edits no model; it is an optimizer_edit of training.train"
    return f"{shown(value)}; give one such as interventions.AttentionTemperature(1.5)"


def some_edits(value: Any) -> str | None:
    """What is wrong with a value as a list of edits (a check of `probes.given`)."""
    if not isinstance(value, list | tuple):
        return f"{shown(value)}; give a list of edits"
    for place, edit in enumerate(value):
        if (wrong := an_edit(edit)) is not None:
            return f"a {type(value).__name__} whose item {place} is {wrong}"
    return None
