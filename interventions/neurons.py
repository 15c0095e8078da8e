r"""Neurons: which parameters hold their rows, which are inactive, and what multiplies them.

A projection is a `Linear` (`[out, in]`) or GPT-2's `Conv1D` (`[in, out]`); gate and up may be the
two halves of one. `Rows` hides that, in every family: it turns "multiply these neurons' rows" into
weight changes.

With :math:`\bar c_i` the mean coefficients of a layer and :math:`m` their mean, an inactive neuron
is multiplied by :math:`u_i = q m / \bar c_i`, so that its mean coefficient becomes :math:`q m` if
the layer's input stays the same. The knowledge entropy after the edit then follows without a
forward pass: it rises with *q* up to a summit, and falls beyond it.

Source: Kim et al., ICLR 2025, section 4.3 and Algorithm 1.

Example:
    >>> means = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    >>> multipliers(means, inactive(means, 0.5, Selection.QUANTILE), factor=2.0).tolist()
    [[6.0, 3.0, 1.0, 1.0]]
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from interventions.choices import ResuscitationSite, Selection
from interventions.edit_forms import Clock, NotInWeightsError, WeightChange
from probes.attach import Forward, projection_changed
from probes.checking import as_tensor
from probes.choices import Backend, Coefficient
from probes.entropy import knowledge_entropy
from probes.hooked_model import HookedModel
from probes.projections import device_of, is_conv1d, is_plain, stored_type
from probes.results import EntropyResult
from probes.shown import Shown
from probes.sites import HookPoint, Site


@dataclass(frozen=True, eq=False)
class Rows:
    """The place of the rows of a layer's neurons in one projection."""

    module: Any
    name: str  # the module's name in the Hugging Face model
    axis: int  # the axis of the weight along which neurons lie
    first: int  # row of neuron 0
    produces: bool
    """Whether neurons are its outputs (and its bias has one entry each), rather than inputs."""

    @property
    def has_bias(self) -> bool:
        return self.produces and self.module.bias is not None

    def weight(self, neurons: Int64[Tensor, "n"]) -> Float[Tensor, "n d_model"]:
        index = (neurons + self.first).to(self.module.weight.device)
        return self.module.weight.detach().index_select(self.axis, index).movedim(self.axis, 0)

    def bias(self, neurons: Int64[Tensor, "n"]) -> Float[Tensor, "n"] | None:
        """The biases of some neurons, where they have any here."""
        if not self.has_bias:
            return None
        return self.module.bias.detach()[(neurons + self.first).to(self.module.bias.device)]

    def changes(
        self,
        neurons: Int64[Tensor, "n"],
        new: Callable[[Tensor], Tensor],
        new_bias: Callable[[Tensor], Tensor],
    ) -> list[WeightChange]:
        """Give the rows of some neurons, and their biases, new values."""
        index = neurons + self.first

        def by_rows(selected: Tensor) -> Tensor:
            return new(selected.movedim(self.axis, 0)).movedim(0, self.axis)

        found = [WeightChange(f"{self.name}.weight", self.axis, index, by_rows)]
        if self.has_bias:
            found.append(WeightChange(f"{self.name}.bias", 0, index, new_bias))
        return found


def up_rows(model: HookedModel, layer: int) -> Rows:
    """Rows of the up projection, the linear half where there is a gate."""
    fused = model.architecture.gate_up_fused
    return _rows(model, model.anatomy.layers[layer].up, first=model.d_mlp if fused else 0)


def gate_rows(model: HookedModel, layer: int) -> Rows:
    """Rows of the gate, in a gated MLP."""
    module = model.anatomy.layers[layer].gate
    assert module is not None
    return _rows(model, module)


def memory_rows(model: HookedModel, layer: int) -> Rows:
    """The memory vectors."""
    return _rows(model, model.anatomy.layers[layer].down, produces=False)


def _rows(model: HookedModel, module: nn.Module, *, first: int = 0, produces: bool = True) -> Rows:
    name, conv1d = name_and_layout(model, module)
    return Rows(module, name, axis=int(conv1d == produces), first=first, produces=produces)


