"""What `training.remix` does: a start, and stages one after the other.

Everything is made again when a run goes on, from the same seeds; manifests hold hashes of it all.
"""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import probes
from interventions.attention_temperature import AttentionTemperature
from interventions.choices import Schedule
from interventions.controls import MostActiveRows, RandomRows
from interventions.edit_forms import Edit
from interventions.edits import applied
from interventions.resuscitation import Resuscitation
from probes.hooked_model import HookedModel
from probes.prompts import set_bos_habit
from training.choices import StopWhen
from training.edit_settings import RunEdits, edits_of, write_baseline
from training.observers import Cadence
from training.processes import joined_processes, this_process
from training.recipes import NOT_DECISIVE, EvaluationFields, as_json, from_json
from training.remix.config import ObservationFields, RemixConfig, StageConfig
from training.remix.items import StageItems, overlaps, refuse_no_batches, stage_batches, stage_items
from training.remix.looks import (
    RELEARNING_FILE,
    StageObservers,
    never_taught,
    print_beginning,
    print_remix,
    print_stage,
    refuse_relearning,
    stage_observers,
    write_relearning,
)
from training.remix.recipes import REMIX_RECIPES, fitted
from training.run_setup import tried
from training.runs.directory import (
    DONE_FILE,
    MANIFEST_FILE,
    RunDirectory,
    read_manifest,
    refuse_other_inputs,
    refuse_taken,
    tokenizer_hash,
)
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
    refuse_other_settings,
    run_stages,
    stage_folder,
)
from training.start_models import find_base
from training.stop_rules import AllOf, ExactMatchReached, LossBelow, Rule, released_loss_rule

FIRST = "A"
_MAY_DIFFER = {
    *(field.name for kind in (ObservationFields, EvaluationFields) for field in fields(kind)),
    *NOT_DECISIVE,
    *("from_stage_a", "require_reached", "familiarity_cache"),
}


def shared_stage(config: RemixConfig, start_hash: str) -> tuple[Path, dict[str, Any]]:
    """Where stage A of the other run is, and what identifies it, for the manifest."""
    assert config.from_stage_a is not None
    folder = _stage_folder(config.from_stage_a)
    outcome, manifest = read_outcome(folder), read_manifest(folder)
    if outcome.name != FIRST:
        raise ValueError(f"{folder} holds stage {outcome.name}; give a run, or its stage A")
    stored = {**manifest["configuration"], **manifest["execution"]}
    theirs, ours = _decisive(from_json(RemixConfig, stored)), _decisive(config)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"{folder} is of a run with another {name}: {theirs[name]} there, {value} here; "
                "give a run whose stage A is the same"
            )
    if manifest["inputs"]["start_sha256"] != start_hash:
        raise ValueError(
            f"{folder} began with other weights than {config.model} has; give a run from this model"
        )
    return folder, {
        "run": str(config.from_stage_a),
        "checkpoint": outcome.checkpoint.name,
        "inputs": manifest["inputs"],
    }


def _stage_folder(given: Path) -> Path:
    """A stage's folder may be given, or that of its run."""
    return given if (given / OUTCOME_FILE).is_file() else stage_folder(given, FIRST)


def _decisive(config: RemixConfig) -> dict[str, Any]:
    """What decides the weights that stage A ends with."""
    plain = as_json(config.stage_a())
    return {name: value for name, value in plain.items() if name not in _MAY_DIFFER}


def stage_rule(config: RemixConfig, stage: StageConfig) -> Rule | None:
    """What ends a stage before its last step; None for nothing, and for a control."""
    if stage.control is not None:
        return None
    match stage.stop:
        case StopWhen.EPOCHS:
            return None
        case StopWhen.LOSS:
            return _loss(config, stage)
        case StopWhen.EXACT_MATCH:
            return _exact_match(config, stage)
        case StopWhen.LOSS_AND_EXACT_MATCH:
            return AllOf(_loss(config, stage), _exact_match(config, stage))
        case StopWhen.RELEASED:
            return released_loss_rule()


