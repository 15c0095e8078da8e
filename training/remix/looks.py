"""What a chain observes: the items of all its stages, what else it may lose, and what comes back.

Items of every stage are asked for in every stage, by the letters of the stages, so that the curve
of stage A goes on through the later ones; of factoids that the base knew those of the set of stage
A too, as `familiar`. Everything is evaluated before the first step and after the last one.

Gradients are compared between samples of the items of every stage and, as `M`, of the mix; they and
the drift of the weights refer to the weights that the stage begins with, edits in them included.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from interventions.edits import patch_weights
from probes.hooked_model import HookedModel
from probes.json_text import json_text
from probes.tables import print_tables
from training.data.rendering import Rendered
from training.edit_settings import RunEdits
from training.gradients import GradientAlignmentObserver, gradient_sample
from training.observers import Cadence, Observer
from training.processes import this_process
from training.recall import Match, RecallItem, RecallObserver
from training.relearning import Relearned, relearn
from training.remix.config import RemixConfig
from training.remix.items import StageBatches, StageItems, load_set, rendered
from training.remix.recipes import left_over
from training.runs.durable_files import one_line_for_disk_errors, write_whole
from training.runs.records import (
    EntropyRecord,
    PerplexityRecord,
    RecallRecord,
    Record,
    ScoresRecord,
    TaskRecord,
    read_records,
)
from training.runs.tables import Row, items_of, nats, observed, rows_table, share
from training.single_run import ObserverSet
from training.stages import ChainResult, ReadyStage, stage_folder
from training.start_models import CLOZE, Start
from training.weight_drift import WeightDriftObserver, Weights, start_weights

MIX_SAMPLE = "M"
FAMILIAR = "familiar"
"""The list of factoids that the start knew."""
_WRITTEN = (Match.STRICT, Match.ALIASES)


@dataclass(frozen=True)
class StageObservers:
    """The observers of a stage.

    Attributes:
        at_function: of what the model computes, before it is edited as well.
        at_weights: of how it is trained.
        inputs: what is observed, for the manifest.
    """

    at_function: Sequence[Observer]
    at_weights: Sequence[Observer]
    inputs: dict[str, object]

    @property
    def observers(self) -> list[Observer]:
        """All of them."""
        return [*self.at_function, *self.at_weights]


def stage_observers(
    config: RemixConfig,
    place: int,
    model: HookedModel,
    start: Start,
    items: Sequence[StageItems],
    batches: StageBatches,
    edits: RunEdits,
) -> StageObservers:
    """The observers of a stage."""
    often = Cadence(at=batches.at_epochs(config.recall_every), last=batches.steps)
    seldom = Cadence(at=batches.at_epochs(config.evaluate_every), last=batches.steps)
    found = ObserverSet()
    for name, asked, are_factoids in _lists(config, items):
        found.observers.append(RecallObserver(name, asked, often))
        if config.generation and are_factoids:
            found.observers.append(RecallObserver(name, asked, seldom, how=_WRITTEN))
    found.add_evaluation(config, model.tokenizer, start, seldom, row_length=config.row_length)
    at_weights = _at_weights(config, place, model, items, batches, edits)
    return StageObservers(found.observers, at_weights, found.inputs)


def _lists(
    config: RemixConfig, items: Sequence[StageItems]
) -> Iterator[tuple[str, Sequence[RecallItem], bool]]:
    """The lists of items that are asked for, and whether they are factoids."""
    for name, one in zip(config.names, items, strict=True):
        yield name, one.asked, one.factoids is not None
        if one.familiar:
            yield FAMILIAR, one.familiar, True


def _at_weights(
    config: RemixConfig,
    place: int,
    model: HookedModel,
    items: Sequence[StageItems],
    batches: StageBatches,
    edits: RunEdits,
) -> list[Observer]:
    """Observers of gradients and weights, which are compared with those at the beginning."""
    if not config.drift and config.gradient_every is None:
        return []
    beginning = _beginning(model, edits)
    found: list[Observer] = []
    if config.drift:
        seldom = Cadence(at=batches.at_epochs(config.evaluate_every), last=batches.steps)
        found.append(WeightDriftObserver(beginning, seldom))
    if config.gradient_every is not None:
        count = config.gradient_items
        samples = [
            gradient_sample(name, one.rows[:count])
            for name, one in zip(config.names, items, strict=True)
        ]
        if items[place].mix_rows:
            samples.append(gradient_sample(MIX_SAMPLE, items[place].mix_rows[:count]))
        cadence = Cadence(at=batches.at_epochs(config.gradient_every), last=batches.steps)
        if len(samples) > 1:
            found.append(GradientAlignmentObserver(samples, cadence, beginning))
    return found


def _beginning(model: HookedModel, edits: RunEdits) -> Weights:
    """The weights that the stage begins with, edits in them included."""
    if not edits.weights:
        return start_weights(model)
    report = patch_weights(model, *edits.weights)
    try:
        return start_weights(model)
    finally:
        report.undo()


RELEARNING_FILE = "relearning.json"


def write_relearning(
    config: RemixConfig,
    model: HookedModel,
    items: StageItems,
    untaught: Sequence[Rendered],
    path: Path,
) -> None:
    """Teach a few items of stage A again, on a copy of the weights, and
    write down what comes back.
    """
    assert config.relearning_steps is not None
    curve = relearn(
        model,
        items.rows[: config.stages[0].items],
        count=config.relearning_items,
        steps=config.relearning_steps,
        learning_rate=config.stages[0].learning_rate,
        batch_size=min(config.batch_size, config.relearning_items),
        seed=config.seed,
        never_taught=untaught,
    )
    groups = [group for group in Relearned if group in curve.groups]
    content = {
        "configuration": curve.configuration,
        "groups": [str(group) for group in curve.groups],
        "identifiers": list(curve.identifiers),
        "exact_match": {group: curve.exact_match(group).tolist() for group in groups},
        "log_prob": {group: curve.mean_log_prob(group).tolist() for group in groups},
        "spill_over": curve.spill_over,
        "correct": curve.correct.int().tolist(),
        "log_probs": curve.log_probs.tolist(),
    }
    if this_process().is_first:
        with one_line_for_disk_errors(f"writing {path}"):
            write_whole(path, json_text(content, f"{path}") + "\n")


def refuse_relearning(config: RemixConfig, items: StageItems) -> None:
    """Make sure before the first step that some items can be taught again and others asked."""
    count, there = config.relearning_items, len(items.rows[: config.stages[0].items])
    if config.relearning_steps is not None and count >= there:
        most = f"{there - 1} or fewer" if there > 1 else "--relearning-steps None"
        raise ValueError(
            f"--relearning-items asks for {count} of the {there} items of stage A, and others have "
            f"to be left to be asked; give {most}"
        )


def never_taught(config: RemixConfig, tokenizer: Any) -> Sequence[Rendered]:
    """Items of the set of stage A after all that any stage learns of it, as many as asked for."""
    wanted, data = config.relearning_never_taught, config.data[0]
    if not wanted or config.relearning_steps is None:
        return ()
    there = left_over(config, wanted)
    if there < wanted:
        raise ValueError(
            f"--relearning-never-taught asks for {wanted:,} items of {data} that no stage learns, "
            f"which has {there:,}; ask for {there:,} or fewer"
        )
    taught = sum(stage.items for stage in config.stages if stage.data == data)
    return rendered(
        config, load_set(config, data, limit=wanted, offset=taught).conversations, tokenizer
    )


Overlap = Mapping[str, Mapping[str, Mapping[str, int]]]
TOKENS = "tokens"
"""The match of recall by teacher forcing."""
_RECALL = "items answered exactly, and log-probability of whole answers in nats"
_OTHERS = "everything else: losses and entropies in nats"
_EVALUATIONS = (RecallRecord, PerplexityRecord, TaskRecord, ScoresRecord, EntropyRecord)


def print_beginning(
    config: RemixConfig, model: str, items: Sequence[StageItems], overlap: Overlap
) -> None:
    """Say what is about to be trained, and which of it the mixes hold."""
    print(f"model: {model}")
    for stage, one in zip(config.stages, items, strict=True):
        mix = "" if one.mix is None else f"; {one.mix.name}: {len(one.mix_rows):,} items"
        left_out = len(one.rows.too_long)
        too_long = f" ({left_out} too long and left out)" if left_out else ""
        print(f"stage {stage.name}: {len(one.rows):,} items of {stage.data}{too_long}{mix}")

    for name, found in overlap.items():
        for learnt, counts in found.items():
            if counts["answers"]:
                print(
                    f"the mix of stage {name} holds {counts['answers']} of the "
                    f"{counts['factoids']:,} answers of D_{learnt}, {counts['pairs']} of them "
                    "beside their subject"
                )


def print_stage(name: str, ready: ReadyStage) -> None:
    """Say that a stage begins."""
    most = "" if ready.stop is None else "at most "
    print(f"stage {name}: {most}{ready.settings.steps:,} steps")


def print_remix(out: Path, names: Sequence[str], result: ChainResult) -> None:
    """Print what was answered and scored after every stage, how each ended, and where it all is."""
    folders = {outcome.name: outcome.folder for outcome in result.outcomes}
    columns = {0: "base", **{n: f"after {name}" for n, name in enumerate(folders, start=1)}}
    if result.unfinished is not None and result.unfinished[1]:
        name = result.unfinished[0]
        columns[len(columns)] = f"in {name}"
        folders[name] = stage_folder(out, name)
    seen = [record for n, path in enumerate(folders.values()) for record in _moved(path, n)]
    tables = [rows_table(_recall_rows(seen, names), columns, _RECALL)]
    items = items_of(next(iter(folders.values())), seen, [CLOZE])
    if rows := observed(seen, items):
        tables.append(rows_table(rows, columns, _OTHERS))
    print_tables(tables)
    for outcome in result.outcomes:
        print(outcome.sentence)
    if result.unfinished is not None:
        name, steps = result.unfinished
        print(f"stopped in stage {name} after {steps:,} steps; go on with --resume")
    print(f"run: {out}")


def _moved(folder: Path, place: int) -> Iterator[Record]:
    """Records of the end of a stage, at the place after its own, and of the first its beginning."""
    seen = [record for record in read_records(folder) if isinstance(record, _EVALUATIONS)]
    last = max(record.step for record in seen)
    for record in seen:
        if record.step == 0 and place == 0:
            yield replace(record, step=0)
        if record.step == last:
            yield replace(record, step=place + 1)


def _recall_rows(seen: Iterable[Record], names: Sequence[str]) -> list[Row]:
    """Exact match, by teacher forcing and otherwise, and log-probabilities of every list."""
    rows: dict[str, Row] = {}
    for record in seen:
        if not isinstance(record, RecallRecord):
            continue
        what = f"D_{record.items}" if record.items in names else record.items
        about = what if record.match == TOKENS else f"  {what}, {record.match}"
        rows.setdefault(about, Row(about, share)).values[record.step] = fmean(record.correct)
        if record.log_probs is not None:
            row = rows.setdefault(f"{what} log p", Row("  log p", nats))
            row.values[record.step] = fmean(record.log_probs)
    return list(rows.values())
