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

from functools import cache

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from probes.attention_interface import AttentionCall, SoftmaxCall
from probes.checking import as_tensor, wide
from probes.refusals import shown


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
    if hasattr(weights, "mean_coefficients"):
        raise ValueError(f"{shown(weights)} has its own: result.knowledge, or .mean_coefficients")
    wide = as_tensor(weights, "mean coefficients", "layer d_mlp").double()
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


def attention_entropy(call: AttentionCall | SoftmaxCall) -> Float[Tensor, "batch head query_pos"]:
    """Entropy of every query's attention, in nats; float32 or wider."""
    if isinstance(call, SoftmaxCall) or call.explicit:
        return chunked_attention_entropy(call)
    if call.query.device.type == "cpu":
        return _fused_on_cpu(call)
    if call.query.device.type == "cuda" and call.allowed is None and _cuda_kernel_is_sound():
        return _fused_on_cuda(call)
    return chunked_attention_entropy(call)


def chunked_attention_entropy(
    call: AttentionCall | SoftmaxCall,
) -> Float[Tensor, "batch head query_pos"]:
    """The same from explicit scores, some queries at a time; takes any mask, soft-cap and bias."""
    return torch.cat([entropy_of_scores(call.scores(rows)) for rows in call.query_chunks()], dim=2)


def entropy_of_scores(
    scores: Float[Tensor, "batch head query_pos key_pos"],
) -> Float[Tensor, "batch head query_pos"]:
    """Entropy of the softmax of explicit scores, masked with -inf, in their type."""
    log_pattern = scores.log_softmax(dim=-1)
    # A masked key has log p = -inf and p = 0; its term is 0, not NaN.
    return -torch.where(log_pattern.isfinite(), log_pattern.exp() * log_pattern, 0.0).sum(dim=-1)


def _fused_on_cpu(call: AttentionCall) -> Float[Tensor, "batch head query_pos"]:
    query, key = _widened_and_shifted(call)
    if call.allowed is None:
        return _entropy_from(query, *_cpu_kernel(query, key, call.scale, None), call.scale)
    parts = []
    for rows in call.query_chunks():
        bias = _additive(call.allowed_rows(rows), query.dtype)
        some = query[:, :, rows]
        parts.append(_entropy_from(some, *_cpu_kernel(some, key, call.scale, bias), call.scale))
    return torch.cat(parts, dim=2)


def _fused_on_cuda(call: AttentionCall) -> Float[Tensor, "batch head query_pos"]:
    query, key = _widened_and_shifted(call)
    key = repeat(key, "b kv k d -> b (kv group) k d", group=call.group)
    output, logsumexp, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, key, None, True, 0.0, True, scale=call.scale
    )
    # The kernel pads its logsumexp along the queries.
    return _entropy_from(query, output, logsumexp[..., : query.shape[2]], call.scale)


def _entropy_from(
    query: Float[Tensor, "batch head query_pos d_head"],
    mean_key: Float[Tensor, "batch head query_pos d_head"],
    logsumexp: Float[Tensor, "batch head query_pos"],
    scale: float,
) -> Float[Tensor, "batch head query_pos"]:
    """H = logsumexp(s) - E[s]; rounding can leave a one-key query a hair below zero."""
    return (logsumexp - scale * torch.einsum("bhqd,bhqd->bhq", query, mean_key)).clamp_min(0.0)


def _cpu_kernel(
    query: Tensor, key: Tensor, scale: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, key, 0.0, bias is None, attn_mask=bias, scale=scale
    )


def _widened_and_shifted(call: AttentionCall) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(call.query.dtype, torch.float32)
    key = call.key.to(wide)
    return call.query.to(wide), key - key[:, :, :1]


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
        ~allowed, -torch.inf
    )


@cache
def _cuda_kernel_is_sound() -> bool:
    """Compare the private CUDA operator with explicit scores once; without it, go in chunks."""
    generator = torch.Generator("cuda").manual_seed(0)
    query, key = (torch.randn(1, 2, 37, 16, device="cuda", generator=generator) for _ in range(2))
    call = AttentionCall(query, key, key, None, scale=0.25, softcap=None, dropout=0.0)
    try:
        difference = (_fused_on_cuda(call) - chunked_attention_entropy(call)).abs().max()
    except (AttributeError, RuntimeError):
        return False
    # Entropies reach ln 37 = 3.6; float32 kernels differ by rounding, some 1e-6.
    return bool(difference < 1e-4)
