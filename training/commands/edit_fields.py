"""The settings of edits that are made before a model is trained, for every command that has them.

A flat frozen dataclass that configurations inherit; `training.commands.run_edits` makes the edits.

Example:
    >>> EditFields(resuscitation_ratio=0.5, resuscitation_factor=2.0).is_edited
    True
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from interventions.choices import ResuscitationSite, Schedule, Selection


class Control(StrEnum):
    """What is done instead of a resuscitation, to see what it is that matters about one."""

    RANDOM_ROWS = "random_rows"
    """Its multipliers, on neurons drawn at random."""
    MOST_ACTIVE_ROWS = "most_active_rows"
    """Its multipliers, on the most active neurons."""
    MATCHED_NOISE = "matched_noise"
    """Noise of its size, on its rows."""
    REDO = "redo"
    """Its neurons started afresh; weights only."""
    ROW_LEARNING_RATES = "row_learning_rates"
    """What the preserving one does in training: learning rates of rows, and no edit."""
    IDENTITY = "identity"
    """Nothing."""


class EditForm(StrEnum):
    """How edits are made."""

    HOOKS = "hooks"
    """By hooks, which gradients pass through; checkpoints hold the weights without the edit."""
    WEIGHTS = "weights"
    """In the weights, once, before the first step."""


@dataclass(frozen=True, kw_only=True)
class EditFields:
    """How the model is edited before it is trained."""

    resuscitation_ratio: float | None = None
    """Share of the neurons of a layer, the least active ones, that are resuscitated: 0 to 1."""
    resuscitation_factor: float | None = None
    """What their mean coefficients are to become, in means of their layer."""
    resuscitation_site: ResuscitationSite = ResuscitationSite.UP
    """What is multiplied: up rows (the paper's), memory vectors (down), both so that the model
    computes the same (preserving), gate rows, or up rows before a nonlinearity."""
    resuscitation_layers: tuple[int, ...] = ()
    """In which layers; all."""
    selection: Selection = Selection.QUANTILE
    """quantile: at or below it, ties included; exact: exactly so many neurons."""
    max_multiplier: float | None = None
    """No neuron is multiplied by more; no cap."""
    sequential: bool = False
    """Measure each layer with all earlier ones edited: one pass a layer."""
    control: Control | None = None
    """Instead of the resuscitation, this control of it."""
    attention_temperature: float | None = None
    """Divide attention scores by this, in every layer."""
    temperature_schedule: Schedule = Schedule.CONSTANT
    """constant; or linear, to 1 at the end of the run, the released code's default."""
    edit_form: EditForm = EditForm.HOOKS
    """Whether edits are hooks, or are written into the weights."""
    coefficient_corpus: str = "general-train"
    """Text that mean coefficients are measured on at the start."""
    coefficient_tokens: int = 16384
    """Tokens of it."""
    coefficients: Path | None = None
    """Folder of an entropy result of this model in float32, to take mean coefficients from
    instead."""

    @property
    def resuscitates(self) -> bool:
        """Whether neurons are resuscitated, or a control of that is made."""
        return self.resuscitation_ratio is not None

    @property
    def is_edited(self) -> bool:
        """Whether the model that is trained differs from the start, or is trained differently."""
        return self.resuscitates or self.attention_temperature is not None

    def check_edits(self) -> None:
        """Make sure that the settings of edits go together.

        Raises:
            ValueError: they do not.
        """
        if self.coefficient_tokens < 1:
            raise ValueError(
                f"--coefficient-tokens must be 1 or more, found {self.coefficient_tokens}"
            )
        if self.resuscitates != (self.resuscitation_factor is not None):
            raise ValueError(
                "--resuscitation-ratio says which neurons, --resuscitation-factor how much; give "
                "both"
            )
        if self.control is not None and not self.resuscitates:
            raise ValueError(
                "a --control is one of a resuscitation; give --resuscitation-ratio and "
                "--resuscitation-factor too"
            )
        if self.control is Control.REDO and self.edit_form is EditForm.HOOKS:
            raise ValueError(
                "redo as a hook keeps gradients from its neurons; give --edit-form weights"
            )
        if self.sequential and self.coefficients is not None:
            raise ValueError("--sequential measures coefficients; leave --coefficients out")
