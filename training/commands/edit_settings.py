"""What a run of a training command does to its model before the first step.

Mean coefficients are measured on the start, over the text and as many tokens of it as were asked
for, or taken from an entropy result of the same model. From them come the resuscitation or the
control that is wanted; a temperature of attention may be added. Edits are then hooks for the length
of the run, or written into the weights; learning rates of rows are neither.

Nothing of this depends on how far a run has come, so one that goes on finds the same edits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

import probes
from interventions.attention_temperature import AttentionTemperature
from interventions.choices import ResuscitationSite, Schedule, Selection
from interventions.controls import Identity, MatchedNoise, MostActiveRows, RandomRows, ReDo
from interventions.edit_forms import Edit
from interventions.edits import patch_weights
from interventions.learning_rates import RowLearningRates
from interventions.measured_resuscitation import resuscitate
from interventions.resuscitation import Resuscitation
from interventions.rows import require_site
from interventions.self_check import check_edits
from probes.cli import progress
from probes.corpus.batching import KeptBatches
from probes.hooked_model import HookedModel
from training.observers import Observer
from training.processes import this_process
from training.runs.directory import RunDirectory
from training.runs.durable_files import one_line_for_disk_errors, write_whole
from training.runs.random_states import random_states_kept
from training.runs.records import BASELINE_FILE, as_line


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
        """Make sure that the settings of edits go together."""
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


@dataclass(frozen=True)
class RunEdits:
    """What is done to the model, and in which of three ways.

    Attributes:
        hooks: made by hooks for the length of the run.
        weights: written into the weights.
        optimizer: learning rates of rows.
        coefficients: where mean coefficients are from, as plain values; None where none are.
    """

    hooks: tuple[Edit, ...] = ()
    weights: tuple[Edit, ...] = ()
    optimizer: tuple[RowLearningRates, ...] = ()
    coefficients: dict[str, Any] | None = None

    @property
    def all(self) -> tuple[Edit, ...]:
        """Hooks and weights: what changes the function that the start computes."""
        return (*self.hooks, *self.weights)

    def write(self, model: HookedModel) -> None:
        """Write those into the weights that belong there."""
        if self.weights:
            patch_weights(model, *self.weights)

    def describe(self) -> dict[str, Any]:
        """Every edit with its settings, as plain values for a manifest."""
        return {
            "hooks": [edit.describe() for edit in self.hooks],
            "weights": [edit.describe() for edit in self.weights],
            "optimizer": [
                {"kind": "row_learning_rates", "like": rates.like.describe()}
                for rates in self.optimizer
            ],
            "coefficients": self.coefficients,
        }


def edits_of(
    fields: EditFields,
    model: HookedModel,
    *,
    seed: int,
    row_length: int,
    watched: bool = True,
) -> RunEdits:
    """The edits that a run makes, measured and tried on its start; the model is left as it is."""
    if not fields.is_edited:
        return RunEdits()
    edits: list[Edit] = []
    rates: tuple[RowLearningRates, ...] = ()
    coefficients = None
    if fields.resuscitates:
        like, coefficients = _resuscitation(fields, model, row_length, watched)
        made = _made(fields, like, seed)
        if isinstance(made, RowLearningRates):
            rates = (made,)
        else:
            edits.append(made)
    if fields.attention_temperature is not None:
        schedule = fields.temperature_schedule
        edits.append(AttentionTemperature(fields.attention_temperature, schedule=schedule))
    if fields.edit_form is EditForm.WEIGHTS:
        for edit in edits:
            edit.weight_changes(model)  # refuses what weights cannot express
        return RunEdits(weights=tuple(edits), optimizer=rates, coefficients=coefficients)
    check_edits(model, edits)
    return RunEdits(hooks=tuple(edits), optimizer=rates, coefficients=coefficients)


def _made(fields: EditFields, like: Resuscitation, seed: int) -> Edit | RowLearningRates:
    """The resuscitation, or what is done in its place."""
    match fields.control:
        case None:
            return like
        case Control.RANDOM_ROWS:
            return RandomRows(like, seed=seed)
        case Control.MOST_ACTIVE_ROWS:
            return MostActiveRows(like)
        case Control.MATCHED_NOISE:
            return MatchedNoise(like, seed=seed)
        case Control.REDO:
            return ReDo(
                like.coefficients,
                ratio=like.ratio,
                seed=seed,
                model_hash=like.model_hash,
            )
        case Control.ROW_LEARNING_RATES:
            # Attached to an optimizer, which may be that of a run which has come some way since.
            return RowLearningRates(replace(like, model_hash=None))
        case Control.IDENTITY:
            return Identity()


def _resuscitation(
    fields: EditFields, model: HookedModel, row_length: int, watched: bool
) -> tuple[Resuscitation, dict[str, Any]]:
    """The resuscitation, and where its coefficients are from."""
    ratio, factor = fields.resuscitation_ratio, fields.resuscitation_factor
    assert ratio is not None
    assert factor is not None
    site = ResuscitationSite(fields.resuscitation_site)
    settings: dict[str, Any] = {
        "site": site,
        "layers": fields.resuscitation_layers or None,
        "selection": fields.selection,
        "max_multiplier": fields.max_multiplier,
    }
    require_site(model, site)
    if fields.coefficients is not None:
        saved = probes.load_result(fields.coefficients)
        edit = Resuscitation(saved, ratio, factor, **settings)
        edit.require(model)
        return edit, {"from": str(fields.coefficients)}
    kept = coefficient_text(fields, model.tokenizer, row_length)
    passes = model.n_layers if fields.sequential else 1
    total = kept.tokens * passes
    with progress("mean coefficients, tokens", total, shown=watched) as advance:
        edit = resuscitate(
            model, kept, ratio, factor, sequential=fields.sequential, on_batch=advance, **settings
        )
    return edit, {
        "corpus": kept.corpus.name,
        "corpus_sha256": kept.content_hash,
        "tokens": kept.tokens,
    }


def coefficient_text(fields: EditFields, tokenizer: Any, row_length: int) -> KeptBatches:
    """The text that mean coefficients are measured on."""
    return probes.token_batches(
        probes.load_corpus(fields.coefficient_corpus),
        tokenizer,
        sequence_length=row_length,
        batch_size=8,
        max_tokens=fields.coefficient_tokens,
    ).kept()


def write_baseline(
    model: HookedModel, observers: Sequence[Observer], directory: RunDirectory
) -> None:
    """Look at a start before it is edited; nothing is done where that is written already."""
    path = directory.path / BASELINE_FILE
    if path.is_file():
        return
    # Every process looks, since they share the items out; the first one writes.
    with random_states_kept(), model.evaluating(), torch.no_grad():
        lines = [
            as_line(record)
            for observer in observers
            if observer.due(0)
            for record in observer.observe(model, 0)
        ]
    if this_process().is_first:
        with one_line_for_disk_errors(f"writing {path}"):
            write_whole(path, "".join(f"{line}\n" for line in lines))
