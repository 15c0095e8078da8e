"""What `interventions.patch` does: measure, edit, measure again, undo or save, and print.

Entropies are in nats.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import torch

import probes
from interventions.attention_temperature import AttentionTemperature
from interventions.checkpoint import refuse_directory, refuse_shard_size, save_patched
from interventions.choices import ResuscitationSite
from interventions.edits import Edit, PatchReport, TensorChange, patch_weights
from interventions.effects import Effects, entropy_totals, keep_tokens, measure_effects, open_texts
from interventions.measured_resuscitation import resuscitate
from interventions.resuscitation import Resuscitation
from interventions.rows import require_site
from interventions.selection import solve_factor
from probes.cli import progress
from probes.corpus.batching import KeptBatches
from probes.corpus.sources import Corpus
from probes.hooked_model import HookedModel
from probes.perplexity import power_of_e
from probes.results import EntropyResult
from probes.sites import Site
from probes.tables import Table, print_tables

ROWS = {
    "knowledge_entropy": "knowledge entropy, |c|",
    "contribution_entropy": "  by contribution, |c| · ‖v‖",
    "attention_entropy": "attention entropy",
    "next_token_entropy": "next-token entropy",
    "loss": "loss on the same text",
    "held_out_loss": "loss on held-out text",
    "held_out_perplexity": "perplexity on held-out text",
}

# So many nats more, twice the perplexity, make a model a damaged one.
_MUCH_WORSE = log(2.0)


def print_patch(found: "Patched", saved_to: Path | None) -> None:
    """Print what was found out."""
    print_tables([totals_table(found)], [*rows_changed(found.report.changes), *_warnings(found)])
    print("dry run: nothing was written" if saved_to is None else f"checkpoint: {saved_to}")


def totals_table(found: "Patched") -> Table:
    """Entropies and perplexity before the edit, as predicted, and after it."""
    columns = {"before": found.before, "predicted": found.predicted, "after": found.after}
    rows = []
    for key, label in ROWS.items():
        digits = 2 if key == "held_out_perplexity" else 4
        cells = [_number(values.get(key), digits) for values in columns.values()]
        if any(cells):
            rows.append((label, *cells))
    if not any((*found.before.values(), *found.predicted.values())):
        rows.append(("not measured, without --corpus", "", "", ""))
    title = f"{found.model.name}: {'; '.join(map(named, found.edits))}; in nats"
    return Table.of_rows(title, ("", *columns), rows)


def named(edit: Edit) -> str:
    """An edit in a few words."""
    described = edit.describe()
    match described["kind"]:
        case "resuscitation":
            return (
                f"resuscitation at {described['site']}, ratio {described['ratio']:g}, "
                f"factor {described['factor']:.4g}"
            )
        case "attention_temperature" if isinstance(described["temperature"], float | int):
            return f"attention temperature {described['temperature']:g}"
    return described["kind"].replace("_", " ")


def rows_changed(changes: Sequence[TensorChange]) -> Iterator[str]:
    """A line for each kind of weight, the same weights of all layers together."""
    kinds: dict[str, list[TensorChange]] = {}
    for change in changes:
        kinds.setdefault(re.sub(r"\d+", "*", change.parameter), []).append(change)
    for kind, found in kinds.items():
        rows = sum(change.rows_changed for change in found)
        moved = sorted({f"{change.relative_change:.3g}" for change in found}, key=float)
        yield (
            f"{kind}: {rows:,} of {sum(change.rows for change in found):,} rows changed in "
            f"{len(found)} tensors; norm of the change {' to '.join(moved[:1] + moved[1:][-1:])} "
            "times the tensor's."
        )


def _warnings(found: "Patched") -> Iterator[str]:
    if found.resuscitation is not None:
        yield from found.resuscitation.warnings()
    if found.predicted and len(found.edits) > 1:
        yield "Predicted is what the resuscitation does alone."
    before, after = (part.get("knowledge_entropy") for part in (found.before, found.after))
    if before is not None and after is not None and after < before:
        yield f"As measured, the edit lowers knowledge entropy by {before - after:.4f} nats."
    yield from _damage(found)


def _damage(found: "Patched") -> Iterator[str]:
    """A line where the model has become much worse at text."""
    before, after = (part.get("held_out_loss") for part in (found.before, found.after))
    if before is None or after is None or after - before < _MUCH_WORSE:
        return
    instead = ""
    if found.resuscitation is not None and found.resuscitation.at is ResuscitationSite.UP:
        instead = "; --site preserving leaves what the model computes as it is"
    power = power_of_e(after - before)
    times = f"e^{after - before:,.0f}" if power is None else f"{power:,.1f}"
    yield (
        f"The edit damages the model: perplexity on held-out text is {times} times what it "
        f"was{instead}."
    )


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"


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


def run_patch(arguments: Any) -> None:
    """Run the command, its arguments checked against each other."""
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


def _refuse_settings(given: Any) -> None:
    """Refuse settings out of range before anything is loaded: try them on
    a model of two neurons.
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


def _refuse_for(model: HookedModel, given: Any) -> None:
    """Refuse what this model's weights cannot express, before minutes of measuring."""
    if given.resuscitates:
        require_site(model, given.site)
        for layer in given.layers:
            model.hook_point((Site.MLP_UP, layer))
    if given.attention_temperature is not None:
        AttentionTemperature(given.attention_temperature).weight_changes(model)


def _kept(given: Any, model: HookedModel, texts: Texts | None) -> Tokens | None:
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
    given: Any,
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
    given: Any,
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


def _resuscitation(given: Any, coefficients: Any) -> Resuscitation:
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


def _sequential(given: Any, model: HookedModel, batches: KeptBatches) -> Resuscitation:
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
