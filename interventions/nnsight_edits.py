"""nnsight edits: an nnsight model in whose own traces and generations edits run.

`applied` reaches passes through the hooked model; `nnsight_edited` gives an nnsight model that has
the edits in its own entry points, beside the one that stays as it was. Whoever calls the Hugging
Face model under it runs the unedited one, and nothing of an edit is saved. Edits run in every pass
of a generation by an open loop, at whose end nnsight warns that it "was cut short", as it always
does. What cannot be done there is refused by name.
"""

from contextlib import ExitStack
from typing import Any

import torch

from interventions.edit_forms import Clock, Edit
from interventions.edits import check_edits
from probes.backends.nnsight import NnsightEngine
from probes.choices import Backend
from probes.hooked_model import HookedModel
from probes.sites import Site


def nnsight_edited(
    model: HookedModel, *edits: Edit, clock: Clock | None = None, check: bool = True
) -> Any:
    """An nnsight model that runs edits in every forward pass of its traces.

    Args:
        model: a hooked model on the nnsight backend.
        edits: what to do, in this order.
        clock: what edits that change over a run look at; None for the start of one.
        check: try the edits on a few tokens first.

    Returns:
        What nnsight's `edit` returns: a model with the same weights and tokenizer, to trace with.

    Raises:
        ValueError: the model is on another backend, or an edit does not fit it, changes nothing, or
            cannot be done in traces of others.
    """
    if model.backend is not Backend.NNSIGHT:
        raise ValueError(
            f"nnsight_edited needs a model on the nnsight backend, found {str(model.backend)!r}; "
            "load it with backend='nnsight', or use applied"
        )
    if model.architecture.flattened_mlp:
        raise ValueError(
            f"{model.architecture.family} flattens its batch in the MLP, which traces of others "
            "cannot undo; use applied, or patch_weights"
        )
    if check:
        check_edits(model, edits)
    recorder = _Recorder(model.engine.wrapped)
    recorder.record(model, edits, clock or Clock())
    # The body is kept, and run beside every trace; `iter` has it wait for each of its passes, and
    # would turn forever if nothing in it waited.
    with model.engine.wrapped.edit() as (tracer, edited):
        for _ in tracer.iter[:] if recorder.has_any else ():
            recorder.run_in(edited)
    return edited


class _Recorder(NnsightEngine):
    """Remembers what edits attach, and runs it in traces that others start."""

    def record(self, model: HookedModel, edits: tuple[Edit, ...], clock: Clock) -> None:
        """Remember what the edits attach."""
        inner = HookedModel(self, model.tokenizer, name=model.name, revision=model.revision)
        with ExitStack() as stack:
            for edit in edits:
                stack.enter_context(edit.attached(inner, clock))
            hooks, last = self._hooks, self._last
        kernel = self.config._attn_implementation
        if kernel != "eager" and any(point.site is Site.ATTENTION_SCORES for point, _ in hooks):
            raise ValueError(
                f"an attention temperature inside nnsight's traces needs eager attention, found "
                f"{kernel!r}; call set_attn_implementation('eager') on the model first, or use "
                "applied"
            )
        self._hooks, self._last = hooks, last

    @property
    def has_any(self) -> bool:
        """Whether anything is attached."""
        return bool(self._hooks or self._last)

    def run_in(self, edited: Any) -> None:
        """Run it in the pass that is under way; called in the body of an edit."""
        self.wrapped = edited
        # Shapes matter to models that flatten their batch only.
        self._visit_all({"input_ids": torch.empty(0)}, unembed=True)