def _loss(config: RemixConfig, stage: StageConfig) -> LossBelow:
    return LossBelow(config.loss_threshold, source=stage.name, patience=config.patience)


def _exact_match(config: RemixConfig, stage: StageConfig) -> ExactMatchReached:
    return ExactMatchReached(stage.name, share=config.exact_match, patience=config.patience)


class ChainEdits:
    """The edits of every stage of a chain."""

    def __init__(
        self,
        config: RemixConfig,
        load_beginning: Callable[[int], HookedModel],
        *,
        watched: bool = True,
    ) -> None:
        self._config = config
        self._load_beginning = load_beginning
        self._watched = watched
        self._first = config.names.index(config.edit_before)
        self._measured: RunEdits | None = None

    def of(self, place: int, model: HookedModel) -> RunEdits:
        """The edits of a stage."""
        if place < self._first or not self._config.is_edited:
            return RunEdits()
        if place == self._first and self._measured is None:
            self._measured = self._edits_of(model)
        return self._found() if place == self._first else _later(self._found())

    def staying(self) -> tuple[Edit, ...]:
        """The hooks that stay on after the last stage."""
        return _later(self._found()).hooks if self._config.is_edited else ()

    def _found(self) -> RunEdits:
        """As they were measured, before whichever stage."""
        if self._measured is None:
            self._measured = self._edits_of(self._load_beginning(self._first))
        return self._measured

    def _edits_of(self, model: HookedModel) -> RunEdits:
        return edits_of(
            self._config,
            model,
            seed=self._config.seed,
            row_length=self._config.row_length,
            watched=self._watched,
        )


def _later(edits: RunEdits) -> RunEdits:
    """What of edits stays on in later stages."""
    kept = tuple(_of_any_weights(edit) for edit in edits.hooks if not _has_ended(edit))
    return replace(edits, hooks=kept, weights=())


def _has_ended(edit: Edit) -> bool:
    return isinstance(edit, AttentionTemperature) and edit.schedule == Schedule.LINEAR


def _of_any_weights(edit: Edit) -> Edit:
    """The same multipliers on weights that have been trained since they were measured."""
    if isinstance(edit, Resuscitation):
        return replace(edit, model_hash=None)
    if isinstance(edit, RandomRows | MostActiveRows):
        return replace(edit, like=replace(edit.like, model_hash=None))
    return edit


PROGRAM = "training.remix"


def run_remix(
    config: RemixConfig,
    out: Path,
    *,
    recipe: str = "smoke",
    resume: bool = False,
    seconds: float | None = None,
) -> None:
    """Train stage after stage, and print what was learnt and what was lost."""
    with joined_processes() as here:
        if here.is_first:
            refuse_taken(out, resume=resume)
        config, lines = fitted(config, REMIX_RECIPES[recipe]())
        if here.is_first:
            print("\n".join(lines), end="\n" * bool(lines))
        # What can be told at once: settings. Then everything is made again, and compared.
        if (out / DONE_FILE).is_file():
            refuse_other_settings(out, config)
        result = _run(config, out, recipe, resume, seconds)
        if here.is_first:
            print_remix(out, config.names, result)


def _run(
    config: RemixConfig, out: Path, recipe: str, resume: bool, seconds: float | None
) -> ChainResult:
    chain = Chain(config, out)
    identity = ChainIdentity(
        command=PROGRAM, recipe=recipe, configuration=config, inputs=chain.inputs
    )
    if (over := finished_chain(out, identity)) is not None:
        chain.refuse_changed()
        return over
    if this_process().is_first:
        print_beginning(config, chain.model_name, chain.items, chain.inputs["overlap"])
    return run_stages(
        chain.stages(),
        out,
        chain.start,
        identity,
        resume=resume,
        time_limit=seconds,
        require_reached=config.require_reached,
        on_stage=print_stage,
        at_end=chain.relearn,
    )


def try_remix(config: RemixConfig, out: Path | None) -> None:
    """Try all that a chain needs, up to a checkpoint of its first stage, without training."""
    with joined_processes():
        chain = Chain(config, Path() if out is None else out)
        model, stage = chain.beginning(), chain.stages()[0]
        ready = stage.prepare(model)
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


