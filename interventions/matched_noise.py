"""Matched noise: change the rows that a resuscitation changes as much, but in random directions.

Every row of every projection that `like` multiplies gets Gaussian noise whose norm is that of the
change that `like` would make to it; a bias entry is moved by as much, up or down at random. A
control for the direction of the change.

Example:
    >>> import probes, interventions
    >>> model = probes.load_model("smollm2-135m-instruct-q4")                 # doctest: +SKIP
    >>> like = interventions.Resuscitation(result, ratio=0.5, factor=2.0)     # doctest: +SKIP
    >>> with interventions.applied(model, interventions.MatchedNoise(like)):  # doctest: +SKIP
    ...     noisy = probes.measure_entropy(model, batches)
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interventions.drawn_rows import gaussian
from interventions.edit_forms import Clock, WeightChange
from interventions.mlp_rows import Rows
from interventions.module_hooks import require_native, with_rows_added
from interventions.resuscitation import Resuscitation
from interventions.row_scaling import Piece, scaled_pieces
from probes.hooked_model import HookedModel


@dataclass(frozen=True, eq=False)
class MatchedNoise:
    """Noise of the size of a resuscitation's change, on the same rows.

    Args:
        like: the resuscitation that it is a control of.
        seed: of the noise.
    """

    like: Resuscitation
    seed: int = 0

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        """Add the noise to what the projections give, for the length of a `with` block.

        It is matched to the weights as they are now.
        """
        del clock
        require_native(model, "MatchedNoise")
        with ExitStack() as stack:
            for rows, neurons, by in self._pieces(model):
                noise = self._noise(rows, rows.weight(neurons), by)
                bias = rows.bias(neurons)
                if bias is not None:
                    bias = self._noise(rows, bias[:, None], by)[:, 0]
                stack.callback(with_rows_added(rows, neurons, noise, bias).remove)
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        """Add the noise to the rows."""
        return [
            change for piece in self._pieces(model) for change in self._changes_of_piece(*piece)
        ]

    def describe(self) -> dict[str, Any]:
        """The seed, and the resuscitation that it is a control of."""
        return {"kind": "matched_noise", "seed": self.seed, "like": self.like.describe()}

    def _pieces(self, model: HookedModel) -> list[Piece]:
        self.like.require(model)
        return scaled_pieces(model, self.like.multipliers(), self.like.at)

    def _changes_of_piece(self, rows: Rows, neurons: Tensor, by: Tensor) -> list[WeightChange]:
        return rows.changes(
            neurons,
            lambda old: old + self._noise(rows, old, by),
            lambda old: old + self._noise(rows, old[:, None], by)[:, 0],
        )

    def _noise(
        self, rows: Rows, values: Float[Tensor, "n width"], by: Float[Tensor, "n"]
    ) -> Float[Tensor, "n width"]:
        """Noise for each row with the norm of the row times |by - 1|, as float32 or wider."""
        part = "bias" if values.shape[1] == 1 else "weight"
        place = f"{rows.name} {part} {rows.first}"
        drawn = gaussian(tuple(values.shape), self.seed, place).to(values.device)
        wide = drawn.to(values.dtype) if values.dtype.itemsize > 4 else drawn
        norms = values.to(wide.dtype).norm(dim=1) * (by - 1).abs().to(wide.device, wide.dtype)
        return wide * (norms / wide.norm(dim=1))[:, None]
