"""Injection schedules: which passage is met in which batch, in which wording.

A schedule is keyed by **step**: an encounter at step t is in the batch of update t + 1, so the
model after t updates has not seen it and the model after t + 1 has. Encounters come in **rounds**:

| exposure      | round r (from 0)                                             |
|---------------|--------------------------------------------------------------|
| `paraphrase`  | version r: the text first, then its paraphrases              |
| `duplication` | the text                                                     |
| `once`        | the text, in one round: spread over rounds, or all in the first |
| `held_out`    | nothing                                                      |

Two designs are built in. `official_knowledge_entropy`: ten rounds, the last in the last batch of
the run (steps 159, 319, ..., 1599), the once passages spread; with several epochs the ten rounds
repeat. `official_factual_acquisition`: ten rounds from the first batch on (steps 0, 100, ..., 900),
all once passages in the first.

Source: Kim et al., "Knowledge Entropy Decay during Language Model Pretraining Hinders New Knowledge
Acquisition", ICLR 2025: 4.1; Chang et al., "How Do Large Language Models Acquire Factual Knowledge
During Pretraining?", NeurIPS 2024; the steps are those of the released code.

Example:
    >>> schedule = InjectionSchedule.regular(
    ...     {0: Exposure.PARAPHRASE, 1: Exposure.ONCE}, interval=10, rounds=2)
    >>> schedule.encounters[10], schedule.last_encounter
    ((Encounter(passage=0, version=1),), {0: 10, 1: 0})
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from training.choices import Exposure, OncePlacement
from training.data.passages import Exposures, official_exposures
from training.trial import Misfits

ROUNDS = 10
KNOWLEDGE_ENTROPY_INTERVAL = 160
FACTUAL_ACQUISITION_INTERVAL = 100


class Encounter(NamedTuple):
    """One passage in one of its wordings."""

    passage: int
    version: int


@dataclass(frozen=True)
class InjectionSchedule:
    """What is injected, by step.

    Attributes:
        encounters: step to the encounters in its batch, in the order of their rows.
        interval: steps between rounds; None where there is no regular one.
    """

    encounters: Mapping[int, tuple[Encounter, ...]]
    interval: int | None = None

    def __post_init__(self) -> None:
        if not any(self.encounters.values()):
            raise ValueError("the injection schedule is empty: give passages that are to be shown")
        if min(self.encounters) < 0:
            raise ValueError(f"the first injection is at step {min(self.encounters)}: give 0 or on")
        ordered = {step: tuple(met) for step, met in sorted(self.encounters.items()) if met}
        object.__setattr__(self, "encounters", ordered)

    @classmethod
    def regular(
        cls,
        exposures: Exposures,
        *,
        interval: int,
        rounds: int = ROUNDS,
        first: int = 0,
        once: OncePlacement | str = OncePlacement.SPREAD,
        cycles: int = 1,
    ) -> "InjectionSchedule":
        """Rounds of encounters at equal distances.

        Args:
            exposures: how each passage is met; passages keep this order in a batch.
            interval: steps between rounds.
            rounds: how many there are.
            first: step of the first.
            once: when passages that are shown once are shown.
            cycles: how often all of it repeats, as it does when a corpus is gone through again.

        Raises:
            ValueError: a number is too small, or `once` is no choice.
        """
        for name, value in (("interval", interval), ("rounds", rounds), ("cycles", cycles)):
            if value < 1:
                raise ValueError(f"{name} is {value}: give 1 or more")
        if once not in list(OncePlacement):
            raise ValueError(f"once must be one of {', '.join(OncePlacement)}, found {once!r}")
        by_round = _rounds(exposures, rounds, OncePlacement(once))
        encounters = {
            first + number * interval: by_round[number % rounds]
            for number in range(rounds * cycles)
        }
        return cls(encounters, interval)

    @classmethod
    def official_knowledge_entropy(
        cls,
        exposures: Exposures | None = None,
        *,
        interval: int = KNOWLEDGE_ENTROPY_INTERVAL,
        epochs: int = 1,
    ) -> "InjectionSchedule":
        """The Knowledge Entropy paper's: 1,600 steps with 70 paraphrases and 6 others a round.

        Args:
            exposures: the paper's by default.
            interval: 160 in the paper's base run, 10 with its batches of 2,048 rows.
            epochs: how often the corpus is gone through; the rounds repeat in each.
        """
        dealt = exposures or official_exposures("knowledge-entropy")
        return cls.regular(dealt, interval=interval, first=interval - 1, cycles=epochs)

    @classmethod
    def official_factual_acquisition(
        cls,
        exposures: Exposures | None = None,
        *,
        interval: int = FACTUAL_ACQUISITION_INTERVAL,
    ) -> "InjectionSchedule":
        """The factual acquisition paper's: ten rounds from step 0 on, all 120 passages at first.

        Args:
            exposures: the paper's by default.
            interval: 100 in the paper.
        """
        dealt = exposures or official_exposures("factual-acquisition")
        return cls.regular(dealt, interval=interval, once=OncePlacement.FIRST)

    @property
    def last_encounter(self) -> dict[int, int]:
        """The step of the last encounter with each passage that is met at all."""
        found = {e.passage: step for step, met in self.encounters.items() for e in met}
        return dict(sorted(found.items()))

    @property
    def last_step(self) -> int:
        """The step of the last encounter of all."""
        return max(self.encounters)

    def evaluation_steps(self, lags: Sequence[int], steps: int | None = None) -> tuple[int, ...]:
        """When to evaluate: so many updates after the update that the last encounter is part of.

        Args:
            lags: updates in between; 0 is right after that update, as the papers' final score is.
            steps: updates of the run.

        Returns:
            Numbers of updates done, in order.

        Raises:
            ValueError: a lag is negative, or lies beyond the end of the run.
        """
        if lags and min(lags) < 0:
            raise ValueError(
                f"a lag is {min(lags)}: give updates after the last encounter, 0 or on"
            )
        found = sorted({self.last_step + 1 + lag for lag in lags})
        if steps is not None and found and found[-1] > steps:
            raise ValueError(
                f"an evaluation {max(lags)} steps after the last encounter would be after "
                f"{found[-1]} steps, but the run has {steps}: give lags of at most "
                f"{max(steps - self.last_step - 1, 0)}, or {found[-1]} steps or more"
            )
        return tuple(found)

    def check(
        self,
        *,
        steps: int | None,
        rows: int | None,
        row_length: int,
        lengths: Mapping[Encounter, int],
    ) -> None:
        """Refuse a schedule that a run cannot carry out.

        Args:
            steps: updates of the run; None where it is not known.
            rows: rows of a batch that passages can take; None for any number.
            row_length: tokens in a row.
            lengths: tokens of every wording there is, end token included.

        Raises:
            ValueError: an encounter comes after the end, a batch has fewer rows than passages, a
                wording does not exist, or one does not fit a row.
        """
        misfits = Misfits()
        if steps is not None:
            with misfits.noted():
                self._check_steps(steps)
        with misfits.noted():
            self._check_rows(rows)
        planned = [encounter for met in self.encounters.values() for encounter in met]
        with misfits.noted():
            _check_wordings(planned, lengths)
        with misfits.noted():
            _check_lengths({e: lengths[e] for e in planned if e in lengths}, row_length)
        misfits.refuse()

    def _check_rows(self, rows: int | None) -> None:
        step, most = max(((s, len(met)) for s, met in self.encounters.items()), key=lambda x: x[1])
        if rows is not None and most > rows:
            raise ValueError(
                f"{most} passages are to be injected at step {step}, but a batch has {rows} rows: "
                f"give batches of {most} or more, fewer passages, or mode extra_row"
            )

    def _check_steps(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"the run has {steps} steps: give 1 or more")
        if self.interval is not None and self.interval > steps:
            raise ValueError(
                f"passages are injected every {self.interval} steps, but the run has {steps}: give "
                "a shorter interval or a longer run"
            )
        if self.last_step >= steps:
            raise ValueError(
                f"the last injection is at step {self.last_step}, but the run has {steps} steps, 0 "
                f"to {steps - 1}: give {self.last_step + 1} steps or more, a shorter interval or "
                "fewer rounds"
            )

    def describe(self) -> dict[str, Any]:
        """The whole schedule, as JSON takes it."""
        return {
            "interval": self.interval,
            "encounters": {
                str(step): [list(encounter) for encounter in met]
                for step, met in self.encounters.items()
            },
        }


def _check_wordings(planned: Sequence[Encounter], lengths: Mapping[Encounter, int]) -> None:
    missing = [encounter for encounter in planned if encounter not in lengths]
    if missing:
        passage, version = max(missing, key=lambda encounter: encounter.version)
        there = sum(other.passage == passage for other in lengths)
        among = len({encounter.passage for encounter in missing})
        others = f", as do {among - 1} more passages" if among > 1 else ""
        raise ValueError(
            f"passage {passage} has {there} wordings, but wording {version + 1} is to be injected"
            f"{others}: give {version} paraphrases of each, or at most {there} rounds"
        )


def _check_lengths(lengths: Mapping[Encounter, int], row_length: int) -> None:
    longer = {encounter: length for encounter, length in lengths.items() if length > row_length}
    if longer:
        passage, version = longest = max(longer, key=longer.__getitem__)
        others = f" (and {len(longer) - 1} more do not fit)" if len(longer) > 1 else ""
        raise ValueError(
            f"passage {passage}, version {version}, has {longer[longest]} tokens with its end "
            f"token, but a row has {row_length}{others}: give rows of {longer[longest]} or more, "
            "or shorter passages"
        )


def _rounds(exposures: Exposures, rounds: int, once: OncePlacement) -> list[tuple[Encounter, ...]]:
    shown_once = [passage for passage, how in exposures.items() if how is Exposure.ONCE]
    share = {
        passage: 0 if once is OncePlacement.FIRST else place * rounds // len(shown_once)
        for place, passage in enumerate(shown_once)
    }
    found: dict[int, list[Encounter]] = defaultdict(list)
    for passage, how in exposures.items():
        for number in range(rounds):
            if how is Exposure.ONCE and share[passage] != number:
                continue
            if how is not Exposure.HELD_OUT:
                version = number if how is Exposure.PARAPHRASE else 0
                found[number].append(Encounter(passage, version))
    return [tuple(found[number]) for number in range(rounds)]
