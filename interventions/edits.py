"""Edits: change a model by hooks for a while, or in its weights.

`applied` attaches edits to the model and takes them off again; `patch_weights` writes them into
its weights and can put the same bits back. Several edits act in the order in which they are given.
Both first try them on a few tokens (`interventions.self_check`): an edit that changes nothing, or
that does one thing as hooks and another as weights, is refused.

A hook and a patch compute the same function, but train differently: behind a hook, the optimizer
sees the weights as they were, and gradients pass through the edit on their way to them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from interventions.edit_forms import Clock, Edit, TensorChange, WeightChange, WeightWrites, an_edit
from interventions.self_check import check_edits
from probes.given import hooked_model, takes
from probes.hooked_model import HookedModel

__all__ = [
    "Clock",
    "Edit",
    "PatchReport",
    "TensorChange",
    "WeightChange",
    "applied",
    "patch_weights",
    "patched_edits",
]

_reports: "WeakKeyDictionary[nn.Module, list[PatchReport]]" = WeakKeyDictionary()


class PatchReport:
    """What a patch did to the weights, and the way back.

    Attributes:
        edits: what was patched, in order.
        changes: what became of every tensor that was touched.
    """

    def __init__(self, hf_model: Any, edits: tuple[Edit, ...], writes: WeightWrites) -> None:
        self.edits = edits
        self.changes: tuple[TensorChange, ...] = writes.changes()
        self._hf_model = hf_model
        self._writes: WeightWrites | None = writes

    def undo(self) -> None:
        """Put back the bits that were there before.

        Raises:
            ValueError: that was done already, or the weights were changed since.
        """
        if self._writes is None:
            raise ValueError("this patch was undone already; there is nothing left to undo")
        self._writes.restore()
        self._writes = None
        _reports[self._hf_model].remove(self)

    def __str__(self) -> str:
        """One line for each tensor: rows changed, norms, and change relative to its norm."""
        width = max((len(change.parameter) for change in self.changes), default=0)
        head = f"{'parameter':{width}}  {'rows':>13}  {'norm before':>11}  {'after':>11}  change"
        return "\n".join([head, *(change.line(width) for change in self.changes)])


@takes(model=hooked_model, edits=an_edit)
@contextmanager
def applied(model: HookedModel, *edits: Edit, check: bool = True) -> Iterator[Clock]:
    """Change a model by hooks for the length of a `with` block.

    They work inside a training step and under gradient checkpointing, and can be nested. What
    others have attached to the model stays.

    Args:
        model: the model to change; on any backend.
        edits: what to do, in this order.
        check: try the edits on a few tokens first.

    Yields:
        The clock that edits which change over a run look at: set its `progress`.

    Raises:
        ValueError: an edit does not fit the model, changes nothing, or does something else as
            weights.
    """
    if check:
        check_edits(model, edits)
    clock = Clock()
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.attached(model, clock))
        yield clock


@takes(model=hooked_model, edits=an_edit)
def patch_weights(model: HookedModel, *edits: Edit, check: bool = True) -> PatchReport:
    """Change the weights of a model in place; all of the edits, or none if there is an error.

    Args:
        model: the model to change; one whose Hugging Face model is there to be written to.
        edits: what to do, in this order.
        check: try the edits on a few tokens first.

    Returns:
        What was changed; its `undo()` puts the same bits back.

    Raises:
        ValueError: weights cannot express an edit, or it does not fit the model, changes nothing,
            or does something else as hooks.
    """
    hf_model = model.hf_model
    changes = [change for edit in edits for change in edit.weight_changes(model)]
    if check:
        check_edits(model, edits)
    writes = WeightWrites(hf_model)
    writes.write(changes)
    try:
        report = PatchReport(hf_model, edits, writes)
    except BaseException:
        writes.restore()
        raise
    _reports.setdefault(hf_model, []).append(report)
    return report


@takes(model=hooked_model)
def patched_edits(model: HookedModel) -> tuple[Edit, ...]:
    """The edits that are in a model's weights through `patch_weights`, in order."""
    reports = _reports.get(model.hf_model, [])
    return tuple(edit for report in reports for edit in report.edits)
