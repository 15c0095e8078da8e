"""The settings of continual memorization, in the groups that a reader looks for them in.

Flat frozen dataclasses that `training.remix.config` puts together: what each stage learns, what is
mixed into it, how it is shown, when it is over, and what is looked at meanwhile. What is said stage
by stage takes one value for all of them, or one for each.
"""

from dataclasses import dataclass
from pathlib import Path

from probes.choices import Compat
from training.datasets.key_values import Charset
from training.datasets.row_choices import LossNormalisation, Mixing, Packing, Template
from training.stage_choices import NoMixControl, OptimizerStart, Replay, StopWhen

NO_MIX = "none"


@dataclass(frozen=True, kw_only=True)
class StageFields:
    """What is trained, and what each stage learns."""

    model: str
    """Start: built-in model, hub id, folder, or a run directory, for its last checkpoint."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; of a run directory the step, step-000160 say."""
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
    """Ask the start so many factoids of every set, few-shot: those that it answers are not trained
    on, and those of stage A are looked at; None to ask none."""
    familiarity_shots: int = 5
    """Answered questions that stand before each of them."""
    familiarity_cache: Path | None = None
    """Folder that the start's answers are kept in, for other runs."""
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
    """Updates, or looks, in a row."""
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
    """What is looked at during training, and when; always before the first and after the last."""

    recall_every: int | None = 1
    """Epochs between looks at how many items of every stage are answered exactly; None for the
    beginning and the end of a stage alone."""
    generation: bool = True
    """Whether factoids are also answered in writing, and the texts compared."""
    evaluate_every: int | None = None
    """Epochs between looks at written answers, weights, text, tasks and facts; None for the
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
    """Tokens of a row of text that is looked at, or that coefficients are measured on."""
    evaluation_corpora: tuple[str, ...] = ()
    """Corpora to be predicted."""
    evaluation_tokens: int = 8192
    """Tokens of each."""
    entropy_tokens: int | None = None
    """Tokens of the first of them on which the three entropies are measured; None for none."""
    tasks: tuple[str, ...] = ()
    """Downstream tasks: piqa, hellaswag, winogrande, openbook_qa, sciq, arc_easy."""
    task_limit: int | None = None
    """Questions of each; all."""
    cloze: str | None = "auto"
    """Facts known before: a .jsonl file with prompt and target; auto takes those of the
    pretraining run that the model is from, None takes none."""
