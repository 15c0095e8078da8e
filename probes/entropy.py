r"""The entropies of the Knowledge Entropy paper, as pure functions; all in nats.

Knowledge entropy (Eq. 2): with :math:`\bar c_i` the mean coefficient of memory vector *i* of a
layer over a corpus and :math:`p_i = \bar c_i / \sum_k \bar c_k`, the layer's entropy is
:math:`-\sum_i p_i \ln p_i`, and the model's is the sum over layers. It is at most
`n_layers * ln(d_mlp)`, when all memory vectors are used alike.

A coefficient is the input of the down projection, and can be negative; `Coefficient` (in
`probes.choices`) says how it becomes a weight. Rescaling up rows by u and memory vectors by 1/u
leaves the function unchanged but moves every variant except `CONTRIBUTION`, which is invariant.

`1e-9` appears in one place, `official_knowledge_entropy`: the released code's arithmetic,
which shifts each layer by about `-d_mlp * 1e-9`.

Source: Kim et al., "Knowledge Entropy Decay during Language Model Pretraining Hinders New
Knowledge Acquisition", ICLR 2025: Eq. 2, Eq. 3, appendices A.2 to A.4.

Example:
    >>> import torch
    >>> knowledge_entropy(torch.tensor([[1.0, 1.0, 0.0, 0.0]])).exp().item()
    2.0
"""

import torch
from jaxtyping import Float
from torch import Tensor

from probes.checking import wide


def shannon_entropy(
    probabilities: Float[Tensor, "*batch outcome"],
) -> Float[Tensor, "*batch"]:
    """Entropy of distributions along the last axis, in nats; 0 ln 0 is exactly 0."""
    return torch.special.entr(probabilities).sum(dim=-1)


def knowledge_entropy(
    mean_coefficients: Float[Tensor, "layer d_mlp"],
) -> Float[Tensor, "layer"]:
    """Knowledge entropy of each layer (Eq. 2), in nats; their sum is the model's.

    Args:
        mean_coefficients: mean weight of every memory vector, non-negative; any positive scale.

    Returns:
        Entropy of every layer, float64.

    Raises:
        ValueError: a coefficient is negative or not finite, or a layer has none above zero.
    """
    return shannon_entropy(_distribution(mean_coefficients))


def official_knowledge_entropy(
    mean_coefficients: Float[Tensor, "layer d_mlp"],
) -> Float[Tensor, "layer"]:
    """Knowledge entropy by the released code's formula, `-sum p log(p + 1e-9)`, in nats."""
    probabilities = _distribution(mean_coefficients)
    return -(probabilities * (probabilities + 1e-9).log()).sum(dim=-1)


def next_token_entropy(logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch"]:
    """Entropy of the next-token distribution (A.4), in nats, computed in float32 or wider."""
    log_probs = wide(logits).log_softmax(dim=-1)
    # A token without any probability adds 0; what is no number stays none.
    lowest = torch.finfo(log_probs.dtype).min
    return -(log_probs.exp() * log_probs.clamp_min(lowest)).sum(dim=-1)


def _distribution(weights: Float[Tensor, "layer d_mlp"]) -> Float[Tensor, "layer d_mlp"]:
    wide = weights.double()
    total = wide.sum(dim=-1, keepdim=True)
    wrong = ~(total[:, 0] > 0) | ~total[:, 0].isfinite() | (wide < 0).any(dim=-1)
    if wrong.any():
        layer = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"mean coefficients of layer {layer} must be finite, non-negative and not all zero, "
            f"found values from {wide[layer].min():.3g} to {wide[layer].max():.3g}; "
            "pass means of absolute coefficients over at least one token"
        )
    return wide / total
