"""What decides a run of continual knowledge learning.

Example:
    >>> from training.ckl.recipes import paper_1b
    >>> paper_1b().learning_rate, paper_1b().first_injection
    (0.0004, 159)
"""

from dataclasses import dataclass

from training.ckl.fields import (
    DataFields,
    InjectionFields,
    ObservationFields,
)
from training.commands.edit_fields import EditFields
from training.commands.loop_fields import LoopFields
from training.misfits import Misfits
from training.settings import LoopSettings

_AT_LEAST_ONE = (
    *("row_length", "epochs", "injection_interval", "injection_rounds", "injection_cycles"),
    *("probe_every", "generate_every", "passage_words", "evaluation_tokens"),
)


@dataclass(frozen=True, kw_only=True)
class CklConfig(LoopFields, ObservationFields, EditFields, InjectionFields, DataFields):
    """A run of continual knowledge learning.

    Raises:
        ValueError: settings do not go together.
    """

    def __post_init__(self) -> None:
        misfits = Misfits()
        for name in _AT_LEAST_ONE:
            with misfits.noted():
                self._check_number(name)
        with misfits.noted():
            self.settings(self.steps if self.steps is not None else 1)
        for check in (self._check_knowledge, self.check_edits, self._check_entropies):
            with misfits.noted():
                check()
        misfits.refuse()

    def _check_number(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be 1 or more, found {value}")

    def _check_entropies(self) -> None:
        if self.entropy_tokens is not None and not self.evaluation_corpora:
            raise ValueError(
                "entropies are measured on the first of --evaluation-corpora; give one, or "
                "--entropy-tokens None"
            )

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
        """What the loop is told, of a run of so many steps."""
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
