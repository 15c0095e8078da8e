"""Self-check at load: does the architecture table describe this model?

On a few fixed tokens, the model must show that

* norm and unembedding of what comes out of the last block reproduce its own logits, and the norm
  what its trunk returns,
* the activated gate times the up branch, or the activated up branch, are the coefficients,
* the coefficients times the memory vectors, plus the bias, reproduce what each MLP adds, and
* attention's and the MLP's output, added to the stream, are what each block returns.

A model that fails is refused by name: a wrong table would give wrong numbers silently. Families
that were recognised by their structure (`probes.anatomy`) have shown all of this there, but for
the readout. Attention is tried by itself: where its pattern times the values is not what the model
computes, or cannot be had, the rest of the model is still measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probes.anatomy import Anatomy, Layer
from probes.attach import HookFunction
from probes.checking import (
    activation_of,
    all_finite,
    difference,
    few_tokens,
    refusing_failures,
    tolerance,
    what_makes_finite,
)
from probes.projections import bias_of
from probes.readout import norm_and_unembed
from probes.sites import HookPoint, Site, hook_name

# Patterns in half precision are computed more finely than the model does, in every layer.
_HALF_PRECISION_ATTENTION = 0.3

LogitsWith = Callable[[Sequence[tuple[HookPoint, HookFunction]], Tensor], Tensor]


@torch.no_grad()
def check_model(logits_with: LogitsWith, anatomy: Anatomy, config: Any) -> str | None:
    """Refuse a model that the architecture table does not describe."""
    family = anatomy.architecture.family
    kept: dict[HookPoint, Tensor] = {}

    def keep(tensor: Tensor, point: HookPoint) -> None:
        kept[point] = tensor

    layers = range(len(anatomy.layers))
    activation = activation_of(config, anatomy.architecture.activation)
    points = [HookPoint(site, i) for i in layers for site in _sites(anatomy)]
    ids = few_tokens(anatomy.n_tokens, anatomy.device)
    with (
        refusing_failures(f"{family} does not run on a row of {ids.shape[1]} tokens here"),
        _returned_first(anatomy.trunk) as streams,
    ):
        logits = logits_with([(point, keep) for point in points], ids)
    idle = next((point.layer for point in points if point not in kept), None)
    if idle is not None:
        raise ValueError(
            f"{family}: layer {idle} of {len(layers)} does not run in a forward pass; make "
            "num_hidden_layers of the configuration the number of layers that the model has"
        )
    _refuse_not_finite(anatomy, kept, logits)
    last = kept[HookPoint(Site.RESID_POST, layers[-1])]
    _require(norm_and_unembed(anatomy, last), logits, f"{family}: readout of the last layer")
    for stream in streams:
        _require(stream, anatomy.final_norm(last), f"{family}: stream that its trunk returns")
    for i in layers:
        found = {point.site: tensor for point, tensor in kept.items() if point.layer == i}
        _check_layer(anatomy, i, found, activation)
    return _why_no_attention(logits_with, anatomy, ids, logits)


def _why_no_attention(
    logits_with: LogitsWith, anatomy: Anatomy, ids: Tensor, logits: Tensor
) -> str | None:
    """Why the pattern, spelled out, does not give the model's logits; None where it does."""
    what = f"the attention of this {anatomy.architecture.family} can be neither read nor edited"
    layers = range(len(anatomy.layers))
    try:
        with refusing_failures(what):
            found = logits_with(
                [(HookPoint(Site.ATTENTION_PATTERN, i), _read) for i in layers], ids
            )
    except ValueError as refusal:
        return str(refusal)
    gap = difference(found, logits)
    # Eager attention has its softmax in float32, also in a float64 model.
    half = logits.dtype.itemsize < 4
    if gap <= (_HALF_PRECISION_ATTENTION if half else tolerance(torch.float32)):
        return None
    return (
        f"{what}: its pattern times the values changes the logits by {gap:.2g} of the largest; "
        "measure this model without attention"
    )


def _read(_pattern: Tensor, _point: HookPoint) -> None:
    """Nothing is done with it; that it is read has it spelled out."""


@contextmanager
def _returned_first(module: nn.Module) -> Iterator[list[Tensor]]:
    """The first of what a module returns whenever it runs in a `with` block."""
    returned: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _args, output: returned.append(output[0]))
    try:
        yield returned
    finally:
        handle.remove()


def _refuse_not_finite(anatomy: Anatomy, kept: Mapping[HookPoint, Tensor], logits: Tensor) -> None:
    """Say so where a model overflows, rather than that its parts do not add up."""
    bad = [point for point, tensor in kept.items() if not all_finite(tensor)]
    if not bad and not logits.isnan().any():
        return
    family = anatomy.architecture.family
    place = hook_name(bad[0], gated=anatomy.architecture.gated) if bad else "the logits"
    weights = dict(anatomy.trunk.state_dict()) | {"unembedding": anatomy.unembed.weight}
    helps = what_makes_finite(f"this {family}", weights, anatomy.dtype)
    raise ValueError(
        f"{family}: on a few tokens the model is not finite, first at {place}; {helps}"
    )


def _sites(anatomy: Anatomy) -> list[Site]:
    sites = [Site.MLP_UP, Site.MLP_COEFFICIENTS, Site.RESID_POST]
    if anatomy.architecture.gated:
        sites.append(Site.MLP_GATE)
    if anatomy.architecture.mlp_out is not None:
        sites += [Site.RESID_PRE, Site.ATTENTION_OUT, Site.MLP_OUT]
    return sites


def _check_layer(
    anatomy: Anatomy,
    i: int,
    found: Mapping[Site, Tensor],
    activation: Callable[[Tensor], Tensor] | None,
) -> None:
    layer, what = anatomy.layers[i], f"{anatomy.architecture.family}: {{}} of layer {i}"
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
