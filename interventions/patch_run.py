"""What `interventions.patch` does: measure, edit, measure again, save.

Everything that can be refused is refused before the first measurement, and the folder is written
last.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

import probes
from interventions.attention_temperature import AttentionTemperature
from interventions.checkpoint import refuse_directory, refuse_shard_size, save_patched
from interventions.choices import ResuscitationSite
from interventions.edits import Edit, PatchReport, patch_weights
from interventions.effect_texts import keep_tokens, open_texts
from interventions.effects import Effects, entropy_totals, measure_effects
from interventions.measured_resuscitation import resuscitate
from interventions.patch_terminal import print_patch
from interventions.resuscitation import Resuscitation
from interventions.row_scaling import require_site
from interventions.selection import solve_factor
from probes.cli import progress
from probes.corpus.batching import KeptBatches
from probes.corpus.sources import Corpus
from probes.hooked_model import HookedModel
from probes.results import EntropyResult
from probes.sites import Site

if TYPE_CHECKING:
    from interventions.patch import PatchArguments

Texts = tuple[Corpus, Corpus]
Tokens = tuple[KeptBatches, KeptBatches]
"""What is measured on, and what is held out."""
_SOLVABLE = (ResuscitationSite.UP, ResuscitationSite.PRESERVING)


@dataclass(frozen=True)
class Patched:
    """What the command has found out."""

    model: HookedModel
    edits: tuple[Edit, ...]
    resuscitation: Resuscitation | None
    report: PatchReport
    before: dict[str, float | None]
    predicted: dict[str, float | None]
    after: dict[str, float | None]
    texts: dict[str, Any]
    """What was read: names, hashes and counts."""

    def measured(self) -> dict[str, Any]:
        """For `edits.json`."""
        return {
            "units": "nats",
            "before": self.before,
            "predicted": self.predicted,
            "after": self.after,
            "texts": self.texts,
        }


def run_patch(arguments: "PatchArguments") -> None:
    """Run the command, its arguments checked against each other.

    Raises:
        ValueError: something that was asked for is not there, not possible or not allowed.
    """
    if not arguments.dry_run:
        assert arguments.out is not None
        refuse_directory(arguments.out, overwrite=arguments.overwrite)
    refuse_shard_size(arguments.max_shard_size)
    _refuse_settings(arguments)
    saved = None if arguments.coefficients is None else probes.load_result(arguments.coefficients)
    texts = (
        None
        if arguments.corpus is None
        else open_texts(arguments.corpus, arguments.held_out, arguments.column, arguments.sample_by)
    )
    model = probes.load_model(
        arguments.model,
        revision=arguments.revision,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    _refuse_for(model, arguments)
    found = _patch(arguments, model, _kept(arguments, model, texts), saved)
    if not arguments.dry_run:
        assert arguments.out is not None
        save_patched(
            model,
            arguments.out,
            found.edits,
            max_shard_size=arguments.max_shard_size,
            overwrite=arguments.overwrite,
            measured=found.measured(),
        )
    print_patch(found, arguments.out if not arguments.dry_run else None)


def _refuse_settings(given: "PatchArguments") -> None:
    """Refuse settings out of range before anything is loaded: try them on a model of two neurons.

    Raises:
        ValueError: a setting is out of range.
    """
    if given.attention_temperature is not None:
        AttentionTemperature(given.attention_temperature)
    if given.attention_temperature == 1:
        raise ValueError("an attention temperature of 1 changes nothing; leave it out")
    if given.resuscitates:
        layers = max(given.layers, default=0) + 1
        _resuscitation(given, torch.ones(max(layers, 1), 2))
        if given.target_entropy is not None and given.site not in _SOLVABLE:
            raise ValueError(
                f"--target-entropy has no closed form at --site {given.site}, which does not "
                f"multiply coefficients; use {' or '.join(_SOLVABLE)}, or --resuscitation-factor"
            )


def _refuse_for(model: HookedModel, given: "PatchArguments") -> None:
    """Refuse what this model's weights cannot express, before minutes of measuring."""
    if given.resuscitates:
        require_site(model, given.site)
        for layer in given.layers:
            model.hook_point((Site.MLP_UP, layer))
    if given.attention_temperature is not None:
        AttentionTemperature(given.attention_temperature).weight_changes(model)


