"""Readout: from the residual stream to the logits, through the model's own norm and unembedding.

`hidden_states[-1]` of a transformers model is already normed; what comes out of the last block is
not. The two functions here keep the difference in their names.

Source: nostalgebraist, "interpreting GPT: the logit lens" (2020); Gemma 2 for the soft-cap.
"""

import torch
from jaxtyping import Float
from torch import Tensor

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
    logits = anatomy.unembed(normed)
    if anatomy.logit_scale != 1.0:
        logits = logits * anatomy.logit_scale
    if anatomy.logit_softcap is not None:
        logits = anatomy.logit_softcap * torch.tanh(logits / anatomy.logit_softcap)
    return logits