def name_and_layout(model: HookedModel, module: nn.Module) -> tuple[str, bool]:
    """A projection's name in the Hugging Face model, and whether its weight is `[in, out]`."""
    name = next(n for n, candidate in model.hf_model.named_modules() if candidate is module)
    if not is_plain(module):
        raise NotInWeightsError(
            f"{name} ({type(module).__name__}) does not compute with a weight that it stores, so "
            "its rows cannot be rewritten; use hooks, or make it plain first (merge adapters, "
            "prune.remove, remove_parametrizations, remove_weight_norm)"
        )
    return name, is_conv1d(module)


Piece = tuple[Rows, Tensor, Tensor]
"""Rows of a projection, indices of neurons, and what each is multiplied by."""


_WITHOUT_GATE = {
    ResuscitationSite.UP: ": its up rows act before the nonlinearity, and scaling them does not "
    "scale coefficients; ask for that by name with site='up_preactivation', or use site='down'",
    ResuscitationSite.PRESERVING: ": no rescaling of its up rows passes through the nonlinearity, "
    "so site='preserving' does not exist; use site='down'",
    ResuscitationSite.GATE: " to scale; use site='down' or 'up_preactivation'",
}


def require_site(model: HookedModel, site: ResuscitationSite) -> None:
    """Refuse a site that the model's MLP does not have."""
    family, gated = model.architecture.family, model.architecture.gated
    if not gated and site in _WITHOUT_GATE:
        raise ValueError(f"the MLP of {family} has no gate{_WITHOUT_GATE[site]}")
    if gated and site is ResuscitationSite.UP_PREACTIVATION:
        raise ValueError(f"the up rows of {family} act after the nonlinearity; use site='up'")


