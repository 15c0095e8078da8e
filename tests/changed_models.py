"""Ways to change a projection of a tiny model in memory, and what it computes with then."""

import warnings

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from tests.models import N_LAYERS


class Adapted(nn.Module):
    """A low-rank adapter around a projection, as peft's, but with no attribute of the base's."""

    def __init__(self, base, out, rank=2):
        super().__init__()
        self.around = base
        self.down = nn.Parameter(0.5 * torch.randn(rank, _width_in(base)))
        self.up = nn.Parameter(0.5 * torch.randn(out, rank))
        self.dropout = nn.Dropout(0.5)

    def forward(self, received):
        return self.around(received) + 1.5 * (self.dropout(received) @ self.down.T) @ self.up.T


class Doubled(nn.Module):
    """A parametrization of an own making."""

    def forward(self, weight):
        return 2 * weight


def _width_in(base):
    return base.weight.shape[0] if type(base).__name__ == "Conv1D" else base.weight.shape[1]


def _adapted(parent, name):
    base = getattr(parent, name)
    weight = base.weight.detach().double()
    conv1d = type(base).__name__ == "Conv1D"
    adapter = Adapted(base, weight.shape[1] if conv1d else weight.shape[0])
    adapter.eval()
    setattr(parent, name, adapter)
    added = 1.5 * adapter.up.detach().double() @ adapter.down.detach().double()
    return weight + (added.T if conv1d else added)


def _peft(parent, name):
    from peft import LoraConfig, inject_adapter_in_model

    weight = getattr(parent, name).weight.detach().double()
    conv1d = type(getattr(parent, name)).__name__ == "Conv1D"
    config = LoraConfig(
        r=2, lora_alpha=3, target_modules=[name], init_lora_weights=False, fan_in_fan_out=conv1d
    )
    with warnings.catch_warnings():
        # Projections of one module, one after the other.
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, parent)
    layer = getattr(parent, name)
    layer.eval()
    a, b = (m["default"].weight.detach().double() for m in (layer.lora_A, layer.lora_B))
    added = 1.5 * b @ a
    return weight + (added.T if conv1d else added)


def _pruned(parent, name):
    module = getattr(parent, name)
    prune.random_unstructured(module, "weight", amount=0.4)
    with torch.no_grad():
        # What a training step does, after which `weight` is stale until the next pass.
        module.weight_orig *= 1.25
    return (module.weight_orig * module.weight_mask).detach().double()


def _old_weight_norm(parent, name):
    with warnings.catch_warnings():
        # It is deprecated, and still what many models carry.
        warnings.simplefilter("ignore")
        module = weight_norm(getattr(parent, name))
    with torch.no_grad():
        module.weight_g *= 1.5
    direction = module.weight_v.detach().double()
    return module.weight_g.detach().double() * direction / direction.norm(dim=1, keepdim=True)


def _weight_norm(parent, name):
    module = parametrizations.weight_norm(getattr(parent, name))
    with torch.no_grad():
        module.parametrizations.weight.original0 *= 1.5
    size, direction = (
        getattr(module.parametrizations.weight, f"original{i}").detach().double() for i in (0, 1)
    )
    return size * direction / direction.norm(dim=1, keepdim=True)


def _parametrized(parent, name):
    module = getattr(parent, name)
    weight = module.weight.detach().double()
    parametrize.register_parametrization(module, "weight", Doubled())
    return 2 * weight


CHANGES = {
    "adapter": _adapted,
    "peft": _peft,
    "pruning": _pruned,
    "weight_norm": _weight_norm,
    "old_weight_norm": _old_weight_norm,
    "parametrization": _parametrized,
}
"""Each changes the projection of a module of that name, and returns its weight in float64."""


def changed_layers(hf_model, kind, names=("gate_proj", "up_proj", "down_proj")):
    """Change projections of all MLPs; returns their weights by name, computed by hand."""
    state = torch.get_rng_state()
    torch.manual_seed(7)
    weights = {}
    for layer in range(N_LAYERS):
        mlp = hf_model.model.layers[layer].mlp
        for name in names:
            weights[f"model.layers.{layer}.mlp.{name}.weight"] = CHANGES[kind](mlp, name)
    torch.set_rng_state(state)
    return weights


def with_weights(hf_model, weights):
    """The same plain model with other weights in some places."""
    state = hf_model.state_dict()
    for name, weight in weights.items():
        state[name].copy_(weight)
    return hf_model
