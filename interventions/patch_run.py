"""What `interventions.patch` does: measure, edit, measure again, undo or save, and print.

One pass over a text gives a model's entropies and its loss there, a second one the loss on held-out
text, of which no coefficient was measured (`Effects`). All are in nats. Norms of memory vectors are
those of the weights: measure an edit of memory vectors in the weights (`patch_weights`), not as
hooks, or the contribution entropy is that of the vectors as they were.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch

import probes
from interventions.attention_temperature import AttentionTemperature
from interventions.checkpoint import refuse_directory, refuse_shard_size, save_patched
from interventions.choices import ResuscitationSite, edits_named
from interventions.edit_forms import Edit, TensorChange
from interventions.edits import PatchReport, patch_weights
from interventions.neurons import require_site, require_solvable
from interventions.resuscitation import Resuscitation, resuscitate
from probes.checking import batches as some_batches
from probes.checking import hooked_model, takes
from probes.cli import TextSettings, progress
from probes.corpus.batching import KeptBatches
from probes.corpus.sources import Corpus, split_held_out
from probes.corpus.token_batch import Batches
from probes.corpus_means import Resampling
from probes.hooked_model import HookedModel
from probes.measure import measure_entropy
from probes.perplexity import LossMeter, Perplexity, measure_perplexity, power_of_e
from probes.results import EntropyResult
from probes.shown import Result, Table, frame_of, print_tables
from probes.sites import Site


@dataclass(frozen=True, repr=False)
class Effects(Result):
    """What was measured of a model at one time."""

    entropies: EntropyResult
    text: Perplexity  # loss on the text that the entropies were measured on
    held_out: Perplexity | None

    def _facts(self) -> Mapping[str, Any]:
        words = {name.replace("_", " "): value for name, value in self.totals().items()}
        return {"": self.entropies.provenance.about, **words}

    def to_dataframe(self) -> Any:
        """One row per number: `measure` and `value`, in nats, but for perplexities."""
        known = {name: value for name, value in self.totals().items() if value is not None}
        return frame_of({"measure": [*known], "value": [*known.values()]})

    def totals(self) -> dict[str, float | None]:
        """The numbers that edits are compared by: nats, and perplexities."""
        held_out = self.held_out
        return entropy_totals(self.entropies) | {
            "loss": self.text.mean_loss,
            "held_out_loss": None if held_out is None else held_out.mean_loss,
            "held_out_perplexity": None if held_out is None else held_out.perplexity,
        }


def entropy_totals(found: EntropyResult) -> dict[str, float | None]:
    """The totals of the entropies of a result, in nats; None for those that it has not."""
    of_layers = {
        "knowledge_entropy": found.knowledge,
        "contribution_entropy": found.contribution,
        "attention_entropy": found.attention,
    }
    totals = {name: None if part is None else part.total for name, part in of_layers.items()}
    return totals | {"next_token_entropy": found.next_token.mean if found.next_token else None}


@takes(model=hooked_model, batches=some_batches)
def measure_effects(
    model: HookedModel,
    batches: Batches,
    held_out: Batches | None = None,
    *,
    blocks: int = Resampling.blocks,
    on_batch: Callable[[int], None] | None = None,
) -> Effects:
    """Measure all entropies and the loss on a text, and the loss on held-out text.

    Args:
        model: the model; whatever is attached to it, or patched into it, is measured.
        batches: what to measure on, as for `probes.measure_entropy`.
        held_out: what the coefficients are not measured on; None for no second loss.
        blocks: blocks of documents, of which intervals are made.
        on_batch: called with the number of tokens of every batch when it is done.

    Raises:
        ValueError: there are no tokens, or what the model computes is not finite.
    """
    loss = LossMeter(model, Resampling(blocks=blocks))
    entropies = measure_entropy(model, batches, blocks=blocks, beside=[loss], on_batch=on_batch)
    apart = None
    if held_out is not None:
        apart = measure_perplexity(model, held_out, blocks=blocks, on_batch=on_batch)
    return Effects(entropies, loss.results()["perplexity"], apart)


def open_texts(given: TextSettings, corpus: str, held_out: str | None) -> tuple[Corpus, Corpus]:
    """What is measured on, and what is held out: every fifth document where no text is named."""
    opened = given.corpus_of(corpus)
    return split_held_out(opened) if held_out is None else (opened, given.corpus_of(held_out))


def keep_tokens(
    given: TextSettings,
    model: HookedModel,
    texts: tuple[Corpus, Corpus],
    max_tokens: int | None = None,
    held_out_tokens: int | None = None,
) -> tuple[KeptBatches, KeptBatches]:
    """Both as batches in memory, since they are gone through before and after an edit."""
    measured, held_out = texts
    return (
        given.batches_of(model, measured, max_tokens).kept(),
        given.batches_of(model, held_out, held_out_tokens).kept(),
    )


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


Tokens = tuple[KeptBatches, KeptBatches]  # what is measured on, and what is held out
Totals = dict[str, float | None]


@dataclass(frozen=True)
class Patched:
    """What the command has found out."""

    model: HookedModel
    edits: tuple[Edit, ...]
    resuscitation: Resuscitation | None
    report: PatchReport
    before: Totals
    predicted: Totals
    after: Totals
    texts: dict[str, Any]  # what was read: names, hashes and counts

    def moved(self, name: str) -> float:
        """The rise of a number by the edits; 0 where it was not measured."""
        before, after = self.before.get(name), self.after.get(name)
        return 0.0 if before is None or after is None else after - before


def run_patch(given: Any) -> None:
    """Run the command, its arguments checked against each other."""
    if not given.dry_run:
        refuse_directory(given.out, overwrite=given.overwrite)
    refuse_shard_size(given.max_shard_size)
    _refuse_settings(given)
    saved = None if given.coefficients is None else probes.load_result(given.coefficients)
    texts = None
    if given.corpus is not None:
        texts = open_texts(given, given.corpus, given.held_out)
    model = given.load(given.model)
    own = edits_named(given.edit, model)
    _refuse_for(model, given, own)
    kept = None
    if texts is not None:
        kept = keep_tokens(given, model, texts, given.max_tokens, given.held_out_tokens)
    found = _patch(given, model, own, kept, saved)
    if not given.dry_run:
        save_patched(
            model,
            given.out,
            found.edits,
            max_shard_size=given.max_shard_size,
            overwrite=given.overwrite,
            measured={
                "units": "nats",
                "before": found.before,
                "predicted": found.predicted,
                "after": found.after,
                "texts": found.texts,
                "named_edits": list(given.edit),
            },
        )
    print_tables([totals_table(found)], [*rows_changed(found.report.changes), *_warnings(found)])
    print("dry run: nothing was written" if given.dry_run else f"checkpoint: {given.out}")


def _refuse_settings(given: Any) -> None:
    if given.attention_temperature is not None:
        AttentionTemperature(given.attention_temperature)
    if given.attention_temperature == 1:
        raise ValueError("an attention temperature of 1 changes nothing; leave it out")
    if given.resuscitates:
        layers = max(given.layers, default=0) + 1
        _resuscitation(given, torch.ones(max(layers, 1), 2))
        if given.target_entropy is not None:
            require_solvable(given.site)


def _refuse_for(model: HookedModel, given: Any, own: Sequence[Edit]) -> None:
    """Refuse what this model's weights cannot express, before minutes of measuring."""
    if given.resuscitates:
        require_site(model, given.site)
        for layer in given.layers:
            model.hook_point((Site.MLP_UP, layer))
    if given.attention_temperature is not None:
        AttentionTemperature(given.attention_temperature).weight_changes(model)
    for edit in own:
        edit.weight_changes(model)


