"""What decides a run of continual knowledge learning.

Example:
    >>> from training.ckl.recipes import paper_1b
    >>> paper_1b().learning_rate, paper_1b().first_injection
    (0.0004, 159)
"""

from dataclasses import dataclass
from enum import StrEnum

from training.choices import InjectionMode, OncePlacement
from training.commands.fields import (
    BaseFields,
    EditFields,
    EvaluationFields,
    LoopFields,
    refuse_below_one,
)
from training.misfits import Misfits
from training.settings import LoopSettings


class ProbeReduction(StrEnum):
    """How the log-probabilities of a target's tokens become its score."""

    TOKEN_MEAN = "token_mean"
    """Their mean."""
    SUM = "sum"
    """Their sum."""
    PADDED_MEAN = "padded_mean"
    """Their sum over the length of a padded row, in batches of 16 over 4 processes: the released
    code's."""


@dataclass(frozen=True, kw_only=True)
class TextFields:
    """The text that is trained on."""

    corpus: str | None
    """Text to train on: built-in corpus, file of texts or token ids, folder, quoted pattern or hub
    data set; the papers' recipes leave it to be given."""
    column: str | None = None
    """Column of the text in .jsonl and .parquet files and data sets; theirs is "text"."""
    row_length: int
    """Tokens of a row."""
    epochs: int = 1
    """How often the corpus is gone through."""
    steps: int | None = None
    """Updates; as many as the corpus has rows for. Fewer: only the first rows are read."""
    shuffle: bool = True
    """Whether rows come in an order drawn anew in every epoch."""
    document_mask: bool = False
    """Whether attention stays inside documents and passages."""


@dataclass(frozen=True, kw_only=True)
class InjectionFields:
    """What new knowledge there is, and when it is met."""

    knowledge: tuple[str, ...]
    """generated; files in a published layout of Fictional Knowledge; or a hub data set."""
    knowledge_seed: int = 0
    """Seed of generated passages, so that runs with another --seed meet the same."""
    passage_words: int = 240
    """Words of a generated passage, about; 140 to 420."""
    paraphrase: int
    """Passages met in other words every time."""
    duplication: int
    """Passages met in the same words every time."""
    once: int
    """Passages met once."""
    held_out: int
    """Passages never met: a control."""
    once_placement: OncePlacement = OncePlacement.SPREAD
    """When passages are met that are met once: spread over the rounds, or all in the first."""
    injection_interval: int
    """Steps between rounds of injections."""
    injection_rounds: int = 10
    """Rounds."""
    injection_cycles: int = 1
    """How often all rounds are repeated, in later epochs say."""
    injection_first: int | None = None
    """Batch of the first round, counted from 0; the last one of the first interval."""
    injection_mode: InjectionMode = InjectionMode.PREPEND_TRUNCATE
    """Where a passage goes: in front of a row whose end is cut off (the papers'), in the place of
    a row, or in a row more."""


@dataclass(frozen=True, kw_only=True)
class ProbeFields:
    """What is evaluated when; always before the first step and after the last, too."""

    probe_every: int
    """Steps between scores of the knowledge probes; 1 is every step."""
    probe_reduction: ProbeReduction = ProbeReduction.TOKEN_MEAN
    """How the log-probabilities of a target's tokens become its score."""
    generate_every: int | None = None
    """Steps between evaluations of which probes' targets are generated greedily, token for token;
    with it also at the start, right after the last injection, at the lags and at the end; never."""
    evaluate_every: int | None = None
    """Steps between evaluations of text, tasks, facts and entropies; before and after the run
    only."""
    lags: tuple[int, ...] = (0,)
    """Steps after the last injection at which everything is evaluated as well."""
    checkpoint_every: int | None = None
    """Steps between checkpoints that stay; the last one only."""


_AT_LEAST_ONE = (
    *("row_length", "epochs", "injection_interval", "injection_rounds", "injection_cycles"),
    *("probe_every", "generate_every", "passage_words", "evaluation_tokens"),
)


@dataclass(frozen=True, kw_only=True)
class CklConfig(
    LoopFields, EvaluationFields, ProbeFields, EditFields, InjectionFields, TextFields, BaseFields
):
    """A run of continual knowledge learning.

    Raises:
        ValueError: settings do not go together.
    """

    def __post_init__(self) -> None:
        misfits = Misfits()
        with misfits.noted():
            refuse_below_one(self, _AT_LEAST_ONE)
        with misfits.noted():
            self.settings(self.steps if self.steps is not None else 1)
        for check in (self._check_knowledge, self.check_edits, self.check_evaluation):
            with misfits.noted():
                check()
        misfits.refuse()

    @property
    def first_injection(self) -> int:
        """The batch of the first round of injections, counted from 0."""
        if self.injection_first is not None:
            return self.injection_first
        return self.injection_interval - 1

    @property
    def last_injection(self) -> int:
        """The batch of the last round."""
        rounds = self.injection_rounds * self.injection_cycles
        return self.first_injection + (rounds - 1) * self.injection_interval

    @property
    def passages(self) -> int:
        """How many passages there are."""
        return self.paraphrase + self.duplication + self.once + self.held_out

    def settings(self, steps: int) -> LoopSettings:
        """The settings of the loop, for a run of so many steps."""
        return self.loop_settings(steps, checkpoint_every=self.checkpoint_every)

    def missing(self) -> list[str]:
        """What a recipe leaves to be given, as a user reads it."""
        found = []
        if self.corpus is None:
            found.append("--corpus, the text to train on")
        if not self.knowledge:
            found.append("--knowledge, the released files of passages and probes, or generated")
        return found

    def rows_needed(self) -> int | None:
        """Rows of the corpus that the run goes through in an epoch; None for all that it has."""
        if self.steps is None:
            return None
        batches = -(-self.steps // self.epochs)
        return batches * self.batch_size

    def _check_knowledge(self) -> None:
        counts = (self.paraphrase, self.duplication, self.once, self.held_out)
        if min(counts) < 0 or not any(counts[:3]):
            raise ValueError(
                "--paraphrase, --duplication and --once say how many passages are met; give 0 or "
                "more of each, and one at least"
            )
        if self.steps is not None and self.last_injection >= self.steps:
            raise ValueError(
                f"the last injection would be in batch {self.last_injection} of a run of "
                f"{self.steps} steps; give a smaller --injection-interval, fewer "
                f"--injection-rounds or more --steps, {self.last_injection + 1} at least"
            )
