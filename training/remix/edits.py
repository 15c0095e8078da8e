"""What a chain of stages does to its model, before which stage, and what of it stays on later.

Edits are measured on the weights that their stage begins with. Those written into the weights are
then simply there. Hooks and learning rates of rows stay on in all later stages, as they were
measured, since a model without them computes something else; a temperature that falls to 1 over its
stage is gone after it.

Example:
    >>> edits = ChainEdits(config, load_beginning)                            # doctest: +SKIP
    >>> edits.of(0, model).describe()["hooks"]                                # doctest: +SKIP
    []
"""

from collections.abc import Callable
from dataclasses import replace

from interventions.attention_temperature import AttentionTemperature
from interventions.choices import Schedule
from interventions.controls import MostActiveRows, RandomRows
from interventions.edit_forms import Edit
from interventions.resuscitation import Resuscitation
from probes.hooked_model import HookedModel
from training.commands.run_edits import RunEdits, edits_of
from training.remix.config import RemixConfig


class ChainEdits:
    """The edits of every stage of a chain.

    Args:
        config: the chain.
        load_beginning: gives the model that a stage begins with, by its place.
        watched: whether there is anybody to show a progress bar to.
    """

    def __init__(
        self,
        config: RemixConfig,
        load_beginning: Callable[[int], HookedModel],
        *,
        watched: bool = True,
    ) -> None:
        self._config = config
        self._load_beginning = load_beginning
        self._watched = watched
        self._first = config.names.index(config.edit_before)
        self._measured: RunEdits | None = None

    def of(self, place: int, model: HookedModel) -> RunEdits:
        """The edits of a stage.

        Args:
            place: of the stage, from 0.
            model: what it begins with; left as it is.

        Raises:
            ValueError: an edit does not fit the model, or changes nothing.
        """
        if place < self._first or not self._config.is_edited:
            return RunEdits()
        if place == self._first and self._measured is None:
            self._measured = self._edits_of(model)
        return self._found() if place == self._first else _later(self._found())

    def staying(self) -> tuple[Edit, ...]:
        """The hooks that stay on after the last stage.

        Raises:
            ValueError: an edit does not fit the model, or changes nothing.
        """
        return _later(self._found()).hooks if self._config.is_edited else ()

    def _found(self) -> RunEdits:
        """As they were measured, before whichever stage."""
        if self._measured is None:
            self._measured = self._edits_of(self._load_beginning(self._first))
        return self._measured

    def _edits_of(self, model: HookedModel) -> RunEdits:
        return edits_of(
            self._config,
            model,
            seed=self._config.seed,
            row_length=self._config.row_length,
            watched=self._watched,
        )


def _later(edits: RunEdits) -> RunEdits:
    """What of edits stays on in later stages."""
    kept = tuple(_of_any_weights(edit) for edit in edits.hooks if not _has_ended(edit))
    return replace(edits, hooks=kept, weights=())


def _has_ended(edit: Edit) -> bool:
    return isinstance(edit, AttentionTemperature) and edit.schedule == Schedule.LINEAR


def _of_any_weights(edit: Edit) -> Edit:
    """The same multipliers on weights that have been trained since they were measured."""
    if isinstance(edit, Resuscitation):
        return replace(edit, model_hash=None)
    if isinstance(edit, RandomRows | MostActiveRows):
        return replace(edit, like=replace(edit.like, model_hash=None))
    return edit
