"""Observing: who looks at a model while it is trained, and who may end the training.

Example:
    >>> class Loud:
    ...     def due(self, step):
    ...         return step % 100 == 0
    ...     def observe(self, model, step):
    ...         return []
    >>> isinstance(Loud(), Observer), isinstance(Loud(), ItemsObserver)
    (True, False)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from probes.hooked_model import HookedModel
from training.batches import TrainingBatch
from training.runs.records import Record, StepRecord


@runtime_checkable
class Observer(Protocol):
    """Looks at the model during a run.

    It runs in evaluation mode, without gradients, through the edits, and on the float32 weights
    (under FSDP on those of the precision that the run computes in); random states are put back
    afterwards. In a run of several processes every one of them observes, and they must come to the
    same records.
    """

    def due(self, step: int) -> bool:
        """Whether to look after this many updates; 0 is the unchanged start."""

    def observe(self, model: HookedModel, step: int) -> Iterable[Record]:
        """What is seen."""


@runtime_checkable
class ItemsObserver(Observer, Protocol):
    """An observer whose records refer to lists of items."""

    def items(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """The lists, by the names that its records use; written when the run begins."""


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
