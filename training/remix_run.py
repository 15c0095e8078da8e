"""What `training.remix` does: a base model, stages one after the other, and what they observe.

A run that goes on makes everything again from the same seeds; manifests hold hashes of it. Items of
every stage are asked for in all stages. Gradients are compared between samples of the items of each
stage and, as `M`, of the mix; they and drift refer to the edited weights that a stage begins with.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from interventions.attention_temperature import AttentionTemperature
from interventions.choices import Schedule
from interventions.controls import MostActiveRows, RandomRows
from interventions.edit_forms import Edit
from interventions.edits import applied, patch_weights
from interventions.resuscitation import Resuscitation
from probes.hooked_model import HookedModel
from probes.shown import print_tables
from training.choices import Replay, StopWhen, Tracker
from training.data.rendering import Rendered
from training.edit_settings import RunEdits, edits_of, write_baseline
from training.gradients import GradientAlignmentObserver, gradient_sample
from training.observers import Cadence, Observer
from training.options import EvaluationFields
from training.processes import joined_processes, this_process
from training.recall import Match, RecallObserver
from training.recipes import NOT_DECISIVE, as_json, from_json
from training.relearning import relearn
from training.remix_config import (
    FAMILIAR,
    MIX_SAMPLE,
    RELEARNING_FILE,
    ObservationFields,
    RemixConfig,
    StageConfig,
)
from training.remix_items import (
    StageBatches,
    StageItems,
    fitted,
    never_taught,
    overlaps,
    refuse_no_batches,
    refuse_relearning,
    stage_batches,
    stage_items,
)
from training.runs.directory import (
    MANIFEST_FILE,
    RunDirectory,
    is_finished,
    read_manifest,
    refuse_other_inputs,
    refuse_taken,
    tokenizer_hash,
)
from training.runs.records import write_json
from training.runs.tables import ends_of_stages, items_of, observed, recall_rows, rows_table
from training.settings import Misfits
from training.single_run import ObserverSet
from training.stages import (
    OUTCOME_FILE,
    ChainIdentity,
    ChainResult,
    ReadyStage,
    Stage,
    finished_chain,
    read_outcome,
    run_stages,
    stage_folder,
)
from training.start_or_resume import CLOZE, Start, find_base, tried
from training.stop_rules import AllOf, ExactMatchReached, LossBelow, Rule, released_loss_rule
from training.weight_drift import WeightDriftObserver, start_weights

_MAY_DIFFER = {
    *(field.name for kind in (ObservationFields, EvaluationFields) for field in fields(kind)),
    *NOT_DECISIVE,
    *("from_stage_a", "require_reached", "familiarity_cache"),
}
_RECALL = "items answered exactly, and log-probability of whole answers in nats"
_OTHERS = "everything else: losses and entropies in nats"


def run_remix(
    config: RemixConfig,
    out: Path,
    recipe_config: RemixConfig,
    *,
    recipe: str,
    resume: bool = False,
    seconds: float | None = None,
    track: Tracker | None = None,
) -> None:
    """Train stage after stage, and print what was learnt and what was lost."""
    with joined_processes() as here:
        if here.is_first:
            refuse_taken(out, resume=resume)
        config, lines = fitted(config, recipe_config)
        if here.is_first:
            print("\n".join(lines), end="\n" * bool(lines))
        # Settings are compared at once; then everything is made again, and compared.
        is_finished(out, config, resume=resume)
        chain = Chain(config, out)
        identity = ChainIdentity(
            command="training.remix", recipe=recipe, configuration=config, inputs=chain.inputs
        )
        if (result := finished_chain(out, identity)) is not None:
            chain.refuse_changed()
        else:
            if here.is_first:
                chain.print_beginning()
            result = run_stages(
                chain.stages(),
                out,
                chain.start,
                identity,
                resume=resume,
                time_limit=seconds,
                require_reached=config.require_reached,
                track=track,
                on_stage=_print_stage,
                at_end=chain.relearn,
            )
        if here.is_first:
            print_remix(out, config.names, result)


def try_remix(config: RemixConfig, recipe: RemixConfig, out: Path | None) -> tuple[str, ...]:
    """Try all that a chain needs, stage by stage on its base, up to a checkpoint of each, without
    training; returns what the recipe's numbers were changed to.
    """
    config, lines = fitted(config, recipe)
    with joined_processes():
        chain = Chain(config, Path() if out is None else out)
        for wanted, stage in zip(config.stages, chain.stages(), strict=True):
            # What a trained model would write for itself is not there, nor a stage made elsewhere.
            if wanted.replay is Replay.SELF or stage.done_in is not None:
                continue
            model = chain.beginning(0)
            ready = stage.prepare(model)
            ready.edit()
            tried(
                model,
                ready.source,
                ready.settings,
                out,
                edits=ready.edits,
                optimizer_edits=ready.optimizer_edits,
                observers=ready.observers,
                stop=ready.stop,
            )
    return lines


class Chain:
    """A base model, the items of every stage, and the stages that are made of them."""

    def __init__(self, config: RemixConfig, out: Path) -> None:
        self._config, self._out = config, out
        self.start = find_base(config.model, config.revision)
        model = self.start.load(config)
        self.model_name = model.name
        misfits, evaluated = Misfits(), ObserverSet()
        self.items: list[StageItems] = []
        for stage in config.stages:
            with misfits.noted():
                self.items.append(stage_items(config, stage, model))
        if not misfits.found:
            with misfits.noted():
                refuse_relearning(config, self.items[0])
            # Those of later stages would be found out when the earlier ones are trained.
            for place in range(len(config.stages)):
                with misfits.noted():
                    refuse_no_batches(config, place, self.items, model)
        with misfits.noted():
            self._untaught = never_taught(config, model.tokenizer)
        misfits.check(
            lambda: evaluated.add_evaluation(
                config, model.tokenizer, self.start, Cadence(), row_length=config.row_length
            )
        )
        self._evaluated = evaluated.inputs
        by_name = dict(zip(config.names, self.items, strict=True))
        self.inputs: dict[str, Any] = {
            "start_sha256": model.content_hash(),
            "tokenizer_sha256": tokenizer_hash(model.tokenizer),
            "stages": {name: one.inputs for name, one in by_name.items()},
            "overlap": overlaps(by_name),
        }
        self._stage_a: Path | None = None
        if config.from_stage_a is not None:
            self._stage_a, shared = _shared_stage(config, self.inputs["start_sha256"])
            self.inputs["from_stage_a"] = shared
        self._edited_at = config.names.index(config.edit_before)
        self._measured: RunEdits | None = None

    def stages(self) -> list[Stage]:
        return [
            Stage(
                name=stage.name,
                prepare=partial(self._prepare, place),
                optimizer=stage.optimizer,
                done_in=self._stage_a if place == 0 else None,
            )
            for place, stage in enumerate(self._config.stages)
        ]

    def refuse_changed(self) -> None:
        """Refuse finished stages that were evaluated on other texts, or edited otherwise."""
        for place, name in enumerate(self._config.names):
            now, folder = dict(self._evaluated), stage_folder(self._out, name)
            if self._config.is_edited and place == self._edited_at:
                now["edits"] = self._edits(place, self.beginning(place)).describe()
            if (folder / MANIFEST_FILE).is_file():
                stored = read_manifest(folder)
                inputs = {**stored["inputs"], **now}
                refuse_other_inputs(folder, {**stored, "inputs": inputs})

    def beginning(self, place: int) -> HookedModel:
        if place == 0:
            return self.start.load(self._config)
        folder = stage_folder(self._out, self._config.names[place - 1])
        if place == 1 and self._stage_a is not None:
            folder = self._stage_a
        return Start(str(read_outcome(folder).checkpoint)).load(self._config)

    def print_beginning(self) -> None:
        """Say what is about to be trained, and which of it the mixes hold."""
        print(f"model: {self.model_name}")
        for stage, one in zip(self._config.stages, self.items, strict=True):
            mix = "" if one.mix is None else f"; {one.mix.name}: {len(one.mix_rows):,} items"
            left_out = len(one.rows.too_long)
            too_long = f" ({left_out} too long and left out)" if left_out else ""
            print(f"stage {stage.name}: {len(one.rows):,} items of {stage.data}{too_long}{mix}")
        for name, found in self.inputs["overlap"].items():
            for learnt, counts in found.items():
                if counts["answers"]:
                    print(
                        f"the mix of stage {name} holds {counts['answers']} of the "
                        f"{counts['factoids']:,} answers of D_{learnt}, {counts['pairs']} of them "
                        "beside their subject"
                    )

    def relearn(self, checkpoint: Path) -> None:
        """Teach a few items of stage A again, on a copy, and write down what comes back."""
        config = self._config
        if config.relearning_steps is None:
            return
        model = Start(str(checkpoint)).load(config)
        staying = self._edits(len(config.stages), model)
        with applied(model, *staying.hooks, check=False):
            curve = relearn(
                model,
                self.items[0].rows[: config.stages[0].items],
                count=config.relearning_items,
                steps=config.relearning_steps,
                learning_rate=config.stages[0].learning_rate,
                batch_size=min(config.batch_size, config.relearning_items),
                seed=config.seed,
                never_taught=self._untaught,
            )
        if this_process().is_first:
            write_json(self._out / RELEARNING_FILE, curve.as_json(), indent=None)

    def _prepare(self, place: int, model: HookedModel) -> ReadyStage:
        config, stage = self._config, self._config.stages[place]
        batches = stage_batches(config, place, self.items, model)
        edits = self._edits(place, model)
        of_function, of_weights, inputs = self._observers(place, model, batches, edits)

        def begin(directory: RunDirectory) -> None:
            """Evaluate the stage's model before it is edited."""
            if edits.all and place == self._edited_at:
                write_baseline(model, of_function, directory)

        return ReadyStage(
            source=batches.source,
            settings=config.settings(stage, batches.steps),
            stop=stage_rule(config, stage),
            observers=[*of_function, *of_weights],
            edits=edits.hooks,
            optimizer_edits=edits.optimizer,
            inputs={
                "batches": {**batches.source.describe(), **batches.inputs},
                "edits": edits.describe(),
                **inputs,
            },
            begin=begin,
            edit=partial(edits.write, model),
        )

    def _observers(
        self, place: int, model: HookedModel, batches: StageBatches, edits: RunEdits
    ) -> tuple[list[Observer], list[Observer], dict[str, Any]]:
        """Observers of what the model computes and of its weights, and what they observe."""
        config, found = self._config, ObserverSet()

        def cadence(every: int | None) -> Cadence:
            """The ends of every so-manyth epoch."""
            at = () if every is None else batches.epoch_ends[every - 1 :: every]
            return Cadence(at=at, last=batches.steps)

        often, seldom = cadence(config.recall_every), cadence(config.evaluate_every)
        for name, one in zip(config.names, self.items, strict=True):
            lists = [(name, one.asked, one.factoids is not None), (FAMILIAR, one.familiar, True)]
            for label, asked, are_factoids in lists:
                if asked:
                    found.observers.append(RecallObserver(label, asked, often))
                if asked and config.generation and are_factoids:
                    how = (Match.STRICT, Match.ALIASES)
                    found.observers.append(RecallObserver(label, asked, seldom, how=how))
        found.add_evaluation(
            config, model.tokenizer, self.start, seldom, row_length=config.row_length
        )
        of_weights: list[Observer] = []
        if config.drift or config.gradient_every is not None:
            # The weights that the stage begins with, edits in them included.
            report = patch_weights(model, *edits.weights) if edits.weights else None
            try:
                beginning = start_weights(model)
            finally:
                if report is not None:
                    report.undo()
            if config.drift:
                of_weights.append(WeightDriftObserver(beginning, seldom))
        if config.gradient_every is not None:
            rows: list[tuple[str, Sequence[Rendered]]] = [
                (name, one.rows) for name, one in zip(config.names, self.items, strict=True)
            ]
            if self.items[place].mix_rows:
                rows.append((MIX_SAMPLE, self.items[place].mix_rows))
            samples = [gradient_sample(name, own[: config.gradient_items]) for name, own in rows]
            when = cadence(config.gradient_every)
            if len(samples) > 1:
                of_weights.append(GradientAlignmentObserver(samples, when, beginning))
        return found.observers, of_weights, found.inputs

    def _edits(self, place: int, model: HookedModel) -> RunEdits:
        config = self._config
        if place < self._edited_at or not config.is_edited:
            return RunEdits()
        if self._measured is None:
            self._measured = edits_of(
                config,
                model if place == self._edited_at else self.beginning(self._edited_at),
                seed=config.seed,
                row_length=config.row_length,
                watched=this_process().is_first,
            )
        return self._measured if place == self._edited_at else _later(self._measured)


