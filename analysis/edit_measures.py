"""Edit measurements: what each edit of a sweep does to a model, resumable edit by edit.

The unedited model is measured first; its mean coefficients are what all resuscitations start from.
Each edit is then made by hooks, measured on the same text and on held-out text, and taken off. What
was measured is a file at once, with hashes of the weights and texts that it belongs to, so that a
sweep that was stopped repeats nothing and mixes nothing. An edit that cannot be made or measured,
because it changes nothing or its numbers are not finite, is a row that says so.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis.checkpoints import Origin, origin_of, refuse_another
from interventions.attention_temperature import AttentionTemperature
from interventions.choices import ResuscitationSite, as_choice, edits_named, named_object
from interventions.edit_forms import Edit
from interventions.edits import applied, patch_weights
from interventions.neurons import require_site
from interventions.patch_run import Effects, measure_effects
from interventions.resuscitation import Resuscitation
from probes.cli import output_folder
from probes.corpus.batching import KeptBatches
from probes.entropy import knowledge_entropy
from probes.hooked_model import HookedModel
from probes.results import EntropyResult, load_result
from probes.shown import Result, json_text
from training.runs.records import write_whole

AT_RATIO, AT_FACTOR = 0.5, 1.0
"""The ratio at which factors are tried, and the factor at which ratios are: the paper's."""


@dataclass(frozen=True)
class EditSetting:
    """One edit of a sweep: a resuscitation, a temperature, one's own, or none."""

    site: ResuscitationSite | None = None
    ratio: float | None = None
    factor: float | None = None
    temperature: float | None = None
    own: str | None = None  # an edit of one's own, by its name: module:object

    @property
    def kind(self) -> str:
        """The site, or what else it is."""
        return str(self.site or ("temperature" if self.own is None else "own"))

    @property
    def slug(self) -> str:
        """A name for files; other numbers, other names."""
        if self.site is not None:
            return f"{self.site}-ratio-{self.ratio}-factor-{self.factor}"
        if self.own is not None:
            return f"own-{self.own.replace(':', '.')}"
        return "unedited" if self.temperature is None else f"temperature-{self.temperature}"

    @property
    def label(self) -> str:
        if self.site is not None:
            return f"{self.site}, ratio {self.ratio:g}, factor {self.factor:g}"
        if self.own is not None:
            return self.own
        return "unedited" if self.temperature is None else f"temperature {self.temperature:g}"

    def edit(self, measured: EntropyResult | Tensor, model: HookedModel | None = None) -> Edit:
        """The edit, from the coefficients of the unedited model; one's own, made for the model."""
        if self.temperature is not None:
            return AttentionTemperature(self.temperature)
        if self.own is not None:
            assert model is not None
            return edits_named([self.own], model)[0]
        assert self.site is not None
        assert self.ratio is not None
        assert self.factor is not None
        return Resuscitation(measured, self.ratio, self.factor, self.site)


def edit_settings(
    sites: Iterable[ResuscitationSite | str],
    *,
    factors: Sequence[float],
    ratios: Sequence[float],
    temperatures: Sequence[float],
    own: Sequence[str] = (),
) -> list[EditSetting]:
    """The settings of a sweep, in order."""
    found = [
        EditSetting(as_choice(ResuscitationSite, site, "site"), float(ratio), float(factor))
        for site in sites
        for ratio, factor in [
            *((AT_RATIO, factor) for factor in factors),
            *((ratio, AT_FACTOR) for ratio in ratios),
        ]
    ]
    found += [EditSetting(temperature=float(temperature)) for temperature in temperatures]
    found += [EditSetting(own=name) for name in own if named_object(name) is not None]
    if not found:
        raise ValueError("the sweep is empty; give factors, ratios, temperatures or edits")
    for setting in found[: len(found) - len(own)]:
        # What is out of range is refused by a model of two neurons, before hours of measuring.
        replace(setting, site=setting.site and ResuscitationSite.UP).edit(torch.ones(1, 2))
    return list(dict.fromkeys(found))


