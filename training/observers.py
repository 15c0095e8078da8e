"""Observers: what is recorded of a model during a run, between its updates.

Each is asked at the steps of its `Cadence`. In a run of several processes the items are shared
out, and all come to the same records.

Example:
    >>> when = Cadence(every=50, at=(3,), last=120)
    >>> [step for step in range(121) if when.due(step)]
    [0, 3, 50, 100, 120]
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Protocol, runtime_checkable

import torch
from torch import distributed as dist

from probes.checking import batches as some_batches
from probes.choices import Coefficient, Weighting
from probes.corpus.token_batch import Batches, as_batches
from probes.corpus_means import Interval, Resampling
from probes.hooked_model import HookedModel
from probes.measure import AttentionMeter, KnowledgeMeter, NextTokenMeter, PassSettings, run_pass
from probes.perplexity import measure_perplexity
from probes.prompts import LensItem, encoded_items
from probes.refusals import instance_of, shown
from probes.scoring import (
    EncodedQuestions,
    PaddedMean,
    TargetReduction,
    as_reduction,
    choice_scores,
    encode_questions,
    reduced_sums,
    target_log_probs,
)
from training.batches import TrainingBatch
from training.choices import Exposure
from training.data.fact_world import ClozeItem
from training.data.passages import KnowledgeProbe, KnowledgeSet
from training.runs.records import (
    EntropyRecord,
    NeuronRecord,
    PerplexityRecord,
    Record,
    ScoresRecord,
    StepRecord,
    TaskRecord,
)
from training.tasks import Task, choice_rows, encoded_task, evaluate_task

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # lists of items, by the names that records use
DORMANT = 0.025  # the threshold of Sokar et al. (ICML 2023) for the agents they looked at


@runtime_checkable
class Observer(Protocol):
    """Looks at the model during a run.

    It runs in evaluation mode, without gradients, through the edits, and on the float32 weights
    (under FSDP on those of the precision that the run computes in); random states are put back
    afterwards. In a run of several processes every one of them observes, and they must come to the
    same records.
    """

    def due(self, step: int) -> bool:
        """Whether to evaluate after this many updates; 0 is the initial checkpoint."""

    def observe(self, model: HookedModel, step: int) -> Iterable[Record]:
        """What is seen."""


@runtime_checkable
class ItemsObserver(Observer, Protocol):
    """An observer whose records refer to lists of items."""

    def items(self) -> Rows:
        """The lists, by the names that its records use; written when the run begins."""


@runtime_checkable
class NotingObserver(Observer, Protocol):
    """An observer that hears of every record of the run, so of the loss of every update."""

    def note(self, record: Record) -> None:
        """Called when a record is written, its own included."""


@runtime_checkable
class StopRule(Protocol):
    """Ends a run before its last step."""

    def after(self, record: StepRecord, batch: TrainingBatch) -> str | None:
        """Why to stop after this update; None to go on. The batch is the global one."""

    def after_looking(self, records: Sequence[Record]) -> str | None:
        """Why to stop after what observers saw at a step; None to go on."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as JSON takes it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember that again."""


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """The steps at which to evaluate."""

    every: int | None = None
    """At every multiple of this number of steps, 0 left out; None for no multiple."""
    at: tuple[int, ...] = ()
    first: bool = True  # at step 0, the initial checkpoint
    last: int | None = None
    """At this step, the run's last; None where nothing is to be added to the others."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise ValueError(f"every is {self.every}: give a positive number of steps, or None")
        if not isinstance(self.at, tuple | list):
            raise ValueError(f"at is {shown(self.at)}; give a tuple of steps")
        if wrong := [step for step in (*self.at, self.last or 0) if step < 0]:
            raise ValueError(f"step {wrong[0]} was asked for: steps count from 0")

    def due(self, step: int) -> bool:
        """Whether to evaluate after this many updates."""
        if step == 0:
            return self.first or 0 in self.at
        multiple = self.every is not None and step % self.every == 0
        return multiple or step in self.at or step == self.last


def shared_out() -> bool:
    """Whether several processes observe together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class Timed:
    """Something that is done at the steps of a cadence."""

    def __init__(self, cadence: Cadence) -> None:
        if wrong := instance_of(Cadence, "training.Cadence(every=...)")(cadence):
            raise ValueError(f"{type(self).__name__}: cadence is {wrong}")
        self._cadence = cadence

    def due(self, step: int) -> bool:
        return self._cadence.due(step)