class ScalesRows(Shown, ABC):
    """An edit that multiplies the rows of neurons, each by a number of its own."""

    @property
    @abstractmethod
    def at(self) -> ResuscitationSite:
        """The site."""

    @abstractmethod
    def multipliers(self) -> Float[Tensor, "layer d_mlp"]:
        """What every neuron is multiplied by, float64; 1 where it is left alone."""

    @abstractmethod
    def require(self, model: HookedModel) -> None:
        """Refuse a model that the coefficients are not of."""

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        del clock
        self.require(model)
        require_site(model, self.at)
        hooks, of_vectors = [], {}
        for layer, row in _edited_layers(self.multipliers()):
            # float32 for a half-precision model, which is not enough for multipliers.
            down = model.anatomy.layers[layer].down
            wide = torch.promote_types(stored_type(down), torch.float32)
            for part, u in _parts(self.at, row.to(device_of(down), wide)):
                if part is memory_rows:
                    of_vectors[layer] = u
                else:
                    site = Site.MLP_UP if part is up_rows else Site.MLP_GATE
                    hooks.append(((site, layer), partial(_times, u)))
        with ExitStack() as stack:
            if hooks:
                stack.enter_context(model.hooks(hooks))
            if of_vectors:
                stack.enter_context(model.memory_vectors_scaled(of_vectors))
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        self.require(model)

        def times(by: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda values: (
                values * by.to(values.device, values.dtype).view(-1, *[1] * (values.ndim - 1))
            )

        return [
            change
            for rows, neurons, by in scaled_pieces(model, self.multipliers(), self.at)
            for change in rows.changes(neurons, times(by), times(by))
        ]


def scaled_pieces(
    model: HookedModel, multipliers: Float[Tensor, "layer d_mlp"], site: ResuscitationSite
) -> list[Piece]:
    """Which rows of which projections are multiplied, and by what."""
    require_site(model, site)
    return [
        (part(model, layer), neurons, by)
        for layer, row in _edited_layers(multipliers)
        for neurons in [torch.nonzero(row != 1).flatten()]
        for part, by in _parts(site, row[neurons])
    ]


def _parts(
    site: ResuscitationSite, u: Tensor
) -> list[tuple[Callable[[HookedModel, int], Rows], Tensor]]:
    """Which rows of a layer a site multiplies, and by what, where u are the multipliers."""
    match site:
        case ResuscitationSite.DOWN:
            return [(memory_rows, u)]
        case ResuscitationSite.PRESERVING:
            return [(up_rows, u), (memory_rows, 1 / u)]
        case ResuscitationSite.GATE:
            return [(gate_rows, u)]
    return [(up_rows, u)]


def _edited_layers(multipliers: Float[Tensor, "layer d_mlp"]) -> Iterator[tuple[int, Tensor]]:
    return ((layer, row) for layer, row in enumerate(multipliers) if bool((row != 1).any()))


def _times(u: Tensor, tensor: Tensor, _point: HookPoint) -> Tensor:
    return (tensor * u).to(tensor.dtype)


def require_native(model: HookedModel, kind: str) -> None:
    """Refuse other backends by name."""
    if model.backend is not Backend.NATIVE:
        raise ValueError(
            f"{kind} as a hook needs PyTorch hooks on the model's own projections, which backend "
            f"{str(model.backend)!r} does not have; use backend='native'"
        )


@contextmanager
def with_rows(
    rows: Rows,
    neurons: Int64[Tensor, "n"],
    values: Float[Tensor, "n d_model"],
    bias: Float[Tensor, "n"] | None,
    *,
    instead: bool,
) -> Iterator[None]:
    """Have a projection work as if some neurons had these rows and biases, added or instead."""
    assert rows.produces or not instead
    weight = rows.module.weight
    index, values = (neurons + rows.first).to(weight.device), values.to(weight)
    of_bias = None if bias is None else bias.to(weight)

    def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        by_them = nn.functional.linear(args[0], values, of_bias).to(output.dtype)
        put = output.index_copy if instead else output.index_add
        return put(-1, index, by_them)

    def change(forward: Forward, coefficients: Tensor) -> Tensor:
        added = nn.functional.linear(coefficients.index_select(-1, index), values.T)
        return forward(coefficients) + added

    if not rows.produces:
        with projection_changed(rows.module, change):
            yield
        return
    handle = rows.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


# Where the search for a factor starts: neurons so weak add next to nothing to the entropy.
_LOWEST_POWER = -6.0
_STEPS = 400


@dataclass(frozen=True, eq=False)
class PredictedEntropy:
    """What an edit makes of knowledge entropy, in nats, if the inputs of the layers stay."""

    per_layer: Float[Tensor, "layer"]
    contribution_per_layer: Float[Tensor, "layer"] | None
    """The entropy of |c| times the norm of the memory vector, where those means are known."""

    @property
    def total(self) -> float:
        return float(self.per_layer.sum())

    @property
    def contribution_total(self) -> float | None:
        """Sum over layers, where the means are known."""
        per_layer = self.contribution_per_layer
        return None if per_layer is None else float(per_layer.sum())


def inactive(
    mean_coefficients: Float[Tensor, "layer d_mlp"], ratio: float, selection: Selection
) -> Bool[Tensor, "layer d_mlp"]:
    """The least active neurons of every layer."""
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio is a share above 0, to 1, found {ratio}; 0.5 is one half")
    if selection is Selection.QUANTILE:
        bounds = torch.quantile(mean_coefficients, ratio, dim=1, keepdim=True)
        return mean_coefficients <= bounds
    count = round(ratio * mean_coefficients.shape[1])
    order = mean_coefficients.argsort(dim=1, stable=True)
    chosen = torch.zeros_like(mean_coefficients, dtype=torch.bool)
    return chosen.scatter_(1, order[:, :count], True)


def require_some(selected: Bool[Tensor, "layer d_mlp"], what: str) -> None:
    """Refuse an edit of no neuron."""
    if not bool(selected.any()):
        raise ValueError(f"no neuron is selected, so nothing would change; raise {what}")


def multipliers(
    mean_coefficients: Float[Tensor, "layer d_mlp"],
    selected: Bool[Tensor, "layer d_mlp"],
    factor: float,
    maximum: float | None = None,
) -> Float[Tensor, "layer d_mlp"]:
    """Factor times the layer's mean over the neuron's own, at most `maximum`; 1 elsewhere."""
    found = mean_coefficients.mean(dim=1, keepdim=True) / mean_coefficients * factor
    if maximum is not None:
        found = found.clamp_max(maximum)
    return torch.where(selected, found, torch.ones_like(found))


def require_solvable(site: ResuscitationSite) -> None:
    """Refuse to solve for the factor of a site that does not multiply coefficients."""
    if site not in (ResuscitationSite.UP, ResuscitationSite.PRESERVING):
        raise ValueError(
            f"target_entropy has no closed form at site {str(site)!r}, which does not multiply "
            "coefficients; use 'up' or 'preserving', or give a factor"
        )


def solve_factor(
    mean_coefficients: Float[Tensor, "layer d_mlp"],
    selected: Bool[Tensor, "layer d_mlp"],
    target: float,
    maximum: float | None = None,
) -> float:
    """The smallest factor that brings the predicted knowledge entropy to a target."""
    from scipy.optimize import minimize_scalar

    def total(power: float) -> float:
        scale = multipliers(mean_coefficients, selected, 10**power, maximum)
        return float(knowledge_entropy(mean_coefficients * scale).sum())

    # Beyond the factor that lifts the edited neurons of every layer above all others, it falls.
    most = (mean_coefficients.amax(dim=1) / mean_coefficients.mean(dim=1)).max()
    grid = torch.linspace(_LOWEST_POWER, float(most.log10()), _STEPS, dtype=torch.float64).tolist()
    totals = [total(power) for power in grid]
    best = max(range(_STEPS), key=totals.__getitem__)
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, _STEPS - 1)]
    options = {"bounds": (low, high), "method": "bounded", "options": {"xatol": 1e-9}}
    found = minimize_scalar(lambda power: -total(power), **options)
    peak = max((low, high, float(found.x)), key=total)
    if total(peak) < target:
        raise ValueError(
            f"target_entropy {target:g} nats cannot be reached: the highest is {total(peak):.4f}, "
            f"at factor {10**peak:.3g}; ask for less, or raise the ratio"
        )
    powers = sorted({*grid, peak})
    first = next(i for i, power in enumerate(powers) if total(power) >= target)
    if first == 0:
        raise ValueError(
            f"target_entropy {target:g} nats is not above {totals[0]:.4f}, which every factor "
            "reaches; ask for more, or lower the ratio"
        )
    low, high = powers[first - 1 : first + 1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if total(middle) >= target else (middle, high)
    return 10**high


def measured_means(
    given: Float[Tensor, "layer d_mlp"] | EntropyResult,
) -> tuple[Float[Tensor, "layer d_mlp"], str | None]:
    """Mean |c| of every neuron, float64 on the CPU, and the model's hash where it is known."""
    if not isinstance(given, EntropyResult):
        means = as_tensor(given, "mean coefficients", "layer d_mlp")
        return means.detach().double().cpu(), None
    measured = given.provenance.configuration.get("coefficient", Coefficient.ABS)
    if measured != Coefficient.ABS:
        raise ValueError(
            f"an edit of inactive neurons needs means of |c|, but this result has coefficient "
            f"{str(measured)!r}; measure with coefficient='abs'"
        )
    return given.mean_coefficients.double().cpu(), given.provenance.weights_sha256


def require_measured_on(
    model: HookedModel, shape: tuple[int, ...], model_hash: str | None, *, whose: str
) -> None:
    """Refuse coefficients that belong to another model."""
    if shape != (model.n_layers, model.d_mlp):
        raise ValueError(
            f"{whose} has coefficients of {shape[0]} layers of {shape[1]} neurons, but "
            f"{model.name} has {model.n_layers} layers of {model.d_mlp}; measure them on this model"
        )
    if model_hash is not None and model_hash != (found := content_hash(model)):
        raise ValueError(
            f"{whose} has coefficients of another model: measured on weights {model_hash[:12]}, "
            f"found {found[:12]} in {model.name}; measure again, or pass the coefficients as a "
            "tensor without model_hash"
        )


_hashes: "WeakKeyDictionary[nn.Module, tuple[list[tuple[Any, ...]], str]]" = WeakKeyDictionary()


def content_hash(model: HookedModel) -> str:
    """`model.content_hash()`, computed again only where a weight was written to."""
    # Tensors made in inference mode cannot be written to outside of it, and have no counter.
    versions: list[tuple[Any, ...]] = [
        (name, weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for name, weight in model.engine.state_dict().items()
    ]
    module = model.engine.module
    known = _hashes.get(module)
    if known is None or known[0] != versions:
        known = _hashes[module] = (versions, model.content_hash())
    return known[1]