def _patch(
    given: Any,
    model: HookedModel,
    own: Sequence[Edit],
    kept: Tokens | None,
    saved: EntropyResult | None,
) -> Patched:
    before = None if kept is None else _measure("before", model, kept)
    entropies = None if before is None else before.entropies
    edit = _measured_resuscitation(given, model, kept, saved or entropies)
    temperature = given.attention_temperature
    edits: list[Edit] = [] if edit is None else [edit]
    edits += [*([] if temperature is None else [AttentionTemperature(temperature)]), *own]
    report = patch_weights(model, *edits)
    try:
        after = None if kept is None else _measure("after", model, kept)
    finally:
        report.undo()
    # Without a corpus, what is known of the model as it was is what the coefficients came with.
    at_first = entropy_totals(saved) if before is None and saved else _totals(before)
    predicted = None if edit is None else edit.predicted_entropy()
    return Patched(
        model=model,
        edits=tuple(edits),
        resuscitation=edit,
        report=report,
        before=at_first,
        predicted={}
        if predicted is None
        else {
            "knowledge_entropy": predicted.total,
            "contribution_entropy": predicted.contribution_total,
        },
        after=_totals(after),
        texts={} if before is None else _texts(before),
    )


def _measured_resuscitation(
    given: Any, model: HookedModel, kept: Tokens | None, coefficients: EntropyResult | None
) -> Resuscitation | None:
    if not given.resuscitates:
        return None
    if not given.sequential:
        edit = _resuscitation(given, coefficients)
        return edit if given.target_entropy is None else edit.reaching(given.target_entropy)
    assert kept is not None
    ratio, factor = given.resuscitation_ratio, given.resuscitation_factor
    passes = len(given.layers) or model.n_layers
    with progress("layer by layer, tokens", kept[0].tokens * passes) as advance:
        return resuscitate(
            model, kept[0], ratio, factor, sequential=True, on_batch=advance, **_where(given)
        )


