r"""Selection: which neurons are inactive, what multiplies them, and what entropy that gives.

With :math:`\bar c_i` the mean coefficients of a layer and :math:`m` their mean, an inactive neuron
is multiplied by :math:`u_i = q m / \bar c_i`, so that its mean coefficient becomes :math:`q m` if
the layer's input stays the same. The knowledge entropy after the edit then follows without a
forward pass: it rises with *q* up to a summit, and falls beyond it.

Source: Kim et al., ICLR 2025, section 4.3 and Algorithm 1.

Example:
    >>> import torch
    >>> means = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    >>> chosen = inactive(means, 0.5, Selection.QUANTILE)
    >>> multipliers(means, chosen, factor=2.0).tolist()
    [[6.0, 3.0, 1.0, 1.0]]
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interventions.choices import ResuscitationSite, Selection
from probes.choices import Coefficient
from probes.entropy import knowledge_entropy
from probes.hooked_model import HookedModel
from probes.results import EntropyResult

# Where the search for a factor starts: neurons so weak add next to nothing to the entropy.
_LOWEST_POWER = -6.0
_STEPS = 400


@dataclass(frozen=True, eq=False)
class PredictedEntropy:
    """What an edit makes of knowledge entropy, in nats, if the inputs of the layers stay."""

    per_layer: Float[Tensor, "layer"]
    contribution_per_layer: Float[Tensor, "layer"] | None
    """Of |c| times the norm of the memory vector, where those means are known."""

    @property
    def total(self) -> float:
        """Sum over layers."""
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
    if isinstance(given, Tensor):
        return given.detach().double().cpu(), None
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