def _kept(given: "PatchArguments", model: HookedModel, texts: Texts | None) -> Tokens | None:
    if texts is None:
        return None
    return keep_tokens(
        texts,
        model.tokenizer,
        sequence_length=given.sequence_length,
        batch_size=given.batch_size,
        layout=given.layout,
        max_tokens=given.max_tokens,
        held_out_tokens=given.held_out_tokens,
        prepend_bos=given.prepend_bos,
    )


def _patch(
    given: "PatchArguments",
    model: HookedModel,
    kept: Tokens | None,
    saved: EntropyResult | None,
) -> Patched:
    before = None if kept is None else _measure("before", model, kept)
    coefficients = before.entropies if saved is None and before is not None else saved
    edit = _measured_resuscitation(given, model, kept, coefficients)
    temperature = given.attention_temperature
    edits: list[Edit] = [] if edit is None else [edit]
    edits += [] if temperature is None else [AttentionTemperature(temperature)]
    report = patch_weights(model, *edits)
    try:
        after = None if kept is None else _measure("after", model, kept)
    finally:
        report.undo()
    # Without a corpus, what is known of the model as it was is what the coefficients came with.
    at_first = entropy_totals(saved) if before is None and saved else _totals(before)
    return Patched(
        model=model,
        edits=tuple(edits),
        resuscitation=edit,
        report=report,
        before=at_first,
        predicted=_predicted(edit),
        after=_totals(after),
        texts={} if before is None else _texts(before),
    )


def _measured_resuscitation(
    given: "PatchArguments",
    model: HookedModel,
    kept: Tokens | None,
    coefficients: EntropyResult | None,
) -> Resuscitation | None:
    if not given.resuscitates:
        return None
    if given.sequential:
        assert kept is not None
        return _sequential(given, model, kept[0])
    assert coefficients is not None
    edit = _resuscitation(given, coefficients)
    if given.target_entropy is None:
        return edit
    factor = solve_factor(
        edit.coefficients, edit.selected(), given.target_entropy, edit.max_multiplier
    )
    return replace(edit, factor=factor)


def _resuscitation(given: "PatchArguments", coefficients: Any) -> Resuscitation:
    assert given.resuscitation_ratio is not None
    return Resuscitation(
        coefficients,
        given.resuscitation_ratio,
        1.0 if given.resuscitation_factor is None else given.resuscitation_factor,
        given.site,
        layers=given.layers or None,
        selection=given.selection,
        max_multiplier=given.max_multiplier,
        compat=given.compat,
    )


def _sequential(given: "PatchArguments", model: HookedModel, batches: KeptBatches) -> Resuscitation:
    assert given.resuscitation_ratio is not None
    passes = len(given.layers) or model.n_layers
    with progress("layer by layer, tokens", batches.tokens * passes) as advance:
        return resuscitate(
            model,
            batches,
            given.resuscitation_ratio,
            given.resuscitation_factor,
            site=given.site,
            sequential=True,
            layers=given.layers or None,
            selection=given.selection,
            max_multiplier=given.max_multiplier,
            on_batch=advance,
        )


def _measure(when: str, model: HookedModel, kept: Tokens) -> Effects:
    with progress(f"{when}, tokens", sum(part.tokens for part in kept)) as advance:
        return measure_effects(model, *kept, on_batch=advance)


def _totals(found: Effects | None) -> dict[str, float | None]:
    return {} if found is None else found.totals()


def _predicted(edit: Resuscitation | None) -> dict[str, float | None]:
    predicted = None if edit is None else edit.predicted_entropy()
    if predicted is None:
        return {}
    return {
        "knowledge_entropy": predicted.total,
        "contribution_entropy": predicted.contribution_total,
    }


def _texts(found: Effects) -> dict[str, Any]:
    origin, held_out = found.entropies.provenance, found.held_out
    assert held_out is not None
    return {
        "corpus": origin.corpus,
        "corpus_sha256": origin.corpus_sha256,
        "documents": origin.documents,
        "tokens": origin.tokens,
        "held_out_documents": held_out.documents,
        "held_out_predicted_tokens": held_out.tokens,
    }
