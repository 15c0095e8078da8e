"""Finite numbers only: what is not finite is refused, with the place where it began.

A model in half precision may overflow on some rows and not on others. What comes of it (NaN, or an
infinity) must not pass for a number further on: a NaN logit ranks below everything, a NaN
probability adds nothing to a sum. So whoever reads numbers off a model asks `all_finite` about
what it has read, which is one sum over values that are small already. Only where they are not is
the batch run once more, with a look at every hook point, and refused by `refusal`.

Pads do not count: what a model computes on them may be anything.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.checking import all_finite, what_makes_finite
from probes.corpus.token_batch import TokenBatch
from probes.hooked_model import HookedModel
from probes.sites import HookPoint, Site, hook_name

# Reading the first two would change how attention is computed; logits are what is asked about.
_NOT_LOOKED_AT = (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN, Site.LOGITS)
_searching: ContextVar[bool] = ContextVar("searching", default=False)


@dataclass(frozen=True)
class Origin:
    """Where in a forward pass the first value that is not finite appears."""

    point: HookPoint | None
    """None for the logits."""
    row: int
    pos: int
    value: float | None

    def described(self, model: HookedModel, row_name: Callable[[int, int], str]) -> str:
        """The place, the row and its token."""
        place = "the logits"
        if self.point is not None:
            place = hook_name(self.point, gated=model.architecture.gated)
        value = "" if self.value is None else f" with {self.value}"
        return f"it begins{value} at {place}, in {row_name(self.row, self.pos)}"


def require_finite(
    values: Float[Tensor, "counted *rest"],
    model: HookedModel,
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
    model: HookedModel,
    what: str,
    run: Callable[[], Any],
    counted: Bool[Tensor, "row pos"],
    row_name: Callable[[int, int], str],
    at: tuple[int, int],
) -> ValueError:
    """The error to raise for something not finite, after a pass that finds out where it began."""
    origin = where_it_began(model, run, counted) or Origin(None, *at, None)
    helps = what_makes_finite(model.name, model.engine.state_dict(), model.dtype)
    return ValueError(f"{what} is not finite: {origin.described(model, row_name)}; {helps}")


def where_it_began(
    model: HookedModel, run: Callable[[], Any], counted: Bool[Tensor, "row pos"]
) -> Origin | None:
    """The first hook point that shows a value which is not finite; None where none does."""
    found: list[Origin] = []

    def look(tensor: Tensor, point: HookPoint) -> None:
        if found:
            return
        bad = ~tensor.detach().isfinite().flatten(2)
        where = (bad & counted.to(bad.device)[:, :, None]).nonzero()
        if len(where):
            row, pos, column = where[0].tolist()
            value = float(tensor.detach().flatten(2)[row, pos, column])
            found.append(Origin(point, row, pos, value))

    points = [point for point in model.hook_points() if point.site not in _NOT_LOOKED_AT]
    hooks = model.hooks([(point, look) for point in points])
    with torch.no_grad(), model.evaluating(), _while_searching(), hooks:
        run()
    return found[0] if found else None


@contextmanager
def _while_searching() -> Iterator[None]:
    """While a batch is run again, what others read of it is not checked again."""
    token = _searching.set(True)
    try:
        yield
    finally:
        _searching.reset(token)
