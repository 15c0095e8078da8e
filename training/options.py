"""Options that several training commands share, with their help, in groups of fields.

A configuration inherits the groups that it has, and adds its own fields (`ckl_config`,
`remix_config`, `pretrain_config`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from interventions.choices import ResuscitationSite, Schedule, Selection, named_object
from training.choices import DecayGroup, Parallel, Precision, RateCount, ScheduleKind
from training.recipes import flag
from training.settings import LoopSettings, Misfits, OptimizerSettings, ScheduleSettings

TINY_RUN = "runs/tiny"  # the run of training.pretrain that the smoke recipes begin with


@dataclass(frozen=True, kw_only=True)
class BaseFields:
    """The model that training begins with."""

    model: str
    """Built-in model, hub id, folder, or a run directory, for its last checkpoint."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; of a run directory the step, step-000160 say."""
    lora_rank: int | None = None
    """Train adapters (LoRA) of this rank around all projections, instead of the weights; they want
    a larger learning rate."""
    lora_alpha: float | None = None
    """What their change is multiplied by, times the rank; twice the rank."""


@dataclass(frozen=True, kw_only=True)
class OptimizerFields:
    """How large a step is, and in which direction."""

    batch_size: int
    """Rows of a step, over all processes."""
    micro_batch_size: int | None = None
    """Rows of one forward pass in one process; all that it has of a step."""
    learning_rate: float
    """The peak."""
    schedule: ScheduleKind = ScheduleKind.COSINE
    """How the learning rate falls after its warm-up."""
    warmup_fraction: float = 0.05
    """Share of the steps in which the learning rate rises."""
    warmup_start: float = 0.1
    """Share of the peak that it rises from."""
    final_fraction: float = 0.1
    """Share of the peak that it ends at."""
    schedule_count: RateCount = RateCount.FROM_ONE
    """from_one (OLMo's): update s has the rate of point s; from_zero (transformers'): of s - 1."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's."""
    eps: float = 1e-5
    """AdamW's."""
    weight_decay: float = 0.1
    """AdamW's, decoupled."""
    decay: DecayGroup = DecayGroup.LINEAR_WEIGHTS
    """Which weights decay."""
    clip_norm: float | None = 1.0
    """Norm that gradients are clipped to; None for no clipping."""


@dataclass(frozen=True, kw_only=True)
class ComputeFields:
    """How precisely, and by how many processes, a step is computed."""

    precision: Precision = Precision.FP32
    """What forward and backward passes compute in; weights and optimizer are float32."""
    parallel: Parallel = Parallel.NONE
    """How the processes of torchrun share a step."""
    compile: bool = False
    """Compile the blocks and the loss."""
    gradient_checkpointing: bool = False
    """Save memory: compute blocks again in the backward pass."""
    seed: int = 0
    """Seed of all that is drawn: new weights, orders, passages."""
    resume_every: int | None = None
    """Steps between checkpoints that only serve --resume; each replaces the one before."""
    prepend_bos: bool | None = None
    """Whether texts begin with a BOS token, also for the tokenizer that checkpoints keep; None for
    the tokenizer's own habit. A chat template has its own beginning."""
    device: str | None = None
    """cpu or cuda; cuda where there is one."""


@dataclass(frozen=True, kw_only=True)
class LoopFields(ComputeFields, OptimizerFields):
    """What decides how a model is trained, whatever it is trained on."""

    def loop_settings(
        self,
        steps: int,
        *,
        checkpoint_every: int | None = None,
        checkpoint_steps: tuple[int, ...] = (),
    ) -> LoopSettings:
        def own(kind: type[Any]) -> dict[str, Any]:
            names = (field.name for field in fields(kind))
            return {name: getattr(self, name) for name in names if hasattr(self, name)}

        schedule = ScheduleSettings(
            kind=self.schedule, count=self.schedule_count, **own(ScheduleSettings)
        )
        chosen = {
            **own(LoopSettings),
            "steps": steps,
            "optimizer": OptimizerSettings(**own(OptimizerSettings)),
            "schedule": schedule,
            "checkpoint_every": checkpoint_every,
            "checkpoint_steps": checkpoint_steps,
        }
        return LoopSettings(**chosen)