def sites_of(
    model: HookedModel, asked: Sequence[ResuscitationSite]
) -> tuple[ResuscitationSite, ...]:
    """The sites asked for, or all that the model has."""
    found = []
    for site in asked or ResuscitationSite:
        try:
            require_site(model, site)
            found.append(site)
        except ValueError:
            if asked:
                raise
    return tuple(found)


UNEDITED, ROWS = "unedited", "rows"
_FACTS = "edit_sweep.json"

Totals = dict[str, float | None]


@dataclass(frozen=True)
class HeldOut:
    """The text that no coefficient was measured on."""

    corpus: str
    sha256: str
    documents: int
    tokens: int


@dataclass(frozen=True)
class EditRow:
    """What one edit does."""

    setting: EditSetting
    predicted: Totals
    """What the closed form says, if the inputs of the layers stay; empty where there is none."""
    after: Totals  # as measured; empty where the edit is refused
    neurons: int | None  # how many neurons are scaled, in all layers; None for a temperature
    refused: str | None = None  # why the edit cannot be made or measured
    described: dict[str, Any] | None = None  # what an edit of one's own says of itself


MEASURES = {
    "knowledge_entropy": "knowledge",
    "contribution_entropy": "contribution",
    "attention_entropy": "attention",
    "next_token_entropy": "next-token",
    "loss": "loss",
    "held_out_loss": "held-out loss",
    "held_out_perplexity": "held-out perplexity",
}
"""What is measured, and what a column of it is called."""
PREDICTED = ("knowledge_entropy", "contribution_entropy")
_BRIEFLY = ("knowledge_entropy", "contribution_entropy", "held_out_loss")
"""What a line and a small table show."""


@dataclass(frozen=True, repr=False)
class EditSweep(Result):
    """The unedited model, and what every edit makes of it."""

    result: EntropyResult
    held_out: HeldOut
    before: Totals
    rows: tuple[EditRow, ...]

    @property
    def unedited(self) -> EditRow:
        return EditRow(EditSetting(), {}, self.before, None)

    def records(self) -> list[dict[str, Any]]:
        """A row for each edit, as plain values: before it, as predicted, and after it."""
        found = []
        for row in self.rows:
            one = {"edit": row.setting.label, **asdict(row.setting), "neurons": row.neurons}
            for name in MEASURES:
                one[f"{name}_before"] = self.before.get(name)
                if name in PREDICTED:
                    one[f"{name}_predicted"] = row.predicted.get(name)
                one[f"{name}_after"] = row.after.get(name)
            found.append(one | {"refused": row.refused})
        return found

    def _facts(self) -> Mapping[str, Any]:
        refused = sum(row.refused is not None for row in self.rows)
        before = {MEASURES[name]: self.before.get(name) for name in _BRIEFLY}
        return {
            "": self.result.provenance.about,
            "edits": len(self.rows),
            "refused": refused or None,
            **{f"{name} before": value for name, value in before.items()},
        }

    def _preview(self) -> Any:
        return self.table[["edit", *(f"{name}_after" for name in _BRIEFLY)]]

    def to_dataframe(self) -> pd.DataFrame:
        """A row for each edit: each measure before it, as predicted and after it, in nats."""
        return self.table

    @cached_property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(self.records())


def passes_left(settings: Sequence[EditSetting], out: Path) -> int:
    """How many times both texts are still to be run through the model."""
    rows = sum(not (out / ROWS / f"{setting.slug}.json").is_file() for setting in settings)
    return rows + (not (out / UNEDITED).is_dir())


