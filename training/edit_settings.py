"""What a run of a training command does to its model before the first step.

Mean coefficients are measured on the initial model, or taken from an entropy result of it. From
them comes the resuscitation, or a control of it. Edits are written into the weights, which are
trained so, or are hooks for the length of the run: a fixed gain in front of weights that are
trained as they were. Nothing of this depends on how far a run has come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import probes
from interventions.attention_temperature import AttentionTemperature
from interventions.choices import ResuscitationSite, edits_named
from interventions.controls import Identity, MatchedNoise, MostActiveRows, RandomRows, ReDo
from interventions.edit_forms import Edit, NotInWeightsError
from interventions.edits import check_edits, patch_weights
from interventions.learning_rates import RowLearningRates
from interventions.neurons import require_site
from interventions.resuscitation import Resuscitation, resuscitate
from probes.cli import progress
from probes.corpus.batching import KeptBatches
from probes.hooked_model import HookedModel
from training.observers import Observer
from training.options import Control, EditFields, EditForm
from training.processes import random_states_kept, this_process
from training.runs.directory import RunDirectory
from training.runs.records import BASELINE_FILE, as_line, one_line_for_disk_errors, write_whole


@dataclass(frozen=True)
class RunEdits:
    """What is done to the model, and in which of three ways."""

    hooks: tuple[Edit, ...] = ()  # made by hooks for the length of the run
    weights: tuple[Edit, ...] = ()  # written into the weights
    optimizer: tuple[RowLearningRates, ...] = ()
    coefficients: dict[str, Any] | None = None  # where they are from, as plain values

    @property
    def all(self) -> tuple[Edit, ...]:
        """Hooks and weights: what changes the function that the model computes."""
        return (*self.hooks, *self.weights)

    def write(self, model: HookedModel) -> None:
        if self.weights:
            patch_weights(model, *self.weights)

    def describe(self) -> dict[str, Any]:
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
    """The edits that a run makes, measured and tried on its model, which is left as it is."""
    if not fields.is_edited:
        return RunEdits()
    edits: list[Edit] = []
    rates: tuple[RowLearningRates, ...] = ()
    coefficients = None
    if fields.resuscitates:
        like, coefficients = _resuscitation(fields, model, row_length, watched)
        if fields.control is Control.ROW_LEARNING_RATES:
            # Attached to an optimizer, which may be that of a run which has come some way since.
            rates = (RowLearningRates(replace(like, model_hash=None)),)
        else:
            edits.append(like if fields.control is None else _control(fields.control, like, seed))
    if fields.attention_temperature is not None:
        schedule = fields.temperature_schedule
        edits.append(AttentionTemperature(fields.attention_temperature, schedule=schedule))
    edits += edits_named(fields.edit, model)
    if fields.edit_form is EditForm.WEIGHTS:
        for edit in edits:
            try:
                edit.weight_changes(model)
            except NotInWeightsError as error:
                raise ValueError(f"{error}: give --edit-form hooks") from None
        return RunEdits(weights=tuple(edits), optimizer=rates, coefficients=coefficients)
    check_edits(model, edits)
    return RunEdits(hooks=tuple(edits), optimizer=rates, coefficients=coefficients)


def _control(control: Control, like: Resuscitation, seed: int) -> Edit:
    """What is done in the place of a resuscitation."""
    match control:
        case Control.RANDOM_ROWS:
            return RandomRows(like, seed=seed)
        case Control.MOST_ACTIVE_ROWS:
            return MostActiveRows(like)
        case Control.MATCHED_NOISE:
            return MatchedNoise(like, seed=seed)
        case Control.REDO:
            ratio, model_hash = like.ratio, like.model_hash
            return ReDo(like.coefficients, ratio=ratio, seed=seed, model_hash=model_hash)
        case _:
            return Identity()


def _resuscitation(
    fields: EditFields, model: HookedModel, row_length: int, watched: bool
) -> tuple[Resuscitation, dict[str, Any]]:
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
        edit = Resuscitation(probes.load_result(fields.coefficients), ratio, factor, **settings)
        edit.require(model)
        return edit, {"from": str(fields.coefficients)}
    kept, sequential = coefficient_text(fields, model.tokenizer, row_length), fields.sequential
    total = kept.tokens * (model.n_layers if sequential else 1)
    with progress("mean coefficients, tokens", total, shown=watched) as advance:
        edit = resuscitate(
            model, kept, ratio, factor, sequential=sequential, on_batch=advance, **settings
        )
    text = {"corpus": kept.corpus.name, "corpus_sha256": kept.content_hash, "tokens": kept.tokens}
    return edit, text


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
    """Evaluate a model before it is edited; nothing is done where that is written already."""
    path = directory.path / BASELINE_FILE
    if path.is_file():
        return
    # Every process observes, since they share the items out; the first one writes.
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
