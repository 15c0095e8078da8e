"""Self-check at load: does the architecture table describe this model?

On a few fixed tokens, the model must show that

* norm and unembedding of what comes out of the last block reproduce its own logits, and
* the coefficients times the memory vectors, plus the bias, reproduce each MLP's output.

A model that fails is refused by name: a wrong table would give wrong numbers silently.
"""

from typing import Any

import torch
from torch import Tensor

from probes.architectures import Anatomy, Layer
from probes.attach import attached
from probes.readout import norm_and_unembed
from probes.sites import HookPoint, Site

# Both sides are the same products in another order. Their rounding grows with the widths, but stays
# well below these shares of the largest value; a wrong table is off by the order of that value.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
_TOKENS = 8


@torch.no_grad()
def check_model(hf_model: Any, anatomy: Anatomy) -> None:
    """Refuse a model that the architecture table does not describe.

    Args:
        hf_model: the Hugging Face model, in evaluation mode.
        anatomy: what the table found in it.

    Raises:
        ValueError: names the part that does not do what the table says.
    """
    kept: dict[HookPoint, Tensor] = {}

    def keep(tensor: Tensor, point: HookPoint) -> None:
        kept[point] = tensor

    last = HookPoint(Site.RESID_POST, len(anatomy.layers) - 1)
    every = range(len(anatomy.layers))
    points = [last, *(HookPoint(Site.MLP_COEFFICIENTS, i) for i in every)]
    outputs: dict[int, Tensor] = {}
    handles = [
        layer.mlp.register_forward_hook(
            lambda _m, _a, out, i=i: outputs.__setitem__(i, out[0] if type(out) is tuple else out)
        )
        for i, layer in enumerate(anatomy.layers)
    ]
    try:
        with attached(hf_model, anatomy, [(point, keep) for point in points]):
            logits = hf_model(_some_tokens(hf_model), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    family = anatomy.architecture.family
    _require(norm_and_unembed(anatomy, kept[last]), logits, f"{family}: readout of the last layer")
    for i, layer in enumerate(anatomy.layers):
        product = _recombined(layer, kept[HookPoint(Site.MLP_COEFFICIENTS, i)])
        _require(product, outputs[i], f"{family}: coefficients times memory vectors of layer {i}")


def _recombined(layer: Layer, coefficients: Tensor) -> Tensor:
    bias = layer.down.bias
    output = coefficients @ layer.memory_vectors
    return output if bias is None else output + bias


def _require(found: Tensor, expected: Tensor, what: str) -> None:
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    difference = float((found - expected).abs().max() / largest)
    if not difference <= _TOLERANCE.get(expected.dtype, 0.1):
        raise ValueError(
            f"{what} differs from what the model computes by {difference:.2g} of the largest "
            "value; the architecture table does not describe this model, so it is refused"
        )


def _some_tokens(hf_model: Any) -> Tensor:
    # Spread over the vocabulary; the first ids are often special tokens or single bytes.
    vocabulary = hf_model.config.vocab_size
    ids = torch.linspace(vocabulary // 3, vocabulary - 1, _TOKENS).long()
    return ids[None].to(next(hf_model.parameters()).device)
