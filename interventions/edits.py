"""Edits: change a model by hooks for a while (`applied`), or in its weights (`patch_weights`).

Several edits act in the order in which they are given. Both forms compute the same function, but
train differently: a hook is a fixed gain in front of the weights as they were, and multiplies the
learning rates of rows too.

Edits are tried on a few fixed tokens first (`check_edits`), once all by hooks and once by weights
where weights can express them. An edit is refused that changes neither logits nor coefficients nor
any weight but attention's (`Identity` may), that makes numbers which are not finite, or whose two
forms differ by more than rounding. The hooks of others are off meanwhile on the native backend, and
the weights get the same bits back; autograd does not notice.

`applied` reaches passes through the hooked model. `nnsight_edited` gives an nnsight model that has
the edits in its own traces and generations, beside the one that stays as it was; at the end of a
generation nnsight warns that an open loop "was cut short", as it always does.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interventions.edit_forms import Clock, Edit, TensorChange, WeightChange, WeightWrites, an_edit
from probes.attach import projections_unchanged
from probes.backends.nnsight import NnsightEngine
from probes.checking import difference, few_tokens, hooked_model, takes, tolerance
from probes.choices import Backend
from probes.corpus.token_batch import as_token_batch
from probes.hooked_model import HookedModel
from probes.places import keeping
from probes.shown import Result
from probes.sites import HookPoint, Site

_reports: "WeakKeyDictionary[nn.Module, list[PatchReport]]" = WeakKeyDictionary()


class PatchReport(Result):
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
        """A row for each tensor: rows changed, norms, and change relative to its norm."""
        return self.to_dataframe().to_string(index=False, float_format="{:.5g}".format)

    def to_dataframe(self) -> Any:
        """One row per tensor: rows changed, norms, and change relative to its norm."""
        import pandas as pd

        return pd.DataFrame([asdict(change) for change in self.changes])

    def _facts(self) -> Mapping[str, Any]:
        kinds = ", ".join(str(edit.describe().get("kind")) for edit in self.edits)
        changed = [change for change in self.changes if change.rows_changed]
        largest = max((change.relative_change for change in changed), default=0.0)
        undone = {"undone": "yes"} if self._writes is None else {}
        numbers = {"tensors changed": len(changed), "largest relative change": largest}
        return {"": kinds, **numbers, **undone}


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


# Hooks without which a sharded, offloaded or compiled model does not run.
_LIBRARIES = ("torch", "accelerate", "transformers")

# In half precision, weights that are rounded once more can move a deep model whose layers an edit
# has thrown off by a tenth of what the edit does; another edit would move it by all of that.
_HALF_PRECISION_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the model computes with the first edits made."""

    logits: Float[Tensor, "batch pos d_vocab"]
    coefficients: Float[Tensor, "layer batch pos d_mlp"]
    wrote: bool = False
    """Whether the last of the edits changed a weight that a few tokens may not have used."""

    def same(self, other: "_Seen") -> bool:
        return torch.equal(self.logits, other.logits) and torch.equal(
            self.coefficients, other.coefficients
        )

    def gap(self, other: "_Seen") -> float:
        """The larger of the differences in logits and in coefficients of a layer."""
        pairs = zip(self.coefficients, other.coefficients, strict=True)
        return max(difference(self.logits, other.logits), *(difference(a, b) for a, b in pairs))

    def finite(self) -> bool:
        return bool(self.logits.isfinite().all() and self.coefficients.isfinite().all())


def check_edits(model: HookedModel, edits: Sequence[Edit]) -> None:
    """Try edits on a few tokens; the model is left as it was."""
    changes = [_changes_or_none(edit, model) for edit in edits]
    with torch.no_grad(), model.evaluating(), _without_hooks_of_others(model):
        before = _observed(model)
        forms = [
            [before, *_observed_in_turn(model, edits, own)]
            for own in ([None] * len(edits), changes)
        ]
    for i, edit in enumerate(edits):
        tried = [form[i : i + 2] for form in forms if i + 1 < len(form)]
        if not tried:
            return
        _require(edit, *zip(*tried, strict=True), finite=before.finite(), dtype=model.dtype)


