"""Self-check at load: does the architecture table describe this model?

On a few fixed tokens, the model must show that

* norm and unembedding of what comes out of the last block reproduce its own logits,
* the activated gate times the up branch, or the activated up branch, are the coefficients,
* the coefficients times the memory vectors, plus the bias, reproduce what each MLP adds, and
* attention's and the MLP's output, added to the stream, are what each block returns.

A model that fails is refused by name: a wrong table would give wrong numbers silently. Families
that were recognised by their structure (`probes.recognition`) have shown all of this there, but for
the readout.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from probes.anatomy import Anatomy, Layer
from probes.attach import HookFunction
from probes.checking import activation_of, difference, few_tokens, tolerance
from probes.projections import bias_of
from probes.readout import norm_and_unembed
from probes.sites import HookPoint, Site

LogitsWith = Callable[[Sequence[tuple[HookPoint, HookFunction]], Tensor], Tensor]


@torch.no_grad()
def check_model(logits_with: LogitsWith, anatomy: Anatomy, config: Any) -> None:
    """Refuse a model that the architecture table does not describe.

    Args:
        logits_with: runs the model, in evaluation mode, on token ids with hooks attached.
        anatomy: what the table found in it.
        config: the model's configuration.

    Raises:
        ValueError: names the part that does not do what the table says.
    """
    family = anatomy.architecture.family
    kept: dict[HookPoint, Tensor] = {}

    def keep(tensor: Tensor, point: HookPoint) -> None:
        kept[point] = tensor

    layers = range(len(anatomy.layers))
    points = [HookPoint(site, i) for i in layers for site in _sites(anatomy)]
    ids = few_tokens(anatomy.n_tokens, anatomy.device)
    logits = logits_with([(point, keep) for point in points], ids)
    idle = next((point.layer for point in points if point not in kept), None)
    if idle is not None:
        raise ValueError(
            f"{family}: layer {idle} of {len(layers)} does not run in a forward pass; make "
            "num_hidden_layers of the configuration the number of layers that the model has"
        )
    last = kept[HookPoint(Site.RESID_POST, layers[-1])]
    _require(norm_and_unembed(anatomy, last), logits, f"{family}: readout of the last layer")
    for i in layers:
        found = {point.site: tensor for point, tensor in kept.items() if point.layer == i}
        _check_layer(anatomy.layers[i], found, config, f"{family}: {{}} of layer {i}")


def _sites(anatomy: Anatomy) -> list[Site]:
    sites = [Site.MLP_UP, Site.MLP_COEFFICIENTS, Site.RESID_POST]
    if anatomy.architecture.gated:
        sites.append(Site.MLP_GATE)
    if anatomy.architecture.mlp_out is not None:
        sites += [Site.RESID_PRE, Site.ATTENTION_OUT, Site.MLP_OUT]
    return sites


def _check_layer(layer: Layer, found: Mapping[Site, Tensor], config: Any, what: str) -> None:
    activation = activation_of(config)
    if activation is not None:
        branches = activation(found.get(Site.MLP_GATE, found[Site.MLP_UP]))
        if Site.MLP_GATE in found:
            branches = branches * found[Site.MLP_UP]
        _require(branches, found[Site.MLP_COEFFICIENTS], what.format("activated branches"))
    if layer.mlp_out is None:
        return
    product = _recombined(layer, found[Site.MLP_COEFFICIENTS])
    _require(product, found[Site.MLP_OUT], what.format("coefficients times memory vectors"))
    total = found[Site.RESID_PRE] + found[Site.ATTENTION_OUT] + found[Site.MLP_OUT]
    _require(total, found[Site.RESID_POST], what.format("stream plus attention plus MLP"))


def _recombined(layer: Layer, coefficients: Tensor) -> Tensor:
    """What the MLP adds to the stream, through the norm that some families put after it."""
    product = coefficients @ layer.memory_vectors
    bias = bias_of(layer.down)
    product = product if bias is None else product + bias
    if layer.mlp_out is None or layer.mlp_out is layer.mlp:
        return product
    return layer.mlp_out(product)


def _require(found: Tensor, expected: Tensor, what: str) -> None:
    gap = difference(found, expected)
    if not gap <= tolerance(expected.dtype):
        raise ValueError(
            f"{what} differs from what the model computes by {gap:.2g} of the largest "
            "value; the architecture table does not describe this model, or hooks or edits are in "
            "it already, so it is refused"
        )
