"""The options of `training.remix` beside the shared ones of `training.options`.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: B.4, and
the released configuration.

Example:
    >>> from training.remix import paper_llama3_8b
    >>> [(stage.name, stage.data, stage.mix) for stage in paper_llama3_8b().stages]
    [('A', 'kvr', 'random'), ('B', 'lama', 'knowledge-pile')]
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from probes.choices import Compat
from training.choices import (
    Charset,
    LossNormalisation,
    Mixing,
    NoMixControl,
    OptimizerStart,
    Packing,
    Parallel,
    Replay,
    StopWhen,
    Template,
)
from training.options import (
    BaseFields,
    Control,
    EditFields,
    EditForm,
    EvaluationFields,
    LoopFields,
    refuse_below_one,
)
from training.recipes import flag
from training.settings import LoopSettings, Misfits

NO_MIX = "none"
MIX_SAMPLE = "M"  # what the mix of a stage is called where gradients are compared
FAMILIAR = "familiar"  # the list of factoids that the base knew
RELEARNING_FILE = "relearning.json"
_AT_LEAST_ONE = (
    *("key_length", "mix_words", "max_length", "patience", "gradient_items", "relearning_items"),
    *("row_length", "evaluation_tokens", "familiarity_shots", "familiarity_items"),
    *("recall_every", "evaluate_every", "gradient_every", "relearning_steps"),
)
_OF_EACH_STAGE = ("data", "items", "mix", "mix_ratio", "epochs", "stop", "stage_learning_rates")


@dataclass(frozen=True, kw_only=True)
class StageFields:
    """What each stage learns."""

    data: tuple[str, ...]
    """Set that each stage learns, A first: kvr, another set of factoids or of instructions, or a
    file; one that is named again gives other items."""
    items: tuple[int, ...] = (2000,)
    """Items of each stage."""
    data_seed: int = 0
    """Decides which items, so that runs with another --seed learn the same."""
    charset: Charset = Charset.HEX
    """What keys and values of kvr are made of."""
    key_length: int = 8
    """Characters of a key, and of a value."""
    familiarity_items: int | None = None
    """Ask the base so many factoids of every set, few-shot: those that it answers are not trained
    on, and those of stage A are evaluated; None to ask none."""
    familiarity_shots: int = 5
    """Answered questions that stand before each of them."""
    familiarity_cache: Path | None = None
    """Folder that the base's answers are kept in, for other runs."""
    from_stage_a: Path | None = None
    """Go on from stage A of this finished run, which must be the same, instead of training it."""


@dataclass(frozen=True, kw_only=True)
class MixFields:
    """What is trained on beside it."""

    mix: tuple[str, ...] = (NO_MIX,)
    """Mix of each stage: none, random (sequences of random words), generic (passages of
    --mix-corpus), knowledge-pile, arxiv-pile or fineweb."""
    mix_ratio: tuple[float, ...] = (2.0,)
    """Size of the mix over that of the data, in each stage."""
    mix_words: int = 50
    """Words of a random sequence, and of either half of a passage."""
    mix_corpus: str = "general-train"
    """Text that generic passages are cut from."""
    mixing: Mixing = Mixing.EXAMPLE
    """example: one list, shuffled in every epoch; batch: a fixed share of every batch."""
    no_mix_control: NoMixControl | None = None
    """Leave mixes out, and train on the data alone for as many steps or tokens as with them;
    stages that would have one then go to their end whatever --stop says."""
    replay: Replay = Replay.NONE
    """What of all earlier stages is trained on again: none, their items, or self, their prompts
    with the answers that the model gives to them when the stage begins."""
    replay_ratio: float = 0.1
    """Which share of the earlier items."""


@dataclass(frozen=True, kw_only=True)
class ShowingFields:
    """How items are shown to the model."""

    template: Template = Template.TULU
    """tulu (the paper's), plain, or the tokenizer's chat template."""
    max_length: int = 2048
    """Tokens of the longest example; longer ones are left out, and counted."""
    packing: Packing = Packing.PACKED
    """packed: several examples in a row, none sees another; bucketed: one a row."""
    loss_normalisation: LossNormalisation = LossNormalisation.TOKEN
    """What the loss is a mean of: trained tokens, examples, or sources."""
    compat: Compat | None = None
    """official: as the released trainer, with pads attended and trained on, one order for all
    epochs, items that do not fill a batch left out, and prompts asked for as they were not
    trained."""


