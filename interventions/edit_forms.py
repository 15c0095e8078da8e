"""The two forms of an edit: hooks that come off again, and new values for weights.

An `Edit` says how it is done in both. `interventions.edits` applies edits in either form.

Example:
    >>> import torch
    >>> change = WeightChange("mlp.up_proj.weight", 0, torch.tensor([1]), lambda rows: 2 * rows)
    >>> change.new(torch.ones(1, 3)).tolist()
    [[2.0, 2.0, 2.0]]
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from probes.hooked_model import HookedModel
from probes.model_folder import sha256_of
from probes.refusals import shown


class NotInWeightsError(ValueError):
    """Weights cannot express an edit of this model, and hooks can."""


class Clock:
    """How far a run has come; edits that change over it ask in every forward pass.

    Args:
        progress: 0 at the start, 1 at the end; can be set.

    Raises:
        ValueError: the progress is not between 0 and 1.
    """

    progress: float

    def __init__(self, progress: float = 0.0) -> None:
        self.progress = progress

    def __setattr__(self, name: str, value: float) -> None:
        if name == "progress" and not 0 <= value <= 1:
            raise ValueError(f"progress of a run goes from 0 to 1, found {value}; set a share")
        super().__setattr__(name, value)


@dataclass(frozen=True, eq=False)
class WeightChange:
    """Some rows of one parameter, or all of it, get new values."""

    parameter: str
    """The parameter's name in the Hugging Face model's state dict."""
    axis: int
    """The axis along which `index` selects."""
    index: Int64[Tensor, "n"] | None
    """Which rows, each at most once; None for all."""
    new: Callable[[Tensor], Tensor]
    """From the selected values, as float32 or wider, to new ones of the same shape."""


@runtime_checkable
class Edit(Protocol):
    """A change of a model, as hooks and, where weights can express it, as weights.

    This is where edits of one's own come in: any object with these three methods is one. Both forms
    have to compute the same function; a form that there is not raises ValueError. `docs/edits.md`
    has a worked example.

    Example:
        >>> class Gain:
        ...     def attached(self, model, clock):
        ...         return model.hooks([("blocks.3.hook_mlp_out", lambda x, point: x / 2)])
        ...
        ...     def weight_changes(self, model):
        ...         name = "model.layers.3.mlp.down_proj.weight"
        ...         return [WeightChange(name, 0, None, lambda weight: weight / 2)]
        ...
        ...     def describe(self):
        ...         return {"kind": "gain", "layer": 3}
        >>> isinstance(Gain(), Edit)
        True
    """

    def attached(self, model: HookedModel, clock: Clock) -> AbstractContextManager[None]:
        """Make the change by hooks for the length of a `with` block.

        Args:
            model: the model to change.
            clock: how far the run has come.

        Raises:
            ValueError: the edit does not fit the model, or its backend cannot do it.
        """

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        """The change as weights; nothing is written.

        Args:
            model: the model to change.

        Raises:
            ValueError: the edit does not fit the model, or weights cannot express it.
        """

    def describe(self) -> dict[str, Any]:
        """The edit and all its settings, as JSON takes them."""


def an_edit(value: Any) -> str | None:
    """What is wrong with a value as an edit (a check of `probes.checking`)."""
    if isinstance(value, type):
        return f"{shown(value)}; give one of it, {value.__name__}(...)"
    if isinstance(value, Edit):
        return None
    if isinstance(value, list | tuple):
        return f"{shown(value)}; give edits one by one: *edits"
    if hasattr(value, "parameter_multipliers"):
        return f"{shown(value)}, which edits no model; it is an optimizer_edit of training.train"
    return f"{shown(value)}; give one such as interventions.AttentionTemperature(1.5)"


def some_edits(value: Any) -> str | None:
    """What is wrong with a value as a list of edits (a check of `probes.checking`)."""
    if not isinstance(value, list | tuple):
        return f"{shown(value)}; give a list of edits"
    for place, edit in enumerate(value):
        if (wrong := an_edit(edit)) is not None:
            return f"a {type(value).__name__} whose item {place} is {wrong}"
    return None


@dataclass(frozen=True)
class TensorChange:
    """What became of one parameter."""

    parameter: str
    rows_changed: int
    """How many of its rows (along the axis that neurons or heads lie on) have other bits now."""
    rows: int
    norm_before: float
    norm_after: float
    relative_change: float  # norm of the difference, relative to the norm before


@dataclass(frozen=True, eq=False)
class _Kept:
    weight: Tensor
    axis: int
    index: Int64[Tensor, "n"] | None
    before: Float[Tensor, "..."]
    norm_before: float

    def now(self) -> Tensor:
        return self.weight.detach()[_place(self.axis, self.index)]

    def rows_changed(self) -> int:
        now = self.now()
        differs = (now != self.before.to(now.device)).movedim(self.axis, 0)
        return int(differs.reshape(len(differs), -1).any(dim=1).sum())


class WeightWrites:
    """Writes changes into the weights of a model, once, and puts the old bits back."""

    def __init__(self, module: nn.Module, *, in_passing: bool = False) -> None:
        self._weights = module.state_dict(keep_vars=True)
        self._in_passing = in_passing
        self._kept: dict[str, _Kept] = {}
        self._hashes: dict[str, str] = {}

    def write(self, changes: Sequence[WeightChange]) -> None:
        """Write changes, in order; after any error all is as it was."""
        changes = [change for change in changes if change.index is None or len(change.index)]
        by_parameter: dict[str, list[WeightChange]] = {}
        for change in changes:
            self._refuse_unwritable(change.parameter)
            by_parameter.setdefault(change.parameter, []).append(change)
        for name, own in by_parameter.items():
            weight, axis, index = self._weights[name], own[0].axis, _union(own)
            before = weight.detach()[_place(axis, index)].clone()
            norm = 0.0 if self._in_passing else _norm(weight.detach())
            self._kept[name] = _Kept(weight, axis, index, before, norm)
        try:
            for change in changes:
                self._write(change)
            if not self._in_passing:
                self._hashes = {name: sha256_of({name: k.now()}) for name, k in self._kept.items()}
        except BaseException:
            self._put_back()
            raise

    def changed(self, *, but_for: Collection[str] = ()) -> bool:
        """Whether any weight has other bits than before, those of some names left aside."""
        return any(k.rows_changed() for name, k in self._kept.items() if name not in but_for)

    def changes(self) -> tuple[TensorChange, ...]:
        """What became of every parameter that was written to."""
        found = []
        for name, kept in self._kept.items():
            weight, now = kept.weight.detach(), kept.now()
            wide = torch.promote_types(weight.dtype, torch.float32)
            moved = _norm(now.to(wide) - kept.before.to(now.device, wide))
            relative = moved / kept.norm_before if kept.norm_before else float("inf")
            rows, counts = weight.shape[kept.axis], kept.rows_changed()
            norms = (kept.norm_before, _norm(weight))
            found.append(TensorChange(name, counts, rows, *norms, relative))
        return tuple(found)

    def restore(self) -> None:
        for name, written in self._hashes.items():
            if sha256_of({name: self._kept[name].now()}) != written:
                raise ValueError(
                    f"{name} was changed since the patch, so its old values are not put back; "
                    "undo later patches first, or load the model again"
                )
        self._put_back()

    def _refuse_unwritable(self, name: str) -> None:
        weight = self._weights.get(name)
        if weight is None:
            raise NotInWeightsError(
                f"the model stores no {name}: something makes that weight of others (adapter, "
                "pruning, parametrization); merge or remove it first, or use the edit as a hook"
            )
        if not weight.is_floating_point():
            raise ValueError(
                f"{name} holds {weight.dtype}, not floating-point numbers, and cannot be edited; "
                "load the model without quantization"
            )

    def _write(self, change: WeightChange) -> None:
        old = self._weights[change.parameter].detach()[_place(change.axis, change.index)]
        new = change.new(old.to(torch.promote_types(old.dtype, torch.float32)))
        assert new.shape == old.shape, (change.parameter, new.shape, old.shape)
        self._store(change.parameter, change.axis, change.index, new)

    @torch.no_grad()
    def _store(self, name: str, axis: int, index: Tensor | None, rows: Tensor) -> None:
        # `data` is the same memory without the counter by which autograd sees changes.
        weight = self._weights[name].data if self._in_passing else self._weights[name]
        weight[_place(axis, index)] = rows.to(weight)

    def _put_back(self) -> None:
        for name, kept in self._kept.items():
            self._store(name, kept.axis, kept.index, kept.before)


def _union(changes: Sequence[WeightChange]) -> Tensor | None:
    """All rows that any of the changes selects; None for the whole of the parameter."""
    found = [change.index for change in changes if change.index is not None]
    on_one_axis = len({change.axis for change in changes}) == 1
    return torch.cat(found).unique() if on_one_axis and len(found) == len(changes) else None


def _place(axis: int, index: Tensor | None) -> tuple[slice | Tensor, ...]:
    return (slice(None),) * axis + (slice(None) if index is None else index,)


def _norm(weight: Tensor) -> float:
    wide = torch.promote_types(weight.dtype, torch.float32)
    return float(torch.linalg.vector_norm(weight, dtype=wide))
