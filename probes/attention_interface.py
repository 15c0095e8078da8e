"""Take over a model's attention for a while, through transformers' `AttentionInterface`.

Every attention module of a modern transformers model hands its queries, keys and values to a
function chosen by name in the configuration. `attention_taken_over` registers a function of ours
under a name of ours, points the configuration at it, and puts everything back afterwards, also
after an exception. Inside, a handler per attention module receives the `AttentionCall` and
returns the attention output; modules without a handler run PyTorch's fused attention.
`attention_transformed` changes the call itself, before whoever reads it: any number of changes add
up, nested in any order with each other and with the one handler that a module may have.

Scores that a fused kernel cannot produce (soft-capped ones) are computed in chunks of queries, so
memory stays linear in the sequence length.

Source: `transformers.AttentionInterface`; Gemma 2 (arXiv 2408.00118) for the soft-cap.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

# transformers inspects names: one with "sdpa" or "flash" in it would be treated as that kernel.
_NAME = "mnemoscope"
_CHUNK_BYTES = 32 * 2**20

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

    @property
    def group(self) -> int:
        """How many query heads share a key head."""
        return self.query.shape[1] // self.key.shape[1]

    def at_temperature(self, temperature: Temperature) -> "AttentionCall":
        """The same call with its final scores divided, before the mask.

        Without a soft-cap the scores are linear in the scale and in the queries, which take the
        division, and fused kernels keep serving the call. Several temperatures multiply.
        """
        if self.softcap is not None:
            if isinstance(temperature, Tensor):
                temperature = temperature.to(self.query.device)
            return replace(self, temperature=self.temperature * temperature)
        if isinstance(temperature, Tensor):
            return replace(self, query=divided(self.query, temperature))
        return replace(self, scale=self.scale / temperature)

    def query_chunks(self) -> Iterator[slice]:
        """Slices of queries whose scores take a bounded amount of memory."""
        batch, heads, queries, _ = self.query.shape
        row_bytes = 4 * batch * heads * self.key.shape[2]
        size = max(1, _CHUNK_BYTES // row_bytes)
        return (slice(start, min(start + size, queries)) for start in range(0, queries, size))

    def allowed_rows(self, rows: slice) -> Bool[Tensor, "#batch #head query_pos key_pos"]:
        """The mask of some queries, built where it is plain causal."""
        if self.allowed is not None:
            return self.allowed[:, :, rows]
        keys = torch.arange(self.key.shape[2], device=self.query.device)
        offset = self.key.shape[2] - self.query.shape[2]
        return (keys[None, :] <= offset + keys[rows, None])[None, None]

    def scores(self, rows: slice) -> Float[Tensor, "batch head query_pos key_pos"]:
        """Scores of some queries: scaled, soft-capped, over the temperature, masked with -inf.

        In float32 or wider.
        """
        wide = torch.promote_types(self.query.dtype, torch.float32)
        query = self.query[:, :, rows].to(wide)
        key = repeat(self.key.to(wide), "b kv k d -> b (kv group) k d", group=self.group)
        scores = (query @ key.mT) * self.scale
        if self.softcap is not None:
            capped = self.softcap * torch.tanh(scores / self.softcap)
            scores = divided(capped, self.temperature)
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
            attn_mask=self.allowed,
            dropout_p=self.dropout,
            is_causal=self.allowed is None and self.query.shape[2] > 1,
            scale=self.scale,
            enable_gqa=self.group > 1,
        )
        return rearrange(mixed, "b h q d -> b q h d")


Handler = Callable[[AttentionCall], Float[Tensor, "batch query_pos head d_head"]]
Transform = Callable[[AttentionCall], AttentionCall]

_handlers: "WeakKeyDictionary[nn.Module, Handler]" = WeakKeyDictionary()
_transforms: "WeakKeyDictionary[nn.Module, list[Transform]]" = WeakKeyDictionary()


def pattern_of(
    scores: Float[Tensor, "batch head query_pos key_pos"],
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Softmax over keys; a query that may attend to nothing (a pad) gets zeros, not NaN."""
    return scores.softmax(dim=-1).nan_to_num(nan=0.0)


@contextmanager
def attention_taken_over(hf_model: Any, handlers: Mapping[nn.Module, Handler]) -> Iterator[None]:
    """Route the attention of some modules through handlers, and leave the model as it was.

    Args:
        hf_model: the Hugging Face model that the modules belong to.
        handlers: attention module to handler; others keep their fused attention.

    Raises:
        ValueError: the model's attention cannot be routed (it predates `AttentionInterface`), or
            a module of it already is.
    """
    with _routed(hf_model):
        if any(module in _handlers for module in handlers):
            raise ValueError(
                "the attention of this model is already being read; leave that context first"
            )
        _handlers.update(handlers)
        try:
            yield
        finally:
            for module in handlers:
                _handlers.pop(module, None)


@contextmanager
def attention_transformed(
    hf_model: Any, transforms: Mapping[nn.Module, Transform]
) -> Iterator[None]:
    """Change the calls of some attention modules, and leave the model as it was.

    Handlers, wherever they are nested, receive the changed call.

    Args:
        hf_model: the Hugging Face model that the modules belong to.
        transforms: attention module to what is made of its call; on a module that has some
            already, it comes after them.

    Raises:
        ValueError: the model's attention cannot be routed.
    """
    with _routed(hf_model):
        for module, transform in transforms.items():
            _transforms.setdefault(module, []).append(transform)
        try:
            yield
        finally:
            for module, transform in transforms.items():
                _transforms[module].remove(transform)


@contextmanager
def _routed(hf_model: Any) -> Iterator[None]:
    """Have the model's attention modules call our function; nests."""
    _register()
    if not hf_model._can_set_attn_implementation():
        raise ValueError(
            f"{type(hf_model).__name__} computes attention without transformers' AttentionInterface"
            "; attention can be neither read nor edited in it"
        )
    config, before = hf_model.config, hf_model.config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    for name in ("position_bias", "s_aux"):
        if extra.get(name) is not None:
            raise ValueError(
                f"{type(module).__name__} passes {name}, which changes its attention scores in a "
                "way not supported here; measure this model without attention"
            )
    if attention_mask is None and not getattr(module, "is_causal", True):
        raise ValueError(
            f"{type(module).__name__} attends in both directions; only causal models are measured"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    call = AttentionCall(query, key, value, attention_mask, scale, softcap, dropout)
    for transform in _transforms.get(module, ()):
        call = transform(call)
    handler = _handlers.get(module)
    return (call.output() if handler is None else handler(call)).contiguous(), None


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_NAME, _attention_function)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
