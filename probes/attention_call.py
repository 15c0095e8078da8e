"""Attention calls: the queries, keys and values, or the scores, of one attention module.

Scores are scaled, soft-capped, biased (alibi), over the temperature and masked with -inf, in
float32 or wider. A temperature divides all of that but the mask, so the alibi bias too.
`AttentionCall` holds what a module hands to an attention function; scores that a fused kernel
cannot produce are computed in chunks of queries, so memory stays linear in the sequence length.
`SoftmaxCall` holds the scores of a module that computes them itself.

Source: Gemma 2 (arXiv 2408.00118) for the soft-cap; Press et al., arXiv 2108.12409, for alibi.

Example:
    >>> call = SoftmaxCall(torch.tensor([[[[0.0, -1e38], [2.0, 2.0]]]]), torch.float32)
    >>> call.at_temperature(2.0).scores(slice(0, 2))[0, 0].tolist()
    [[0.0, -inf], [1.0, 1.0]]
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probes.checking import wide

_CHUNK_BYTES = 32 * 2**20
# CodeGen divides its mask by the square root of the head's width, which is below 32.
_SHARE_OF_LOWEST = 1 / 32

Temperature = float | int | Float[Tensor, "head"]
"""What scores are divided by: one number, or one for every query head."""


def divided(
    rows: Float[Tensor, "batch head query_pos width"], temperature: Temperature
) -> Float[Tensor, "batch head query_pos width"]:
    """Queries or scores over a temperature, in float32 or wider and rounded once."""
    if isinstance(temperature, Tensor):
        wide = torch.promote_types(rows.dtype, torch.float32)
        temperature = temperature.to(rows.device, wide)[:, None, None]
    return (rows / temperature).to(rows.dtype)


@dataclass(frozen=True)
class AttentionCall:
    """What an attention module passes to its attention function.

    Queries, keys and values have their heads split and positions rotated; keys and values may
    have fewer heads (grouped-query attention).
    """

    query: Float[Tensor, "batch head query_pos d_head"]
    key: Float[Tensor, "batch kv_head key_pos d_head"]
    value: Float[Tensor, "batch kv_head key_pos d_head"]
    allowed: Bool[Tensor, "#batch #head query_pos key_pos"] | None
    """Which keys a query may attend to; None means plain causal attention."""
    scale: float
    softcap: float | None
    dropout: float
    temperature: Temperature = 1.0
    """What soft-capped scores are divided by; 1 without a soft-cap, see `at_temperature`."""
    bias: Float[Tensor, "#batch #head #query_pos key_pos"] | None = None
    """What is added to the scaled scores (alibi); not together with a soft-cap."""

    @property
    def n_queries(self) -> int:
        """How many positions ask."""
        return self.query.shape[2]

    @property
    def n_keys(self) -> int:
        """How many positions can be attended to."""
        return self.key.shape[2]

    @property
    def explicit(self) -> bool:
        """Whether no product of queries and keys alone gives the scores."""
        return self.softcap is not None or self.bias is not None

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.query.shape[1] // self.key.shape[1]

    def at_temperature(self, temperature: Temperature) -> "AttentionCall":
        """The same call with its final scores divided, before the mask."""
        if self.softcap is not None:
            if isinstance(temperature, Tensor):
                temperature = temperature.to(self.query.device)
            return replace(self, temperature=self.temperature * temperature)
        bias = None if self.bias is None else divided(self.bias, temperature)
        if isinstance(temperature, Tensor):
            return replace(self, query=divided(self.query, temperature), bias=bias)
        return replace(self, scale=self.scale / temperature, bias=bias)

    def query_chunks(self) -> Iterator[slice]:
        """Slices of queries whose scores take a bounded amount of memory."""
        batch, heads, queries, _ = self.query.shape
        return _chunks(batch, heads, queries, self.key.shape[2])

    def allowed_rows(self, rows: slice) -> Bool[Tensor, "#batch #head query_pos key_pos"]:
        """The mask of some queries, built where it is plain causal."""
        if self.allowed is not None:
            return self.allowed[:, :, rows]
        keys = torch.arange(self.key.shape[2], device=self.query.device)
        offset = self.key.shape[2] - self.query.shape[2]
        return (keys[None, :] <= offset + keys[rows, None])[None, None]

    def scores(self, rows: slice) -> Float[Tensor, "batch head query_pos key_pos"]:
        """Scores of some queries: scaled, soft-capped, over the temperature, masked with -inf."""
        wide = torch.promote_types(self.query.dtype, torch.float32)
        query = self.query[:, :, rows].to(wide)
        key = repeat(self.key.to(wide), "b kv k d -> b (kv group) k d", group=self.group)
        scores = (query @ key.mT) * self.scale
        if self.softcap is not None:
            capped = self.softcap * torch.tanh(scores / self.softcap)
            scores = divided(capped, self.temperature)
        if self.bias is not None:
            scores = scores + self.bias[:, :, rows].to(wide)
        return scores.masked_fill(~self.allowed_rows(rows), -torch.inf)

    def mix(
        self, pattern: Float[Tensor, "batch head query_pos key_pos"]
    ) -> Float[Tensor, "batch query_pos head d_head"]:
        """The values, mixed by a pattern; in training after dropout, as transformers does."""
        if self.dropout:
            pattern = nn.functional.dropout(pattern, self.dropout)
        value = repeat(self.value, "b kv k d -> b (kv group) k d", group=self.group)
        return rearrange(pattern.to(value.dtype) @ value, "b h q d -> b q h d")

    def output(self) -> Float[Tensor, "batch query_pos head d_head"]:
        """The attention output, by a fused kernel where there is one for these scores."""
        if self.softcap is not None:
            rows = [self.mix(pattern_of(self.scores(rows))) for rows in self.query_chunks()]
            return torch.cat(rows, dim=1)
        mixed = nn.functional.scaled_dot_product_attention(
            self.query,
            self.key,
            self.value,
            attn_mask=self._mask(),
            dropout_p=self.dropout,
            is_causal=self.allowed is None and self.query.shape[2] > 1,
            scale=self.scale,
            enable_gqa=self.group > 1,
        )
        return rearrange(mixed, "b h q d -> b q h d")

    def _mask(self) -> Tensor | None:
        if self.bias is None:
            return self.allowed
        forbidden = ~self.allowed_rows(slice(0, self.n_queries))
        return self.bias.masked_fill(forbidden, torch.finfo(self.bias.dtype).min)


@dataclass(frozen=True)
class SoftmaxCall:
    """What an attention module passes to the softmax that it calls itself."""

    received: Float[Tensor, "batch head query_pos key_pos"]
    """Masked by the lowest value of the model's type."""
    returned: torch.dtype
    """The type of what the softmax returns."""
    model: torch.dtype | None = None
    """The type of the model's weights, where it is not that of the scores."""

    @property
    def n_queries(self) -> int:
        """How many positions ask."""
        return self.received.shape[2]

    @property
    def n_keys(self) -> int:
        """How many positions can be attended to."""
        return self.received.shape[3]

    def at_temperature(self, temperature: Temperature) -> "SoftmaxCall":
        """The same call with its scores divided, before the mask. Several temperatures multiply."""
        scores = self.scores(slice(0, self.n_queries))
        masked = scores.isneginf()
        # Dividing -inf would make the gradient of the temperature NaN.
        new = divided(scores.masked_fill(masked, 0.0), temperature).masked_fill(masked, -torch.inf)
        return replace(self, received=narrowed(new, self.received.dtype))

    def query_chunks(self) -> Iterator[slice]:
        """Slices of queries; the scores themselves are all there already."""
        return _chunks(*self.received.shape)

    def scores(self, rows: slice) -> Float[Tensor, "batch head query_pos key_pos"]:
        """Scores of some queries as the softmax receives them, masked with -inf."""
        return widened(self.received[:, :, rows], self.model)

    def mix(
        self, pattern: Float[Tensor, "batch head query_pos key_pos"]
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        """The pattern as the module goes on with it; it mixes the values itself."""
        return pattern.to(self.returned)

    def output(self) -> Float[Tensor, "batch head query_pos key_pos"]:
        """What the softmax returns."""
        return self.received.softmax(dim=-1, dtype=self.returned)


def _chunks(batch: int, heads: int, queries: int, keys: int) -> Iterator[slice]:
    size = max(1, _CHUNK_BYTES // (4 * batch * heads * keys))
    return (slice(start, min(start + size, queries)) for start in range(0, queries, size))


def pattern_of(
    scores: Float[Tensor, "batch head query_pos key_pos"],
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Softmax over keys; a query that may attend to nothing (a pad) gets zeros, not NaN."""
    return scores.softmax(dim=-1).nan_to_num(nan=0.0)


def allowed_and_bias(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """A mask as PyTorch takes it: which keys are allowed, and what is added to scores (alibi)."""
    if mask is None or mask.dtype is torch.bool:
        return mask, None
    allowed = mask > torch.finfo(mask.dtype).min / 2
    return allowed, mask.masked_fill(~allowed, 0.0)


def widened(scores: Tensor, model: torch.dtype | None = None) -> Tensor:
    """Scores of an eager mask, which adds the model's lowest value, as float32 with -inf."""
    lowest = torch.finfo(model or scores.dtype).min
    return wide(scores).masked_fill(scores <= lowest * _SHARE_OF_LOWEST, -torch.inf)


def narrowed(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """The way back: infinities would make a row NaN, one that may attend to nothing for example."""
    limits = torch.finfo(dtype)
    return scores.clamp(limits.min, limits.max).to(dtype)
