"""Self-check at load: does the architecture table describe this model?

On a few fixed tokens, the model must show that

* norm and unembedding of what comes out of the last block reproduce its own logits, and the norm
  what its trunk returns,
* the activated gate times the up branch, or the activated up branch, are the coefficients,
* the coefficients times the memory vectors, plus the bias, reproduce what each MLP adds, and
* attention's and the MLP's output, added to the stream, are what each block returns.

A model that fails is refused: a wrong table would give wrong numbers silently. Attention is tried
by itself: where its pattern times the values is not what the model computes, or cannot be had, the
rest of the model is still measured.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from probes.anatomy import Anatomy
from probes.backends.engine import Engine
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


@torch.no_grad()
def check_model(engine: Engine) -> str | None:
    """Refuse a model that the architecture table does not describe.

    Returns:
        Why its attention can be neither read nor edited; None where it can.
    """
    anatomy = engine.anatomy
    row, layers = anatomy.architecture, range(len(anatomy.layers))
    kept: dict[HookPoint, Tensor] = {}
    streams: list[Tensor] = []

    def keep(tensor: Tensor, point: HookPoint) -> None:
        kept[point] = tensor

    sites = [Site.MLP_UP, Site.MLP_COEFFICIENTS, Site.RESID_POST]
    sites += [Site.MLP_GATE] if row.gated else []
    sites += [] if row.mlp_out is None else [Site.RESID_PRE, Site.ATTENTION_OUT, Site.MLP_OUT]
    points = [HookPoint(site, layer) for layer in layers for site in sites]
    ids = few_tokens(anatomy.n_tokens, anatomy.device)
    handle = anatomy.trunk.register_forward_hook(
        lambda _module, _args, output: streams.append(output[0])
    )
    with refusing_failures(f"{row.family} does not run on a row of {ids.shape[1]} tokens here"):
        try:
            with engine.attached([(point, keep) for point in points]):
                logits = engine.logits({"input_ids": ids})
        finally:
            handle.remove()
    idle = next((point.layer for point in points if point not in kept), None)
    if idle is not None:
        raise ValueError(
            f"{row.family}: layer {idle} of {len(layers)} does not run in a forward pass; make "
            "num_hidden_layers of the configuration the number of layers that the model has"
        )
    _refuse_not_finite(anatomy, kept, logits)
    last = kept[HookPoint(Site.RESID_POST, layers[-1])]
    _require(norm_and_unembed(anatomy, last), logits, f"{row.family}: readout of the last layer")
    for stream in streams:
        _require(stream, anatomy.final_norm(last), f"{row.family}: stream that its trunk returns")
    activation = activation_of(engine.config, row.activation)
    for layer in layers:
        found = {point.site: tensor for point, tensor in kept.items() if point.layer == layer}
        _check_layer(anatomy, layer, found, activation)
    return _why_no_attention(engine, ids, logits)


def _why_no_attention(engine: Engine, ids: Tensor, logits: Tensor) -> str | None:
    """Why the pattern, spelled out, does not give the model's logits; None where it does."""
    family = engine.anatomy.architecture.family
    what = f"the attention of this {family} can be neither read nor edited"
    points = [HookPoint(Site.ATTENTION_PATTERN, i) for i in range(len(engine.anatomy.layers))]
    try:
        # Nothing is done with the pattern; that it is read has it spelled out.
        with refusing_failures(what), engine.attached([(p, lambda *_: None) for p in points]):
            found = engine.logits({"input_ids": ids})
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


def _check_layer(
    anatomy: Anatomy,
    i: int,
    found: Mapping[Site, Tensor],
    activation: Callable[[Tensor], Tensor] | None,
) -> None:
    layer, what = anatomy.layers[i], f"{anatomy.architecture.family}: {{}} of layer {i}"
    coefficients = found[Site.MLP_COEFFICIENTS]
    if activation is not None:
        branches = activation(found.get(Site.MLP_GATE, found[Site.MLP_UP]))
        if Site.MLP_GATE in found:
            branches = branches * found[Site.MLP_UP]
        _require(branches, coefficients, what.format("activated branches"))
    if layer.mlp_out is None:
        return
    product, bias = coefficients @ layer.memory_vectors, bias_of(layer.down)
    product = product if bias is None else product + bias
    if layer.mlp_out is not layer.mlp:
        # Some families put a norm after the MLP.
        product = layer.mlp_out(product)
    _require(product, found[Site.MLP_OUT], what.format("coefficients times memory vectors"))
    total = found[Site.RESID_PRE] + found[Site.ATTENTION_OUT] + found[Site.MLP_OUT]
    _require(total, found[Site.RESID_POST], what.format("stream plus attention plus MLP"))


def _require(found: Tensor, expected: Tensor, what: str) -> None:
    gap = difference(found, expected)
    if not gap <= tolerance(expected.dtype):
        raise ValueError(
            f"{what} differs from what the model computes by {gap:.2g} of the largest "
            "value; the architecture table does not describe this model, or hooks or edits are in "
            "it already, so it is refused"
        )