class Chain:
    """A start, the items of every stage, and the stages that are made of them.

    Raises:
        ValueError: the start, a set, or the stage to go on from is not there, or not as it must be.
    """

    def __init__(self, config: RemixConfig, out: Path) -> None:
        self._config = config
        self._out = out
        self.start = find_base(config.model, config.revision)
        model = self._loaded(self.start.model, self.start.revision)
        self.model_name = model.name
        misfits = Misfits()
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
        observed = ObserverSet()
        with misfits.noted():
            observed.add_evaluation(
                config, model.tokenizer, self.start, Cadence(), row_length=config.row_length
            )
        misfits.refuse()
        self._evaluated = observed.inputs
        by_name = dict(zip(config.names, self.items, strict=True))
        self.inputs: dict[str, Any] = {
            "start_sha256": model.content_hash(),
            "tokenizer_sha256": tokenizer_hash(model.tokenizer),
            "stages": {name: one.inputs for name, one in by_name.items()},
            "overlap": overlaps(by_name),
        }
        self._stage_a: Path | None = None
        if config.from_stage_a is not None:
            self._stage_a, shared = shared_stage(config, self.inputs["start_sha256"])
            self.inputs["from_stage_a"] = shared
        self._edits = ChainEdits(config, self._beginning, watched=this_process().is_first)

    def stages(self) -> list[Stage]:
        """The stages, in order."""
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
            if self._config.is_edited and name == self._config.edit_before:
                now["edits"] = self._edits.of(place, self._beginning(place)).describe()
            if (folder / MANIFEST_FILE).is_file():
                stored = read_manifest(folder)
                inputs = {**stored["inputs"], **json.loads(json.dumps(now))}
                refuse_other_inputs(folder, {**stored, "inputs": inputs})

    def beginning(self) -> HookedModel:
        """The model that the first stage begins with, loaded anew."""
        return self._beginning(0)

    def relearn(self, checkpoint: Path) -> None:
        """Probe what the last stage has left of the first one's items, where that was asked for."""
        if self._config.relearning_steps is None:
            return
        model = self._loaded(str(checkpoint), None)
        with applied(model, *self._edits.staying(), check=False):
            write_relearning(
                self._config, model, self.items[0], self._untaught, self._out / RELEARNING_FILE
            )

    def _prepare(self, place: int, model: HookedModel) -> ReadyStage:
        config, stage = self._config, self._config.stages[place]
        batches = stage_batches(config, place, self.items, model)
        edits = self._edits.of(place, model)
        looks = stage_observers(config, place, model, self.start, self.items, batches, edits)
        return ReadyStage(
            source=batches.source,
            settings=config.settings(stage, batches.steps),
            stop=stage_rule(config, stage),
            observers=looks.observers,
            edits=edits.hooks,
            optimizer_edits=edits.optimizer,
            inputs={
                "batches": {**batches.source.describe(), **batches.inputs},
                "edits": edits.describe(),
                **looks.inputs,
            },
            begin=partial(_begin, model, edits, looks, is_new=stage.name == config.edit_before),
        )

    def _beginning(self, place: int) -> HookedModel:
        if place == 0:
            return self._loaded(self.start.model, self.start.revision)
        before = self._config.names[place - 1]
        folder = stage_folder(self._out, before)
        if place == 1 and self._stage_a is not None:
            folder = self._stage_a
        return self._loaded(str(read_outcome(folder).checkpoint), None)

    def _loaded(self, model: str, revision: str | None) -> HookedModel:
        loaded = probes.load_model(
            model, revision=revision, device=self._config.device, dtype="float32"
        )
        set_bos_habit(loaded.tokenizer, self._config.prepend_bos)
        return loaded


def _begin(
    model: HookedModel,
    edits: RunEdits,
    looks: StageObservers,
    directory: RunDirectory,
    *,
    is_new: bool,
) -> None:
    """Look at a stage's model before it is edited, and edit it."""
    if edits.all and is_new:
        write_baseline(model, looks.at_function, directory)
    edits.write(model)