@dataclass(frozen=True, kw_only=True)
class EvaluationFields:
    """Text, tasks and facts that a model is evaluated on beside what it is taught."""

    evaluation_corpora: tuple[str, ...] = ()
    """Corpora to be predicted, the familiar one and the new one say."""
    evaluation_tokens: int = 8192
    """Tokens of each."""
    entropy_tokens: int | None = None
    """Tokens of the first of them on which the three entropies are measured; None for none."""
    tasks: tuple[str, ...] = ()
    """Downstream tasks, whose mean is P: piqa, hellaswag, winogrande, openbook_qa, sciq,
    arc_easy."""
    task_limit: int | None = None
    """Questions of each; all."""
    cloze: str | None = "auto"
    """Facts known before: a .jsonl file with prompt and target; auto takes those of the
    pretraining run that the model is from, None takes none."""

    def check_evaluation(self) -> None:
        """Make sure that there is text for what is measured on text."""
        if self.entropy_tokens is not None and not self.evaluation_corpora:
            raise ValueError(
                "entropies are measured on the first of --evaluation-corpora; give one, or "
                "--entropy-tokens None"
            )


def refuse_below_one(config: Any, names: Iterable[str]) -> None:
    """Make sure that numbers are 1 or more, where they are given."""
    misfits = Misfits()
    for name in names:
        with misfits.noted():
            if (value := getattr(config, name)) is not None and value < 1:
                raise ValueError(f"{flag(name)} must be 1 or more, found {value}")
    misfits.refuse()


class Control(StrEnum):
    """What is done instead of a resuscitation, to see what it is that matters about one."""

    RANDOM_ROWS = "random_rows"  # its multipliers, on neurons drawn at random
    MOST_ACTIVE_ROWS = "most_active_rows"  # its multipliers, on the most active neurons
    MATCHED_NOISE = "matched_noise"  # noise of its size, on its rows
    REDO = "redo"  # its neurons started afresh; weights only
    # What the preserving one in weights does in training: learning rates of rows, and no edit.
    ROW_LEARNING_RATES = "row_learning_rates"
    IDENTITY = "identity"  # nothing


class EditForm(StrEnum):
    """How edits are made."""

    WEIGHTS = "weights"  # written once, before the first step, and then trained
    # A fixed gain in front of the trained weights: an update of a row counts as many times as the
    # row is multiplied. Checkpoints hold the weights without the edit.
    HOOKS = "hooks"