def sweep_edits(
    model: HookedModel,
    settings: Sequence[EditSetting],
    out: Path,
    batches: KeptBatches,
    held_out: KeptBatches,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> EditSweep:
    """Measure every edit that has no row yet."""
    texts = {"corpus": batches.content_hash, "held-out corpus": held_out.content_hash}
    origin = origin_of(model, **texts)

    def measure() -> Effects:
        return measure_effects(model, batches, held_out, on_batch=on_batch)

    folder = out / UNEDITED
    if not folder.is_dir():
        found = measure()
        assert found.held_out is not None
        documents = found.held_out.documents
        read = HeldOut(held_out.corpus.name, held_out.content_hash, documents, held_out.tokens)
        facts = {"origin": origin, "held_out": asdict(read), "totals": _finite(found.totals())}
        with output_folder(folder) as partial:
            found.entropies.save(partial)
            write_whole(partial / _FACTS, json_text(facts, _FACTS, indent=2) + "\n")
    result, facts = load_result(folder), _read(folder / _FACTS, origin)
    (out / ROWS).mkdir(exist_ok=True)
    rows = []
    for setting in settings:
        path = out / ROWS / f"{setting.slug}.json"
        if not path.is_file():
            row = _measured(model, setting, result, measure)
            content = {"origin": origin} | asdict(row)
            write_whole(path, json_text(content, f"{path}", indent=2) + "\n")
        kept = _read(path, origin)
        if {"own": None} | kept.get("setting", {}) != asdict(setting):
            raise ValueError(f"{path} is of another edit than its name says; remove it and go on")
        row = EditRow(**kept | {"setting": setting})
        if setting.own is not None and row.described != _described(setting.edit(result, model)):
            raise ValueError(
                f"{path} was measured with another {setting.own}; remove it and go on, or give "
                "the edit another name"
            )
        rows.append(row)
    return EditSweep(result, HeldOut(**facts["held_out"]), facts["totals"], tuple(rows))


def _measured(
    model: HookedModel, setting: EditSetting, result: EntropyResult, measure: Callable[[], Effects]
) -> EditRow:
    edit = setting.edit(result, model)
    described = None if setting.own is None else _described(edit)
    neurons, predicted = None, Totals()
    if isinstance(edit, Resuscitation):
        neurons = int((edit.multipliers() != 1).sum())
        if (closed := edit.predicted_entropy()) is not None:
            predicted = dict(zip(PREDICTED, (closed.total, closed.contribution_total), strict=True))
    # What is wrong with the texts was found out on the unedited model: the edit is to blame.
    try:
        with _made(model, edit, in_weights=setting.own is not None):
            found = measure()
        after = _finite(found.totals() | _contribution(found.entropies, edit))
        return EditRow(setting, predicted, after, neurons, described=described)
    except ValueError as error:
        return EditRow(setting, predicted, {}, neurons, str(error), described)


@contextmanager
def _made(model: HookedModel, edit: Edit, *, in_weights: bool) -> Iterator[None]:
    """Around a measurement of an edit. In weights, where it can be: the norms of memory vectors,
    which contributions are measured with, are those that weights have.
    """
    if not in_weights or not _fits_weights(model, edit):
        with applied(model, edit):
            yield
        return
    report = patch_weights(model, edit)
    try:
        yield
    finally:
        report.undo()


def _fits_weights(model: HookedModel, edit: Edit) -> bool:
    try:
        edit.weight_changes(model)
    except ValueError:
        return False
    return True


def _described(edit: Edit) -> dict[str, Any]:
    return json.loads(json.dumps(edit.describe()))


def _finite(totals: Totals) -> Totals:
    for name, value in totals.items():
        if value is not None and not isfinite(value):
            raise ValueError(
                f"{name.replace('_', ' ')} is {value}: what the model computes is too "
                "large for its type; try another dtype"
            )
    return totals


def _contribution(found: EntropyResult, edit: Edit) -> Totals:
    """Contribution entropy where hooks scale memory vectors, whose norms in the weights stay."""
    sides = {ResuscitationSite.DOWN: 1, ResuscitationSite.PRESERVING: -1}
    if not isinstance(edit, Resuscitation) or edit.at not in sides:
        return {}
    assert found.contribution is not None
    means = found.contribution.mean_coefficients * edit.multipliers() ** sides[edit.at]
    return {"contribution_entropy": float(knowledge_entropy(means).sum())}


def _read(path: Path, origin: Origin) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        before = read.pop("origin")
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no measurement of an edit; remove it and go on") from error
    refuse_another(path, before, origin)
    return read
