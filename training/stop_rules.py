"""When is a stage of training over? Rules that end a run before the last step it may take.

A run goes to its last step unless a rule ends it, which makes the last step a **cap**: `shortfall`
says what was then missing. Losses are mean cross-entropies in nats; the loss of an update is that
of its batch before the update.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: B.4.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from training.batches import TrainingBatch
from training.runs.records import RecallRecord, Record, StepRecord


class Rule(ABC):
    """Ends a run before its last step."""

    @property
    @abstractmethod
    def fulfilled(self) -> str | None:
        """Why a run may stop now; None while it may not."""

    def after(self, record: StepRecord, batch: TrainingBatch | None) -> str | None:
        """Why to stop after an update; None to go on."""
        del record, batch
        return None

    def after_looking(self, records: Sequence[Record]) -> str | None:
        """Why to stop after an evaluation; None to go on."""
        del records
        return None

    @abstractmethod
    def shortfall(self) -> str:
        """How far from its end a run is that this rule has not ended, as a clause."""

    @abstractmethod
    def unreachable(
        self, steps: int, sources: Sequence[str], evaluations: Mapping[str, int]
    ) -> str | None:
        """Why a run of so many steps and evaluations cannot fulfil it; None where it can."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as JSON takes it."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember that again."""


class _CountingRule(Rule):
    """Waits until something has been low or high enough so many times."""

    _unit: str  # what is counted
    _digits: str
    _reached = ""  # what is said after the aim once it is reached

    def __init__(self, aim: str, patience: int, consecutive: bool = True) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}: give 1 or more times")
        self._aim, self._patience, self._consecutive = aim, patience, consecutive
        self._times = 0
        self._last: float | None = None

    @property
    def fulfilled(self) -> str | None:
        if self._times < self._patience:
            return None
        in_a_row = " in a row" * self._consecutive
        times = f" in {self._patience} {self._unit}{in_a_row}" if self._patience > 1 else ""
        return f"{self._aim}{self._reached}{times}"

    def shortfall(self) -> str:
        last = "none yet" if self._last is None else f"{self._last:{self._digits}} at last"
        return f"{self._aim} ({last})"

    def state_dict(self) -> dict[str, Any]:
        return {"times": self._times, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._times, self._last = state["times"], state["last"]

    def _count(self, value: float, holds: bool) -> str | None:
        self._last = value
        if holds:
            self._times += 1
        elif self._consecutive:
            self._times = 0
        return self.fulfilled

    def _too_often(self, times: int, what: str) -> str | None:
        if self._patience <= times:
            return None
        return (
            f"a rule waits for {self._patience} {self._unit} {what}, and the run has {times}; give "
            f"a patience of at most {times}, or a longer run"
        )


class LossBelow(_CountingRule):
    """The loss of batches was low.

    Args:
        threshold: nats per token.
        source: whose tokens count: one of the batch source's names; None for all that are trained
            on. Updates whose batch has none of them count neither way.
        patience: in how many updates.
        consecutive: whether they have to follow each other.

    Raises:
        ValueError: the threshold or the patience is not positive; after an update, that the run
            does not record losses by source.
    """

    _unit, _digits = "updates", ".2g"

    def __init__(
        self,
        threshold: float,
        *,
        source: str | None = None,
        patience: int = 1,
        consecutive: bool = True,
    ) -> None:
        given: Any = threshold
        if not isinstance(given, Real):
            raise ValueError(f"the loss threshold is {threshold!r}: give nats above 0")
        self._what = "loss" if source is None else f"loss of {source}"
        super().__init__(f"{self._what} below {threshold:g} nats", patience, consecutive)
        if not threshold > 0:
            raise ValueError(f"the loss threshold is {threshold}: give nats above 0")
        self._threshold, self._source = threshold, source

    def after(self, record: StepRecord, batch: TrainingBatch | None) -> str | None:
        del batch
        loss: float | None = record.loss
        if self._source is not None:
            if not record.loss_by_source:
                raise ValueError(
                    f"a rule waits for the loss of {self._source!r}, and the batches name no "
                    "sources; use a source that does, or the loss of all tokens"
                )
            loss = record.loss_by_source.get(self._source)
        return None if loss is None else self._count(loss, loss < self._threshold)

    def unreachable(
        self, steps: int, sources: Sequence[str], evaluations: Mapping[str, int]
    ) -> str | None:
        del evaluations
        if self._source is not None and self._source not in sources:
            return (
                f"a rule waits for the loss of {self._source!r}, and the batches have "
                f"{', '.join(sources) or 'no named sources'}; use one of theirs, or the loss of "
                "all tokens"
            )
        return self._too_often(steps, f"with a low {self._what}")


class ExactMatchReached(_CountingRule):
    """Items were answered exactly: every token of the answer, each after the right ones before it.

    Args:
        items: the list of items, as recall records call it.
        share: of them, above 0 and up to 1.
        patience: in how many evaluations in a row.

    Raises:
        ValueError: the share or the patience is out of range.
    """

    _unit, _digits, _reached = "evaluations", ".3f", " or more"

    def __init__(self, items: str, *, share: float = 1.0, patience: int = 1) -> None:
        super().__init__(f"exact match of {items} of {share:g}", patience)
        if not 0 < share <= 1:
            raise ValueError(f"the share to be answered is {share}: give one above 0 and up to 1")
        self._items, self._share = items, share

    def after_looking(self, records: Sequence[Record]) -> str | None:
        for record in records:
            if not isinstance(record, RecallRecord):
                continue
            if (record.items, record.match) == (self._items, "tokens"):
                found = sum(record.correct) / len(record.correct)
                return self._count(found, found >= self._share)
        return None

    def unreachable(
        self, steps: int, sources: Sequence[str], evaluations: Mapping[str, int]
    ) -> str | None:
        del steps, sources
        if self._items not in evaluations:
            return (
                f"a rule waits for exact matches of {self._items!r}, and observers evaluate "
                f"{', '.join(evaluations) or 'no items'}; add a RecallObserver of that name"
            )
        return self._too_often(evaluations[self._items], f"of {self._items} in a row")


class AllOf(Rule):
    """All rules are fulfilled at once, each as of the last time that it could tell."""

    def __init__(self, *rules: Rule) -> None:
        if not rules:
            raise ValueError("no rules were given to be put together; give one or more")
        self._rules = rules

    @property
    def fulfilled(self) -> str | None:
        reasons = [rule.fulfilled for rule in self._rules]
        return None if None in reasons else " and ".join(map(str, reasons))

    # Each rule is asked every time, so that each keeps count.
    def after(self, record: StepRecord, batch: TrainingBatch | None) -> str | None:
        for rule in self._rules:
            rule.after(record, batch)
        return self.fulfilled

    def after_looking(self, records: Sequence[Record]) -> str | None:
        for rule in self._rules:
            rule.after_looking(records)
        return self.fulfilled

    def shortfall(self) -> str:
        return ", ".join(rule.shortfall() for rule in self._rules if rule.fulfilled is None)

    def unreachable(
        self, steps: int, sources: Sequence[str], evaluations: Mapping[str, int]
    ) -> str | None:
        reasons = (rule.unreachable(steps, sources, evaluations) for rule in self._rules)
        return next(filter(None, reasons), None)

    def state_dict(self) -> dict[str, Any]:
        return {"rules": [rule.state_dict() for rule in self._rules]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for rule, own in zip(self._rules, state["rules"], strict=True):
            rule.load_state_dict(own)


def released_loss_rule() -> LossBelow:
    """The released code's: ten losses below 1e-4 nats, which need not follow each other."""
    return LossBelow(1e-4, patience=10, consecutive=False)