@dataclass(frozen=True, kw_only=True)
class EditFields:
    """How the model is edited before it is trained."""

    resuscitation_ratio: float | None = None
    """Share of the neurons of a layer, the least active ones, that are resuscitated: 0 to 1."""
    resuscitation_factor: float | None = None
    """What their mean coefficients are to become, in means of their layer."""
    resuscitation_site: ResuscitationSite = ResuscitationSite.UP
    """What is multiplied: up rows (the paper's), memory vectors (down), both so that the model
    computes the same (preserving), gate rows, or up rows before a nonlinearity."""
    resuscitation_layers: tuple[int, ...] = ()
    """In which layers; all."""
    selection: Selection = Selection.QUANTILE
    """quantile: at or below it, ties included; exact: exactly so many neurons."""
    max_multiplier: float | None = None
    """No neuron is multiplied by more; no cap."""
    sequential: bool = False
    """Measure each layer with all earlier ones edited: one pass a layer."""
    control: Control | None = None
    """Instead of the resuscitation, this control of it."""
    attention_temperature: float | None = None
    """Divide attention scores by this, in every layer."""
    temperature_schedule: Schedule = Schedule.CONSTANT
    """constant; or linear, to 1 at the end of the run, the released code's default."""
    edit: tuple[str, ...] = ()
    """Edits of your own, after those above, each as module:object (my_edits:half say): an edit, or
    a function that makes one of the model."""
    edit_form: EditForm = EditForm.WEIGHTS
    """weights: the edited weights are trained, as in the paper; hooks: the weights are trained as
    they were, behind a fixed gain, which multiplies the learning rate of a row too."""
    coefficient_corpus: str = "general-train"
    """Text that mean coefficients are measured on, before the first step."""
    coefficient_tokens: int = 16384
    """Tokens of it."""
    coefficients: Path | None = None
    """Folder of an entropy result of this model in float32, to take mean coefficients from
    instead."""

    @property
    def resuscitates(self) -> bool:
        """Whether neurons are resuscitated, or a control of that is made."""
        return self.resuscitation_ratio is not None

    @property
    def is_edited(self) -> bool:
        """Whether the model that is trained differs from the base, or is trained differently."""
        return self.resuscitates or self.attention_temperature is not None or bool(self.edit)

    def check_edits(self) -> None:
        for name in self.edit:
            named_object(name)
        if self.coefficient_tokens < 1:
            raise ValueError(
                f"--coefficient-tokens must be 1 or more, found {self.coefficient_tokens}"
            )
        if self.resuscitates != (self.resuscitation_factor is not None):
            raise ValueError(
                "--resuscitation-ratio says which neurons, --resuscitation-factor how much; give "
                "both"
            )
        if self.control is not None and not self.resuscitates:
            raise ValueError(
                "a --control is one of a resuscitation; give --resuscitation-ratio and "
                "--resuscitation-factor too"
            )
        in_weights = self.edit_form is EditForm.WEIGHTS
        if self.control is Control.REDO and not in_weights:
            raise ValueError(
                "redo as a hook keeps gradients from its neurons; give --edit-form weights"
            )
        decays = self.temperature_schedule is not Schedule.CONSTANT
        if self.attention_temperature is not None and decays and in_weights:
            raise ValueError(
                f"an attention temperature with --temperature-schedule {self.temperature_schedule} "
                "changes during the run, which weights cannot express; give --edit-form hooks"
            )
        if self.sequential and self.coefficients is not None:
            raise ValueError("--sequential measures coefficients; leave --coefficients out")


EDIT_FIELDS = tuple(field.name for field in fields(EditFields))


def deciding_edits(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of edits that decide what is trained; equal where it is so up to rounding.

    Behind hooks the weights are trained as they were: it does not matter whether a neuron's up row
    or its memory vector is multiplied, and a multiplier that is taken back matters nothing.
    """
    found = {name: settings[name] for name in EDIT_FIELDS}
    control, site = found["control"], found["resuscitation_site"]
    multiplies_rows = control in (None, Control.RANDOM_ROWS, Control.MOST_ACTIVE_ROWS)
    in_front = found["edit_form"] == EditForm.HOOKS and multiplies_rows
    is_plain = found["resuscitation_ratio"] is None or control == Control.IDENTITY
    idle: set[str] = set()
    if is_plain or (in_front and site == ResuscitationSite.PRESERVING):
        kept = ("attention_temperature", "temperature_schedule", "edit_form", "edit")
        idle = found.keys() - set(kept)
    elif in_front and site == ResuscitationSite.DOWN:
        found["resuscitation_site"] = ResuscitationSite.UP
    elif control in (Control.REDO, Control.ROW_LEARNING_RATES) and not found["sequential"]:
        idle = {"resuscitation_site"}
    if found["attention_temperature"] is None:
        idle |= {"temperature_schedule"}
        leaves_it = "control" in idle or control == Control.ROW_LEARNING_RATES
        if leaves_it and not found["edit"]:
            idle |= {"edit_form"}
    return {name: value for name, value in found.items() if name not in idle}
