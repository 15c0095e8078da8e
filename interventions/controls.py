"""Controls: edits that resemble a resuscitation in all but the point that is to be tested.

Does it matter which neurons are scaled (`RandomRows`, `MostActiveRows`), or that rows are scaled
rather than merely changed (`MatchedNoise`)? `ReDo` starts dormant neurons afresh, `Identity` does
nothing; other learning rates for the same weights are in `interventions.learning_rates`.

Example:
    >>> import torch
    >>> from interventions.resuscitation import Resuscitation
    >>> like = Resuscitation(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), ratio=0.5, factor=2.0)
    >>> MostActiveRows(like).multipliers().tolist()
    [[1.0, 1.0, 6.0, 3.0]]
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interventions.choices import ResuscitationSite, Selection
from interventions.edit_forms import Clock, WeightChange
from interventions.neurons import (
    Piece,
    Rows,
    ScalesRows,
    gate_rows,
    inactive,
    measured_means,
    memory_rows,
    require_measured_on,
    require_native,
    require_some,
    scaled_pieces,
    up_rows,
    with_rows,
)
from interventions.resuscitation import Resuscitation
from probes.entropy import knowledge_entropy
from probes.hooked_model import HookedModel
from probes.model_folder import sha256_of
from probes.refusals import instance_of
from probes.results import EntropyResult
from probes.shown import Shown


def _require_resuscitation(control: Any) -> None:
    if wrong := instance_of(Resuscitation, "an interventions.Resuscitation")(control.like):
        raise ValueError(f"{type(control).__name__}: like is {wrong}")


@dataclass(frozen=True, eq=False)
class _OtherRows(ScalesRows):
    """The multipliers of a resuscitation, moved to other neurons of the same layer."""

    like: Resuscitation

    def __post_init__(self) -> None:
        _require_resuscitation(self)

    def multipliers(self) -> Float[Tensor, "layer d_mlp"]:
        """What every neuron is multiplied by, float64; 1 where it is left alone."""
        scale, selected = self.like.multipliers(), self.like.selected()
        moved = torch.ones_like(scale)
        for layer, chosen in enumerate(selected):
            values = scale[layer, chosen].sort(descending=True).values
            moved[layer, self.rows(layer, len(values))] = values
        return moved

    @property
    def at(self) -> ResuscitationSite:
        return self.like.at

    def require(self, model: HookedModel) -> None:
        self.like.require(model)

    @abstractmethod
    def rows(self, layer: int, count: int) -> Tensor:
        """Which neurons of a layer get multipliers, from the largest to the smallest."""


@dataclass(frozen=True, eq=False)
class RandomRows(_OtherRows):
    """The multipliers of a resuscitation on neurons drawn at random, layer by layer.

    Args:
        like: whose multipliers, how many in each layer, and at which site.
        seed: of the draw.
    """

    seed: int = 0

    def rows(self, layer: int, count: int) -> Tensor:
        """A random sample in random order; a layer's does not depend on the others."""
        generator = torch.Generator().manual_seed(self.seed * len(self.like.coefficients) + layer)
        return torch.randperm(self.like.coefficients.shape[1], generator=generator)[:count]

    def describe(self) -> dict[str, Any]:
        return {"kind": "random_rows", "seed": self.seed, "like": self.like.describe()}


@dataclass(frozen=True, eq=False)
class MostActiveRows(_OtherRows):
    """The multipliers of a resuscitation on as many of the most active neurons of each layer.

    They keep their order: the least active of them gets the largest.

    Args:
        like: whose multipliers, how many in each layer, and at which site.
    """

    def rows(self, layer: int, count: int) -> Tensor:
        """The most active neurons, from the least active of them on."""
        order = self.like.coefficients[layer].argsort(stable=True)
        return order[len(order) - count :]

    def describe(self) -> dict[str, Any]:
        return {"kind": "most_active_rows", "like": self.like.describe()}


@dataclass(frozen=True)
class Identity(Shown):
    """Changes nothing; what an unedited model passes for where an edit is expected."""

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        del model, clock
        yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        del model
        return []

    def describe(self) -> dict[str, Any]:
        return {"kind": "identity"}


