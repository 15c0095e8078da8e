"""ReDo: give dormant neurons a fresh start, rather than more activity.

Their incoming rows (up, and gate where there is one) are drawn again as the model's initialiser
draws them, their biases there become zero, and so do their memory vectors: what the model computes
loses only what the dormant neurons gave.

A neuron is dormant if its mean coefficient is at most `threshold` times the mean of its layer, as
in the paper, or if it is among the `ratio` least active ones, to match a resuscitation.

As a hook it is for measuring: behind it no gradient reaches the memory vectors that count zero
times. Patch the weights to train.

Source: Sokar et al., "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", ICML 2023,
Eq. 1 and Algorithm 1.

Example:
    >>> import torch
    >>> ReDo(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), threshold=0.5).selected().tolist()
    [[True, False, False, False]]
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interventions.choices import Selection
from interventions.drawn_rows import gaussian
from interventions.edit_forms import Clock, WeightChange
from interventions.mlp_rows import Rows, gate_rows, memory_rows, neurons_of, up_rows
from interventions.model_identity import measured_means, require_measured_on
from interventions.module_hooks import require_native, with_rows_replaced
from interventions.selection import inactive
from probes.entropy import knowledge_entropy
from probes.hooked_model import HookedModel
from probes.results import EntropyResult
from probes.weights_hash import sha256_of


@dataclass(frozen=True, eq=False)
class ReDo:
    """Starts dormant neurons afresh.

    Args:
        mean_coefficients: mean |c| of every neuron, `[layer d_mlp]`, or the result of measuring
            them, which also says on which weights.
        ratio: the share of neurons of a layer that count as dormant, 0 to 1; or
        threshold: the mean coefficient, in means of the layer, up to which a neuron is dormant.
        seed: of the new rows.
        model_hash: content hash of the model that a tensor was measured on; None not to check.

    Raises:
        ValueError: not exactly one of ratio and threshold is given, or one is out of range.
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
        if self.ratio is not None and not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is a share from 0 to 1, found {self.ratio}; 0.5 is one half")
        if self.threshold is not None and not self.threshold >= 0:
            raise ValueError(f"threshold must be 0 or more, found {self.threshold}")

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
        """Have the projections work with new rows, and the memory vectors not count."""
        del clock
        require_native(model, "ReDo")
        self._require(model)
        kept: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for layer, neurons in _dormant(self.selected()):
                kept[layer] = torch.ones(model.d_mlp).index_fill(0, neurons, 0.0)
                for rows in _incoming(model, layer):
                    new, bias = self._drawn(model, rows, len(neurons)), _no_bias(rows, neurons)
                    stack.callback(with_rows_replaced(rows, neurons, new, bias).remove)
            stack.enter_context(model.memory_vectors_scaled(kept))
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        """New incoming rows, and zero biases and memory vectors."""
        self._require(model)
        changes: list[WeightChange] = []
        for layer, neurons in _dormant(self.selected()):
            for rows in _incoming(model, layer):
                drawn = self._drawn(model, rows, len(neurons))
                changes += rows.changes(neurons, _instead(drawn), torch.zeros_like)
            vectors = memory_rows(model, layer)
            changes += vectors.changes(neurons, torch.zeros_like, torch.zeros_like)
        return changes

    def describe(self) -> dict[str, Any]:
        """All settings, and hashes of the coefficients and of what they were measured on."""
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

    def _drawn(self, model: HookedModel, rows: Rows, count: int) -> Float[Tensor, "n d_model"]:
        weight = rows.module.weight
        width = weight.shape[1 - rows.axis]
        drawn = gaussian((count, width), self.seed, f"{rows.name} weight {rows.first}")
        # Rounded as the weights are, so that the hook computes with the same numbers.
        return (drawn * _initial_std(model)).to(weight.device, weight.dtype)


def _dormant(selected: Bool[Tensor, "layer d_mlp"]) -> list[tuple[int, Tensor]]:
    """Layers that have dormant neurons, and which these are."""
    found = ((layer, neurons_of(chosen)) for layer, chosen in enumerate(selected))
    return [(layer, neurons) for layer, neurons in found if len(neurons)]


def _incoming(model: HookedModel, layer: int) -> list[Rows]:
    found = [up_rows(model, layer)]
    return [*found, gate_rows(model, layer)] if model.architecture.gated else found


def _no_bias(rows: Rows, neurons: Tensor) -> Tensor | None:
    bias = rows.bias(neurons)
    return None if bias is None else torch.zeros_like(bias)


def _instead(drawn: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda old: drawn.to(old.device, old.dtype)


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
