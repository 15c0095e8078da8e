"""What a stage of a chain looks at: all items that the chain learns, and what else it may lose.

Items of every stage are asked for in every stage, by the letters of the stages, so that the curve
of stage A goes on through the later ones. Everything is looked at before the first step and after
the last one, whichever that turns out to be.

Of factoids that the start knew those of the set of stage A are asked for too, as `familiar`.

Gradients are compared between samples of the items of every stage and, as `M`, of the mix; they and
the drift of the weights refer to the weights that the stage begins with, edits in them included.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interventions.edits import patch_weights
from probes.hooked_model import HookedModel
from probes.json_text import json_text
from training.commands.edit_settings import RunEdits
from training.commands.observers import Looks
from training.data.fact_world import ClozeItem, read_cloze
from training.data.rendering import Rendered
from training.gradients import GradientAlignmentObserver, gradient_sample
from training.observers import Cadence, Observer
from training.processes import this_process
from training.recall import Match, RecallItem, RecallObserver
from training.relearning import Relearned, relearn
from training.remix.config import RemixConfig
from training.remix.fitting import left_over
from training.remix.items import StageBatches, StageItems, load_set, rendered
from training.runs.durable_files import one_line_for_disk_errors, write_whole
from training.start_models import Start
from training.trial import Misfits
from training.weight_drift import WeightDriftObserver, Weights, start_weights

AUTO = "auto"
MIX_SAMPLE = "M"
FAMILIAR = "familiar"
"""The list of factoids that the start knew."""
_WRITTEN = (Match.STRICT, Match.ALIASES)


@dataclass(frozen=True)
class StageLooks:
    """Who looks at a stage.

    Attributes:
        at_function: at what the model computes, before it is edited as well.
        at_weights: at how it is trained.
        inputs: what is looked at, for the manifest.
    """

    at_function: Sequence[Observer]
    at_weights: Sequence[Observer]
    inputs: dict[str, object]

    @property
    def observers(self) -> list[Observer]:
        """All of them."""
        return [*self.at_function, *self.at_weights]


def stage_looks(
    config: RemixConfig,
    place: int,
    model: HookedModel,
    start: Start,
    items: Sequence[StageItems],
    batches: StageBatches,
    edits: RunEdits,
) -> StageLooks:
    """The observers of a stage."""
    often = Cadence(at=batches.at_epochs(config.recall_every), last=batches.steps)
    seldom = Cadence(at=batches.at_epochs(config.evaluate_every), last=batches.steps)
    looks = Looks()
    for name, asked, are_factoids in _lists(config, items):
        looks.observers.append(RecallObserver(name, asked, often))
        if config.generation and are_factoids:
            looks.observers.append(RecallObserver(name, asked, seldom, how=_WRITTEN))
    add_others(looks, config, model, start, seldom)
    at_weights = _at_weights(config, place, model, items, batches, edits)
    return StageLooks(looks.observers, at_weights, looks.inputs)


def add_others(
    looks: Looks, config: RemixConfig, model: HookedModel, start: Start, seldom: Cadence
) -> None:
    """Add what is looked at beside items and weights: text, entropies, earlier facts and tasks."""
    misfits = Misfits()
    with misfits.noted():
        looks.at_text(
            config.evaluation_corpora,
            model.tokenizer,
            seldom,
            tokens=config.evaluation_tokens,
            entropy_tokens=config.entropy_tokens,
            row_length=config.row_length,
        )
    with misfits.noted():
        looks.at_facts(_earlier_facts(config.cloze, start), seldom)
    with misfits.noted():
        looks.at_tasks(config.tasks, config.task_limit, seldom)
    misfits.refuse()


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
    """Who looks at gradients and weights, which are compared with those at the beginning."""
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


def _earlier_facts(cloze: str | None, start: Start) -> tuple[ClozeItem, ...]:
    path = start.cloze if cloze == AUTO else None if cloze is None else Path(cloze)
    return () if path is None else read_cloze(path)


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