@dataclass(frozen=True, kw_only=True)
class StopFields:
    """When a stage is over, and how the next one begins."""

    epochs: tuple[int, ...] = (20,)
    """Epochs of each stage; with another --stop the most that there can be."""
    stop: tuple[StopWhen, ...] = (StopWhen.EPOCHS,)
    """What ends each stage before that: epochs (nothing), loss, exact_match,
    loss_and_exact_match, or released (the released code's)."""
    loss_threshold: float = 1e-4
    """Nats per token of the stage's own data."""
    exact_match: float = 1.0
    """Share of the stage's own items."""
    patience: int = 1
    """Updates, or evaluations, in a row."""
    require_reached: bool = False
    """End with an error where a stage gets to its last epoch before that."""
    optimizer: OptimizerStart = OptimizerStart.FRESH
    """What the optimizer of a later stage begins with: fresh, or kept from the stage before."""
    stage_learning_rates: tuple[float, ...] = ()
    """Peak of each stage; --learning-rate in all."""
    edit_before: str = "A"
    """Stage that edits are made before; hooks stay on in later ones."""


@dataclass(frozen=True, kw_only=True)
class ObservationFields:
    """What is evaluated when; always before the first step and after the last, too."""

    recall_every: int | None = 1
    """Epochs between evaluations of how many items of every stage are answered exactly; None for
    the beginning and the end of a stage alone."""
    generation: bool = True
    """Whether factoids are also answered in writing, and the texts compared."""
    evaluate_every: int | None = None
    """Epochs between evaluations of written answers, weights, text, tasks and facts; None for the
    beginning and the end of a stage alone."""
    gradient_every: int | None = None
    """Epochs between comparisons of the gradients of stages and mix; None for none."""
    gradient_items: int = 64
    """Items that each of these gradients is taken over."""
    drift: bool = True
    """Whether to measure how far weights are from those that the stage began with."""
    relearning_steps: int | None = None
    """After the last stage, teach so many steps of a few items of stage A again, on a copy, and see
    what else comes back; None for none."""
    relearning_items: int = 16
    """How many of them."""
    relearning_never_taught: int = 0
    """Items of the same set that nothing has taught, asked beside them."""
    row_length: int = 512
    """Tokens of a row of text that is evaluated, or that coefficients are measured on."""


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of a chain, as its configuration has it."""

    name: str  # the letter of the stage
    data: str
    items: int
    offset: int  # items of the same set that earlier stages have taken
    mix: str | None  # None for nothing
    mix_ratio: float
    control: NoMixControl | None
    """What it has in common with the stage whose mix it leaves out; None where it has its mix."""
    replay: Replay
    epochs: int  # at most
    stop: StopWhen
    learning_rate: float  # the peak
    optimizer: OptimizerStart


@dataclass(frozen=True, kw_only=True)
class RemixConfig(
    LoopFields,
    EvaluationFields,
    ObservationFields,
    EditFields,
    StopFields,
    ShowingFields,
    MixFields,
    StageFields,
    BaseFields,
):
    """A chain of stages, each of which learns a set of items by heart; checks itself."""

    def __post_init__(self) -> None:
        misfits = Misfits()
        misfits.check(
            lambda: refuse_below_one(self, _AT_LEAST_ONE),
            self.check_edits,
            lambda: misfits.found.extend(self._misfits()),
            self.check_evaluation,
            lambda: self.data and [self.settings(stage, 1) for stage in self.stages],
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(string.ascii_uppercase[: len(self.data)])

    @property
    def stages(self) -> tuple[StageConfig, ...]:
        rates = self.stage_learning_rates or (self.learning_rate,)
        each = {name: self._each(name) for name in ("items", "mix", "mix_ratio", "epochs", "stop")}
        rates = self._each("stage_learning_rates", rates)
        found: list[StageConfig] = []
        for place, (name, data) in enumerate(zip(self.names, self.data, strict=False)):
            items, mix, mix_ratio, epochs, stop = (values[place] for values in each.values())
            has_mix = mix != NO_MIX
            stage = StageConfig(
                name=name,
                data=data,
                items=items,
                offset=sum(earlier.items for earlier in found if earlier.data == data),
                mix=mix if has_mix else None,
                mix_ratio=mix_ratio,
                control=self.no_mix_control if has_mix else None,
                replay=Replay(self.replay) if place else Replay.NONE,
                epochs=epochs,
                stop=StopWhen(stop),
                learning_rate=rates[place],
                optimizer=self.optimizer if place else OptimizerStart.FRESH,
            )
            found.append(stage)
        return tuple(found)

    def stage_a(self) -> "RemixConfig":
        """The same with stage A alone, and what has no part in that as it is by default."""
        changes: dict[str, Any] = {name: getattr(self, name)[:1] for name in _OF_EACH_STAGE}
        changes |= {
            "from_stage_a": None,
            "replay": Replay.NONE,
            "replay_ratio": RemixConfig.replay_ratio,
            "optimizer": OptimizerStart.FRESH,
            "relearning_steps": None,
            "edit_before": self.names[0],
        }
        without: list[type[Any]] = [EditFields] if self.edit_before != self.names[0] else []
        without += [MixFields] if self.stages[0].mix is None else []
        defaults = {field.name: field.default for kind in without for field in fields(kind)}
        return replace(self, **{**changes, **defaults})

    def settings(self, stage: StageConfig, steps: int) -> LoopSettings:
        found = self.loop_settings(steps)
        optimizer = replace(found.optimizer, learning_rate=stage.learning_rate)
        return replace(found, optimizer=optimizer)

    def _each(self, name: str, values: tuple[Any, ...] | None = None) -> tuple[Any, ...]:
        values, count = getattr(self, name) if values is None else values, len(self.data)
        if len(values) not in (1, count):
            raise ValueError(
                f"{flag(name)} has {len(values)} values for {count} stages; give one, or one for "
                "each"
            )
        return values * count if len(values) == 1 else values

    def _misfits(self) -> Iterator[str]:
        for name in ("items", "epochs"):
            if wrong := [value for value in getattr(self, name) if value < 1]:
                yield f"{flag(name)} must be 1 or more in each stage, found {wrong[0]}"
        if not self.loss_threshold > 0 or not 0 < self.exact_match <= 1:
            yield (
                "--loss-threshold must be above 0 and --exact-match above 0 and up to 1, found "
                f"{self.loss_threshold:g} and {self.exact_match:g}"
            )
        if not 0 < self.replay_ratio <= 1:
            yield (
                f"--replay-ratio must be above 0 and up to 1, found {self.replay_ratio:g}; "
                "--replay none is for none"
            )
        if not self.data or "" in self.data:
            yield "a stage has no data; name with --data a set for each stage, A first"
            return
        if len(self.data) > len(string.ascii_uppercase):
            yield f"--data names {len(self.data)} stages; give at most 26"
            return
        for stage in self.stages:
            if stage.mix is not None and not stage.mix_ratio > 0:
                yield (
                    f"--mix-ratio of stage {stage.name} must be above 0, found "
                    f"{stage.mix_ratio:g}; --mix none is for none"
                )
        if self.no_mix_control is not None and all(stage.mix is None for stage in self.stages):
            yield (
                "--no-mix-control leaves mixes out, and no stage has one; name the --mix whose "
                "length it is to have"
            )
        if self.edit_before not in self.names:
            yield (
                f"--edit-before is {self.edit_before!r}, and the stages are "
                f"{', '.join(self.names)}; give one of them"
            )
        is_noise = (self.control, self.edit_form) == (Control.MATCHED_NOISE, EditForm.HOOKS)
        if is_noise and self.edit_before != self.names[-1]:
            yield (
                "matched_noise as a hook is taken from the weights that a stage begins with, so "
                "it would be another one in the next; give --edit-form weights"
            )
        yield from self._later_misfits()
        if self.compat is Compat.OFFICIAL:
            for name in ("replay", "no_mix_control", "mixing", "loss_normalisation", "template"):
                if getattr(self, name) != getattr(RemixConfig, name):
                    yield (
                        f"the released trainer knows no {flag(name)} {getattr(self, name)}; leave "
                        "out that or --compat"
                    )
        if self.parallel is Parallel.FSDP and (self.drift or self.gradient_every is not None):
            yield (
                "drift and gradients need whole weights, and 'fsdp' shards them; give --no-drift "
                "and --gradient-every None, or use 'ddp'"
            )
        if self.lora_rank is not None and (self.drift or self.gradient_every is not None):
            yield (
                "drift and gradients are those of the weights, which --lora-rank leaves alone; "
                "give --no-drift and --gradient-every None"
            )
        if self.lora_rank is not None and self.optimizer is OptimizerStart.KEPT:
            yield "each stage has adapters of its own; --optimizer kept goes without --lora-rank"

    def _later_misfits(self) -> Iterator[str]:
        if len(self.data) > 1:
            if self.from_stage_a is not None and self.is_edited and self.edit_before == "A":
                yield (
                    "--from-stage-a goes on from a run that was not edited here; give "
                    "--edit-before B, or train stage A too"
                )
            return
        for name, given in (
            ("--replay", self.replay is not Replay.NONE),
            ("--optimizer kept", self.optimizer is OptimizerStart.KEPT),
            ("--from-stage-a", self.from_stage_a is not None),
        ):
            if given:
                yield f"{name} is about stages after A; name their --data too"
