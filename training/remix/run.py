"""What `training.remix` does: a start, and stages one after the other.

Everything is made again when a run goes on, from the same seeds; manifests hold hashes of it all.
"""

from functools import partial
from pathlib import Path
from typing import Any

import probes
from interventions.edits import applied
from probes.hooked_model import HookedModel
from training.chain_folder import refuse_other_settings
from training.commands.baseline import write_baseline
from training.commands.observers import Looks
from training.commands.run_edits import RunEdits
from training.misfits import Misfits
from training.observers import Cadence
from training.processes import joined_processes, this_process
from training.remix.config import RemixConfig
from training.remix.data import refuse_no_batches, stage_batches
from training.remix.edits import ChainEdits
from training.remix.fitting import fitted
from training.remix.items import StageItems, overlaps, stage_items
from training.remix.looks import StageLooks, add_others, stage_looks
from training.remix.recipes import REMIX_RECIPES, TINY_RUN
from training.remix.relearn import (
    RELEARNING_FILE,
    never_taught,
    refuse_relearning,
    write_relearning,
)
from training.remix.rules import stage_rule
from training.remix.shared_stage import shared_stage
from training.remix.terminal import print_beginning, print_remix, print_stage
from training.runs.directory import DONE_FILE, RunDirectory
from training.runs.manifest import refuse_taken, tokenizer_hash
from training.stages import (
    ChainIdentity,
    ChainResult,
    ReadyStage,
    Stage,
    finished_chain,
    read_outcome,
    run_stages,
    stage_folder,
)
from training.start_models import Start, find_start
from training.trial import tried

PROGRAM = "training.remix"


def run_remix(
    config: RemixConfig,
    out: Path,
    *,
    recipe: str = "smoke",
    resume: bool = False,
    seconds: float | None = None,
) -> None:
    """Train stage after stage, and print what was learnt and what was lost.

    Args:
        config: the chain.
        out: its folder.
        recipe: whose settings were the defaults; for the manifest.
        resume: go on with the chain in the folder, if there is one.
        seconds: stop after so many, to go on later; None to go on to the end.

    Raises:
        ValueError: something that was asked for is not there, not possible or not allowed.
    """
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
    """Try all that a chain needs, up to a checkpoint of its first stage, without training.

    Args:
        config: the chain.
        out: where it is to go; None where that is not known yet.

    Raises:
        ValueError: something does not fit; names all of it.
    """
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

    Args:
        config: the chain.
        out: its folder.

    Raises:
        ValueError: the start, a set, or the stage to go on from is not there, or not as it must be.
    """

    def __init__(self, config: RemixConfig, out: Path) -> None:
        self._config = config
        self._out = out
        self.start = _found(config)
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
        with misfits.noted():
            add_others(Looks(), config, model, self.start, Cadence())
        misfits.refuse()
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

    def beginning(self) -> HookedModel:
        """The model that the first stage begins with, loaded anew."""
        return self._beginning(0)

    def relearn(self, checkpoint: Path) -> None:
        """Probe what the last stage has left of the first one's items, where that was asked for.

        Args:
            checkpoint: the last one.
        """
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
        looks = stage_looks(config, place, model, self.start, self.items, batches, edits)
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
        """What a stage begins with."""
        if place == 0:
            return self._loaded(self.start.model, self.start.revision)
        before = self._config.names[place - 1]
        folder = stage_folder(self._out, before)
        if place == 1 and self._stage_a is not None:
            folder = self._stage_a
        return self._loaded(str(read_outcome(folder).checkpoint), None)

    def _loaded(self, model: str, revision: str | None) -> HookedModel:
        return probes.load_model(
            model, revision=revision, device=self._config.device, dtype="float32"
        )


def _begin(
    model: HookedModel,
    edits: RunEdits,
    looks: StageLooks,
    directory: RunDirectory,
    *,
    is_new: bool,
) -> None:
    """Look at a stage's model before it is edited, and edit it."""
    if edits.all and is_new:
        write_baseline(model, looks.at_function, directory)
    edits.write(model)


def _found(config: RemixConfig) -> Start:
    if config.model == TINY_RUN and not Path(TINY_RUN).exists():
        raise ValueError(
            f"there is no {TINY_RUN}; make it with python -m training.pretrain --recipe tiny "
            f"--out {TINY_RUN}, or give another --model"
        )
    return find_start(config.model, config.revision)
