"""Readout: from the residual stream to the logits, through the model's own norm and unembedding.

`hidden_states[-1]` of a transformers model is already normed; what comes out of the last block is
not. `norm_and_unembed` and `unembed` keep the difference in their names.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020); Gemma 2 for the soft-cap.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from probes.anatomy import Anatomy


def norm_and_unembed(
    anatomy: Anatomy, residual: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """Logits that a residual stream would give if it came out of the last block."""
    return unembed(anatomy, anatomy.final_norm(residual))


def unembed(
    anatomy: Anatomy, normed: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_vocab"]:
    """Logits of a normed residual stream, with the family's scale and soft-cap."""
    return _scaled_and_capped(anatomy, anatomy.unembed(normed))


def unembeds_by_parts(anatomy: Anatomy) -> bool:
    """Whether `unembed_tokens` may stand in for a part of what `unembed` computes.

    Not so where the unembedding is more than a matrix: wrapped by another library, or hooked.
    """
    module = anatomy.unembed
    return type(module) is nn.Linear and not module._forward_hooks and not module._forward_pre_hooks


def unembed_tokens(
    anatomy: Anatomy,
    normed: Float[Tensor, "row d_model"],
    tokens: slice | Int64[Tensor, "token"],
    out: Float[Tensor, "row token"] | None = None,
) -> Float[Tensor, "row token"]:
    """Logits of some tokens only.

    Args:
        anatomy: of a model that `unembeds_by_parts`.
        normed: normed residual streams.
        tokens: which of the vocabulary.
        out: memory for the product with the matrix, which may be what is returned.
    """
    assert unembeds_by_parts(anatomy)
    weight, bias = anatomy.unembed.weight, anatomy.unembed.bias
    logits = torch.mm(normed, weight[tokens].T, out=out)
    if bias is not None:
        logits += bias[tokens]
    return _scaled_and_capped(anatomy, logits)


def _scaled_and_capped(anatomy: Anatomy, logits: Tensor) -> Tensor:
    if anatomy.logit_scale != 1.0:
        logits = logits * anatomy.logit_scale
    if anatomy.logit_softcap is not None:
        logits = anatomy.logit_softcap * torch.tanh(logits / anatomy.logit_softcap)
    return logits