def _resuscitation(given: Any, coefficients: Any) -> Resuscitation:
    factor = 1.0 if given.resuscitation_factor is None else given.resuscitation_factor
    settings = _where(given) | {"compat": given.compat}
    return Resuscitation(coefficients, given.resuscitation_ratio, factor, **settings)


def _where(given: Any) -> dict[str, Any]:
    """The settings of a resuscitation that say which rows, and how far at most."""
    layers, cap = given.layers or None, given.max_multiplier
    return {
        "site": given.site,
        "layers": layers,
        "selection": given.selection,
        "max_multiplier": cap,
    }


def _measure(when: str, model: HookedModel, kept: Tokens) -> Effects:
    with progress(f"{when}, tokens", sum(part.tokens for part in kept)) as advance:
        return measure_effects(model, *kept, on_batch=advance)


def _totals(found: Effects | None) -> Totals:
    return {} if found is None else found.totals()


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


def totals_table(found: Patched) -> Table:
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


def _warnings(found: Patched) -> Iterator[str]:
    if found.resuscitation is not None:
        yield from found.resuscitation.warnings()
    if found.predicted and len(found.edits) > 1:
        yield "Predicted is what the resuscitation does alone."
    if (lower := -found.moved("knowledge_entropy")) > 0:
        yield f"As measured, the edit lowers knowledge entropy by {lower:.4f} nats."
    site = None if found.resuscitation is None else found.resuscitation.at
    yield from damage(found.moved("held_out_loss"), site)


def damage(worse: float, site: ResuscitationSite | None) -> Iterator[str]:
    """A line where loss on held-out text has risen by so many nats that the model is damaged."""
    if worse < _MUCH_WORSE:
        return
    power = power_of_e(worse)
    times = f"e^{worse:,.0f}" if power is None else f"{power:,.1f}"
    instead = "; --site preserving leaves what the model computes as it is"
    yield (
        f"The edit damages the model: perplexity on held-out text is {times} times what it was"
        f"{instead if site is ResuscitationSite.UP else ''}."
    )


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value:,.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"