def stage_rule(config: RemixConfig, stage: StageConfig) -> Rule | None:
    """What ends a stage before its last step; None for nothing, and for a control."""
    if stage.control is not None:
        return None
    loss = LossBelow(config.loss_threshold, source=stage.name, patience=config.patience)
    match = ExactMatchReached(stage.name, share=config.exact_match, patience=config.patience)
    rules = {
        StopWhen.EPOCHS: None,
        StopWhen.LOSS: loss,
        StopWhen.EXACT_MATCH: match,
        StopWhen.LOSS_AND_EXACT_MATCH: AllOf(loss, match),
        StopWhen.RELEASED: released_loss_rule(),
    }
    return rules[stage.stop]


def _later(edits: RunEdits) -> RunEdits:
    """What of edits stays on in later stages: hooks, but for a schedule that has come to its end,
    with the same multipliers on weights that have been trained since they were measured.
    """
    kept: list[Edit] = []
    for edit in edits.hooks:
        if isinstance(edit, AttentionTemperature) and edit.schedule == Schedule.LINEAR:
            continue
        if isinstance(edit, Resuscitation):
            edit = replace(edit, model_hash=None)
        elif isinstance(edit, RandomRows | MostActiveRows):
            edit = replace(edit, like=replace(edit.like, model_hash=None))
        kept.append(edit)
    return replace(edits, hooks=tuple(kept), weights=())