def gaussian(shape: tuple[int, ...], seed: int, place: str) -> Tensor:
    """Independent standard normal numbers, float32 on the CPU."""
    digest = sha256(f"{seed} {place}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True, eq=False)
class MatchedNoise(Shown):
    """Noise of the size of a resuscitation's change, on the same rows.

    Args:
        like: the resuscitation that it is a control of.
        seed: of the noise.
    """

    like: Resuscitation
    seed: int = 0

    def __post_init__(self) -> None:
        _require_resuscitation(self)

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
                stack.enter_context(with_rows(rows, neurons, noise, bias, instead=False))
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        return [change for piece in self._pieces(model) for change in self._noisy(*piece)]

    def describe(self) -> dict[str, Any]:
        return {"kind": "matched_noise", "seed": self.seed, "like": self.like.describe()}

    def _pieces(self, model: HookedModel) -> list[Piece]:
        self.like.require(model)
        return scaled_pieces(model, self.like.multipliers(), self.like.at)

    def _noisy(self, rows: Rows, neurons: Tensor, by: Tensor) -> list[WeightChange]:
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


@dataclass(frozen=True, eq=False)
class ReDo(Shown):
    """Starts dormant neurons afresh.

    Args:
        mean_coefficients: mean |c| of every neuron, `[layer d_mlp]`, or the result of measuring
            them, which also says on which weights.
        ratio: the share of neurons of a layer that count as dormant, above 0, to 1; or
        threshold: the mean coefficient, in means of the layer, up to which a neuron is dormant.
        seed: of the new rows.
        model_hash: content hash of the model that a tensor was measured on; None not to check.

    Raises:
        ValueError: not exactly one of ratio and threshold is given, one is out of range, or no
            neuron is dormant.
    """

    mean_coefficients: Float[Tensor, "layer d_mlp"] | EntropyResult
    _: KW_ONLY
    ratio: float | None = None
    threshold: float | None = None
    seed: int = 0
    model_hash: str | None = None

    def __post_init__(self) -> None:
        means, measured_on = measured_means(self.mean_coefficients)
        object.__setattr__(self, "mean_coefficients", means)
        object.__setattr__(self, "model_hash", self.model_hash or measured_on)
        knowledge_entropy(means)  # refuses what are no means of absolute values
        if (self.ratio is None) == (self.threshold is None):
            given = "neither" if self.ratio is None else "both"
            raise ValueError(f"ReDo takes a ratio or a threshold, found {given}; pass one")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold must be 0 or more, found {self.threshold}")
        require_some(self.selected(), "the ratio" if self.threshold is None else "the threshold")

    def selected(self) -> Bool[Tensor, "layer d_mlp"]:
        """Which neurons are dormant."""
        means = self.mean_coefficients
        assert isinstance(means, Tensor)
        if self.ratio is not None:
            return inactive(means, self.ratio, Selection.QUANTILE)
        assert self.threshold is not None
        return means <= self.threshold * means.mean(dim=1, keepdim=True)

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        del clock
        require_native(model, "ReDo")
        self._require(model)
        kept: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for layer, neurons in self._dormant():
                kept[layer] = torch.ones(model.d_mlp).index_fill(0, neurons, 0.0)
                for rows, new in self._drawn(model, layer, len(neurons)):
                    bias = torch.zeros(len(neurons)) if rows.has_bias else None
                    stack.enter_context(with_rows(rows, neurons, new, bias, instead=True))
            stack.enter_context(model.memory_vectors_scaled(kept))
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        self._require(model)
        changes: list[WeightChange] = []
        for layer, neurons in self._dormant():
            for rows, new in self._drawn(model, layer, len(neurons)):
                changes += rows.changes(neurons, partial(_instead, new), torch.zeros_like)
            vectors = memory_rows(model, layer)
            changes += vectors.changes(neurons, torch.zeros_like, torch.zeros_like)
        return changes

    def describe(self) -> dict[str, Any]:
        assert isinstance(self.mean_coefficients, Tensor)
        return {
            "kind": "redo",
            "ratio": self.ratio,
            "threshold": self.threshold,
            "seed": self.seed,
            "coefficients_sha256": sha256_of({"mean_coefficients": self.mean_coefficients}),
            "model_sha256": self.model_hash,
        }

    def _require(self, model: HookedModel) -> None:
        assert isinstance(self.mean_coefficients, Tensor)
        shape = tuple(self.mean_coefficients.shape)
        require_measured_on(model, shape, self.model_hash, whose="ReDo")

    def _dormant(self) -> list[tuple[int, Tensor]]:
        """Layers that have dormant neurons, and which these are."""
        found = [torch.nonzero(chosen).flatten() for chosen in self.selected()]
        return [(layer, neurons) for layer, neurons in enumerate(found) if len(neurons)]

    def _drawn(
        self, model: HookedModel, layer: int, count: int
    ) -> Iterator[tuple[Rows, Float[Tensor, "n d_model"]]]:
        """New incoming rows for so many neurons of a layer, and where they belong."""
        for part in (up_rows, gate_rows) if model.architecture.gated else (up_rows,):
            rows = part(model, layer)
            weight = rows.module.weight
            shape = (count, weight.shape[1 - rows.axis])
            drawn = gaussian(shape, self.seed, f"{rows.name} weight {rows.first}")
            # Rounded as the weights are, so that the hook computes with the same numbers.
            yield rows, (drawn * _initial_std(model)).to(weight.device, weight.dtype)


def _instead(new: Tensor, old: Tensor) -> Tensor:
    return new.to(old.device, old.dtype)


def _initial_std(model: HookedModel) -> float:
    """Standard deviation with which the family's initialiser draws projections."""
    for name in ("initializer_range", "init_std"):
        std = getattr(model.engine.config, name, None)
        if std is not None:
            return float(std)
    raise ValueError(
        f"the configuration of {model.name} names no initial standard deviation "
        "(initializer_range), so it is not known how to draw new rows; set it there"
    )