def _require(
    edit: Edit, earlier: Sequence[_Seen], made: Sequence[_Seen], *, finite: bool, dtype: torch.dtype
) -> None:
    kind = edit.describe()["kind"]
    if finite and not all(seen.finite() for seen in made):
        raise ValueError(
            f"edit {kind!r} makes numbers that are not finite in {dtype}; set max_multiplier, or "
            "leave neurons with tiny coefficients out"
        )
    idle = all(now.same(then) and not now.wrote for now, then in zip(made, earlier, strict=True))
    if idle and kind != "identity":
        raise ValueError(
            f"edit {kind!r} changes nothing: no weight, and on a few tokens neither logits nor "
            "coefficients; leave it out, or use Identity() where that is meant"
        )
    if len(made) < 2:
        return
    # Also a float64 model computes norms and rotations in float32, in most families.
    allowed = tolerance(torch.float32 if dtype is torch.float64 else dtype)
    if dtype.itemsize < 4:
        allowed = max(allowed, _HALF_PRECISION_SHARE * made[0].gap(earlier[0]))
    if not (gap := made[0].gap(made[1])) <= allowed:
        raise ValueError(
            f"edit {kind!r} does one thing as hooks and another as weights: what the model "
            f"computes differs by {gap:.2g} of the largest value, where rounding explains "
            f"{allowed:.2g}; it is refused"
        )


def _observed_in_turn(
    model: HookedModel, edits: Sequence[Edit], changes: Sequence[list[WeightChange] | None]
) -> Iterator[_Seen]:
    """After each of the edits, by weights or hooks; ends at the first that hooks cannot do."""
    with ExitStack() as stack:
        for edit, own in zip(edits, changes, strict=True):
            wrote = False
            if own is None:
                try:
                    stack.enter_context(edit.attached(model, Clock()))
                except ValueError:
                    return
            else:
                writes = WeightWrites(model.hf_model, in_passing=True)
                stack.callback(writes.restore)
                writes.write(own)
                wrote = writes.changed(but_for=_of_attention(model))
            yield _observed(model, wrote=wrote)


def _of_attention(model: HookedModel) -> set[str]:
    """Names of attention's weights, which every token uses, as it need not each memory vector."""
    layers = model.anatomy.layers
    own = {id(weight) for layer in layers for weight in layer.attention.parameters()}
    named = model.hf_model.named_parameters(remove_duplicate=False)
    return {name for name, weight in named if id(weight) in own}


def _changes_or_none(edit: Edit, model: HookedModel) -> list[WeightChange] | None:
    try:
        _ = model.hf_model  # raises on a backend that has rewritten it
        return edit.weight_changes(model)
    except ValueError:
        return None


def _observed(model: HookedModel, *, wrote: bool = False) -> _Seen:
    kept: dict[HookPoint, Tensor] = {}
    points = [HookPoint(Site.MLP_COEFFICIENTS, layer) for layer in range(model.n_layers)]
    ids = few_tokens(model.anatomy.n_tokens, model.device)
    with model.hooks(keeping(points, kept, Tensor.clone)):
        logits = model.logits(as_token_batch({"input_ids": ids})).clone()
    coefficients = torch.stack([kept[point].to(logits.device) for point in points])
    return _Seen(logits, coefficients, wrote)


@contextmanager
def _without_hooks_of_others(model: HookedModel) -> Iterator[None]:
    parts = list(model.engine.module.modules()) if model.backend is Backend.NATIVE else []
    held = [hooks for part in parts for hooks in (part._forward_pre_hooks, part._forward_hooks)]
    taken = [(hooks, dict(hooks)) for hooks in held if hooks]
    for hooks, before in taken:
        for key, hook in before.items():
            if (getattr(hook, "__module__", None) or "").split(".")[0] not in _LIBRARIES:
                del hooks[key]
    try:
        with projections_unchanged(parts):
            yield
    finally:
        for hooks, before in taken:
            hooks.clear()
            hooks.update(before)


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
        return bool(self._hooks or self._last)

    def run_in(self, edited: Any) -> None:
        """Run it in the pass that is under way; called in the body of an edit."""
        self.wrapped = edited
        # Shapes matter to models that flatten their batch only.
        self._visit_all({"input_ids": torch.empty(0)}, unembed=True)