class ProbeObserver(Timed):
    """Scores knowledge probes: the items of K.

    Args:
        knowledge: what they ask for.
        cadence: when.
        reduction: from the log-probabilities of a target's tokens to one score. A `PaddedMean` is
            taken over the probes of one exposure and one kind at a time, as in the released code.
        exposures: the exposure of each passage, by its index; None where that is not to be written.
        name: of the list of probes.
    """

    def __init__(
        self,
        knowledge: KnowledgeSet,
        cadence: Cadence,
        *,
        reduction: TargetReduction | PaddedMean | str = TargetReduction.TOKEN_MEAN,
        exposures: Mapping[int, Exposure] | None = None,
        name: str = "knowledge",
    ) -> None:
        super().__init__(cadence)
        self._probes, self._name = knowledge.probes, name
        self._reduction, self._exposures = as_reduction(reduction), exposures
        self._encoded: list[LensItem] = []

    def items(self) -> Rows:
        """The probes, one a row, with the exposure of their passage."""
        rows = []
        for probe in self._probes:
            exposure = self._exposure(probe)
            rows.append(asdict(probe) | ({} if exposure is None else {"exposure": exposure}))
        return {self._name: rows}

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """A score for every probe."""
        if not self._encoded:
            self._encoded = encoded_items(model, [probe.pair for probe in self._probes])
        sums = target_log_probs(model, self._encoded, TargetReduction.SUM, distributed=shared_out())
        scores = torch.empty_like(sums)

        def batch_of(place: int) -> tuple[str, str]:
            """What the probes share that share batches, where batches matter."""
            probe = self._probes[place]
            return str(self._exposure(probe)), str(probe.kind)

        for _, places in groupby(sorted(range(len(sums)), key=batch_of), key=batch_of):
            some = list(places)
            items = [self._encoded[place] for place in some]
            scores[some] = reduced_sums(sums[some], items, self._reduction)
        return [ScoresRecord(step, self._name, scores.tolist())]

    def _exposure(self, probe: KnowledgeProbe) -> Exposure | None:
        return None if self._exposures is None else self._exposures[probe.passage]


class TaskObserver(Timed):
    """Lets the model answer a downstream task: the items of P."""

    def __init__(self, task: Task, cadence: Cadence) -> None:
        super().__init__(cadence)
        self._task = task
        self._questions: EncodedQuestions | None = None

    def items(self) -> Rows:
        """The choices, one a row, question after question."""
        return {self._task.name: choice_rows(self._task)}

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """The log-probability of every choice, in nats, and the score."""
        self._questions = self._questions or encoded_task(model, self._task)
        found = evaluate_task(
            model, self._task, questions=self._questions, distributed=shared_out()
        )
        name, values = self._task.name, torch.cat(found.scores.log_probs).tolist()
        return [
            ScoresRecord(step, name, values),
            TaskRecord(step, name, self._task.metric, found.score, name, found.scores.split_apart),
        ]


class ClozeObserver(Timed):
    """Asks for values that sentences stop before: what is left of facts that were learnt before.

    An item is answered right if its value is more probable than every alternative.
    """

    def __init__(
        self, items: Iterable[ClozeItem], cadence: Cadence, *, name: str = "cloze"
    ) -> None:
        super().__init__(cadence)
        self._items, self._name = list(items), name
        self._questions: EncodedQuestions | None = None

    def items(self) -> Rows:
        """The items, one a row."""
        return {self._name: [asdict(item) for item in self._items]}

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """The log-probability of every value, in nats, and the share that beat all alternatives."""
        self._questions = self._questions or encode_questions(
            model,
            [
                [(item.prompt, text) for text in (item.target, *item.alternatives)]
                for item in self._items
            ],
        )
        found = choice_scores(model, self._questions, distributed=shared_out())
        best = [bool((each[0] > each[1:]).all()) for each in found.log_probs]
        values, right = [float(each[0]) for each in found.log_probs], sum(best) / len(best)
        return [
            ScoresRecord(step, self._name, values),
            TaskRecord(step, self._name, "acc", right, self._name, found.split_apart),
        ]


def _kept(batches: Batches) -> list[Mapping[str, Any]]:
    if wrong := some_batches(batches):
        raise ValueError(f"batches is {wrong}")
    return [*as_batches(batches)]


class HeldOutObserver(Timed):
    """Measures how well text is predicted: batches, the same every time, of a corpus so called."""

    def __init__(self, corpus: str, batches: Batches, cadence: Cadence) -> None:
        super().__init__(cadence)
        self._corpus, self._batches = corpus, _kept(batches)

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """Mean loss in nats per token, and bits per byte where the bytes are known."""
        found = measure_perplexity(model, self._batches)
        return [
            PerplexityRecord(step, self._corpus, found.mean_loss, found.bits_per_byte, found.tokens)
        ]


class EntropyObserver(Timed):
    """Measures the three entropies, the invariant contribution entropy, and dormant neurons: those
    whose mean absolute coefficient is at most `DORMANT` means of their layer.
    """

    def __init__(self, batches: Batches, cadence: Cadence) -> None:
        super().__init__(cadence)
        self._batches = _kept(batches)

    def observe(self, model: HookedModel, step: int) -> list[Record]:
        """The entropies in nats, and the share of dormant neurons of every layer."""
        # Not `measure_entropy`: it also hashes the weights, which a run writes down once.
        resampling = Resampling()
        meters = [
            KnowledgeMeter(model, Coefficient.ABS, resampling),
            AttentionMeter(model, resampling),
            NextTokenMeter(model, resampling),
        ]
        settings = PassSettings(weighting=Weighting.INSTANCE, blocks=resampling.blocks)
        run_pass(model, self._batches, meters, settings, None)
        found: dict[str, Any] = {}
        for meter in meters:
            found |= meter.results()
        records: list[Record] = [
            EntropyRecord(step, kind, one.total, one.per_layer.tolist(), _ends(one.interval))
            for kind in ("knowledge", "contribution", "attention")
            for one in [found[kind]]
        ]
        last, means = found["next_token"], found["knowledge"].mean_coefficients
        shares = (means <= DORMANT * means.mean(dim=1, keepdim=True)).double().mean(dim=1)
        return [
            *records,
            EntropyRecord(step, "next_token", last.mean, [], _ends(last.interval)),
            NeuronRecord(step, shares.tolist(), DORMANT),
        ]


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
