"""Run a model with functions at its hook points, and refuse what is not finite.

`capture` keeps what was asked for, detached. `stream` keeps nothing: each tensor is handed to a
reducer inside the hook, on its device, so a corpus of any length takes the memory of one batch.
Both run only as much of the model as they need, in evaluation mode and without gradients.

A model in half precision may overflow on some rows and not on others. So whoever reads numbers off
a model asks `all_finite` about what it has read, which is one sum over values that are small
already. Only where they are not is the batch run once more, with a look at every hook point, and
refused with the place where it began. Pads do not count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.captured import Captured
from probes.checking import all_finite, hooked_model, takes, what_makes_finite
from probes.checking import batch as batch_given
from probes.checking import batches as batches_given
from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch
from probes.places import IN_ATTENTION, HookFunction, Hooks, keeping
from probes.refusals import shown
from probes.running_model import RunningModel
from probes.sites import HookPoint, Site, as_site, hook_name

# Reading what is in attention would change how it is computed; logits are what is asked about.
_NOT_LOOKED_AT = (*IN_ATTENTION, Site.LOGITS)
_searching: ContextVar[bool] = ContextVar("searching", default=False)


@runtime_checkable
class Reducer(Protocol):
    """What `stream` needs: takes tensors one batch at a time and says what they come to."""

    def update(self, values: Tensor, mask: Bool[Tensor, "batch pos"]) -> None:
        """Take the values of one batch; mask is False on pads."""

    def merge(self, other: Any) -> None:
        """Take over what another reducer of the same kind has seen."""

    def result(self) -> Any:
        """What all values seen so far come to."""


@takes(model=hooked_model, batch=batch_given)
def capture(
    model: RunningModel,
    batch: Mapping[str, Tensor],
    sites: Iterable[Site | str] | Site | str,
    layers: Sequence[int] | int | None = None,
) -> Captured:
    """Run one batch and keep the tensors at some sites.

    Args:
        model: the model to run.
        batch: `input_ids` and, where rows are padded, `attention_mask`, `[batch pos]`.
        sites: what to keep, one or several; shapes are in the table of `probes.sites`.
        layers: of which layer or layers; None for all.

    Returns:
        Mapping from `(site, layer)` to the detached tensor; TransformerLens names work as keys.

    Raises:
        ValueError: a layer does not exist, or the model has no such site.
    """
    if isinstance(sites, str):
        sites = (sites,)
    if not isinstance(sites, Iterable) or not (sites := [*sites]):
        raise ValueError(f"capture: sites is {shown(sites)}; give one or several, 'resid_post' say")
    chosen = range(model.n_layers) if layers is None else layers
    if isinstance(chosen, int):
        chosen = (chosen,)
    points = [
        model.hook_point((site, layer))
        for site in map(as_site, sites)
        for layer in (chosen if site.per_layer else (None,))
    ]
    kept: dict[HookPoint, Tensor] = {}
    given = as_token_batch(batch)
    run_hooked(model, given, keeping(points, kept))
    found = {point: kept[point] for point in points}
    return Captured(found, model=model, attention_mask=given.attention_mask)


def _some_reducers(value: Any) -> str | None:
    if not isinstance(value, Mapping) or not value:
        return f"{shown(value)}; give hook points and what reduces each: {{name: RunningMean()}}"
    for name, one in value.items():
        if isinstance(one, type) or not isinstance(one, Reducer):
            return f"a mapping with {shown(one)} for {name!r}; give one such as RunningMean()"
    return None


@takes(model=hooked_model, batches=batches_given, reducers=_some_reducers)
def stream(
    model: RunningModel,
    batches: Batches,
    reducers: Mapping[str | HookPoint, Reducer],
) -> dict[str | HookPoint, Any]:
    """Run batches and reduce the tensors at hook points as they come by.

    Args:
        model: the model to run.
        batches: `input_ids` and `attention_mask`, `[batch pos]`, one mapping a batch; one by itself
            is one batch.
        reducers: one per hook point, or TransformerLens name; updated in place.

    Returns:
        The same keys with each reducer's result.

    Raises:
        ValueError: a hook point does not exist; `batches` is empty; what the model computes of a
            real token is not finite.
    """
    mask: Bool[Tensor, "batch pos"] | None = None

    def feeding(reducer: Reducer) -> HookFunction:
        def feed(tensor: Tensor, _point: HookPoint) -> None:
            assert mask is not None
            reducer.update(tensor.detach(), mask.to(tensor.device))

        return feed

    hooks = [(model.hook_point(name), feeding(reducer)) for name, reducer in reducers.items()]
    for batch in map(as_token_batch, as_batches(batches)):
        mask = batch.attention_mask.bool()
        normed = run_hooked(model, batch, hooks)
        if normed is not None:
            streams = normed[mask.to(normed.device)]
            require_finite(streams, model, batch, mask, "the residual stream")
    if mask is None:
        raise ValueError("there were no batches to stream; pass at least one")
    return {name: reducer.result() for name, reducer in reducers.items()}


def run_hooked(
    model: RunningModel, batch: TokenBatch, hooks: Hooks
) -> Float[Tensor, "batch pos d_model"] | None:
    """Run the trunk with functions attached, and the unembedding only where one needs logits."""
    wants_logits = any(point.site is Site.LOGITS for point, _ in hooks)
    with torch.no_grad(), model.evaluating(), model.hooks(hooks):
        if wants_logits:
            model.logits(batch)
            return None
        return model.trunk(batch)


def require_finite(
    values: Float[Tensor, "counted *rest"],
    model: RunningModel,
    batch: TokenBatch,
    counted: Bool[Tensor, "batch pos"],
    what: str,
) -> None:
    """Refuse a batch of which something was read that is not finite."""
    if _searching.get() or all_finite(values):
        return
    first = int((~values.isfinite()).nonzero()[0, 0])
    row, pos = counted.nonzero()[first].tolist()

    def named(row: int, pos: int) -> str:
        document = int(batch.segment_ids[row, pos])
        return f"document {document} (row {row} of its batch, token {pos})"

    real = counted | batch.attention_mask.bool()
    raise refusal(model, what, lambda: model.trunk(batch), real, named, (row, pos))


def refusal(
    model: RunningModel,
    what: str,
    run: Callable[[], Any],
    counted: Bool[Tensor, "row pos"],
    row_name: Callable[[int, int], str],
    at: tuple[int, int],
) -> ValueError:
    """The error for something not finite, after a pass that finds out where that began."""
    begins = where_it_began(model, run, counted, row_name)
    begins = begins or f"it begins at the logits, in {row_name(*at)}"
    helps = what_makes_finite(model.name, model.engine.state_dict(), model.dtype)
    return ValueError(f"{what} is not finite: {begins}; {helps}")


def where_it_began(
    model: RunningModel,
    run: Callable[[], Any],
    counted: Bool[Tensor, "row pos"],
    row_name: Callable[[int, int], str],
) -> str | None:
    """The first hook point, row and token of a pass that is not finite; None where none is."""
    found: list[str] = []

    def look(tensor: Tensor, point: HookPoint) -> None:
        if found:
            return
        bad = ~tensor.detach().isfinite().flatten(2)
        where = (bad & counted.to(bad.device)[:, :, None]).nonzero()
        if len(where):
            row, pos, column = where[0].tolist()
            value = float(tensor.detach().flatten(2)[row, pos, column])
            place = hook_name(point, gated=model.architecture.gated)
            found.append(f"it begins with {value} at {place}, in {row_name(row, pos)}")

    points = [point for point in model.hook_points() if point.site not in _NOT_LOOKED_AT]
    # While the batch runs again, what others read of it is not checked again.
    token = _searching.set(True)
    try:
        with torch.no_grad(), model.evaluating(), model.hooks([(p, look) for p in points]):
            run()
    finally:
        _searching.reset(token)
    return found[0] if found else None
