r"""Attention entropy at the cost of fused attention, without ever holding a pattern.

With *s* the scores of one query and *p* their softmax, the entropy is

.. math:: H = \mathrm{logsumexp}(s) - \sum_j p_j s_j .

Scores are scaled dot products, so the second term is the query dotted with
:math:`\sum_j p_j k_j` times the scale: the attention output with the keys in place of the values.
A fused kernel gives that and the logsumexp in one call, in memory linear in the sequence length.
Where scores are soft-capped or no such kernel passes its check, chunks of queries give the same
numbers from explicit float32 scores.

Two things keep the digits. Queries and keys are widened to float32 first: half precision would cost
tenths of a nat. And the first key is subtracted from all keys, which shifts all scores of a query
alike and so leaves its entropy as it is: most heads that attend to one place attend to that one,
and there both terms would be large and their difference tiny. Without it, heads of SmolLM2-135M
that attend almost only to the first token are off by up to 0.2 %; with it, by no more than explicit
float32 scores are.

Source: Kim et al., ICLR 2025, Eq. 3 (the definition); Dao et al., arXiv 2205.14135 (the kernel).

Example:
    >>> import torch
    >>> q = torch.zeros(1, 1, 2, 4)
    >>> call = AttentionCall(q, q, q, None, scale=0.5, softcap=None, dropout=0.0)
    >>> attention_entropy(call).exp().flatten().tolist()
    [1.0, 2.0]
"""

from functools import cache

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from probes.attention_call import AttentionCall, SoftmaxCall


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