def _shared_stage(config: RemixConfig, start_hash: str) -> tuple[Path, dict[str, Any]]:
    """The folder of stage A of the other run, and what identifies it, for the manifest."""
    given, first = config.from_stage_a, config.names[0]
    assert given is not None
    folder = given if (given / OUTCOME_FILE).is_file() else stage_folder(given, first)
    outcome, manifest = read_outcome(folder), read_manifest(folder)
    if outcome.name != first:
        raise ValueError(f"{folder} holds stage {outcome.name}; give a run, or its stage A")
    stored = from_json(RemixConfig, {**manifest["configuration"], **manifest["execution"]})
    theirs, ours = as_json(stored.stage_a()), as_json(config.stage_a())
    for name in ours:
        if name not in _MAY_DIFFER and theirs[name] != ours[name]:
            raise ValueError(
                f"{folder} is of a run with another {name}: {theirs[name]} there, {ours[name]} "
                "here; give a run whose stage A is the same"
            )
    if manifest["inputs"]["start_sha256"] != start_hash:
        raise ValueError(
            f"{folder} began with other weights than {config.model} has; give a run from this model"
        )
    checkpoint = outcome.checkpoint.name
    return folder, {"run": str(given), "checkpoint": checkpoint, "inputs": manifest["inputs"]}


def _print_stage(name: str, ready: ReadyStage) -> None:
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
    seen = list(ends_of_stages(folders.values()))
    tables = [rows_table(recall_rows(seen, names), columns, _RECALL)]
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
