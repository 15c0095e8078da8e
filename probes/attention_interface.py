"""Take over a model's attention for a while: read its scores, or divide them by a temperature.

Every attention module of a modern transformers model hands its queries, keys and values to a
function chosen by name in the configuration. `attention_taken_over` puts a function of ours there,
in which handlers receive the `AttentionCall`; `attention_transformed` changes the call before them.
Contexts nest in any order, and everything is put back afterwards. Modules of older families (GPT-J,
GPT-Neo, Falcon, BLOOM, MPT, CodeGen) call one function of PyTorch for their attention, a softmax or
`scaled_dot_product_attention`, which `attention_inside` answers while they run.

Scores are scaled, soft-capped (Gemma 2, arXiv 2408.00118), biased (alibi, arXiv 2108.12409), over
the temperature and masked with -inf, in float32 or wider. A temperature divides all of that but the
mask. Scores that a fused kernel cannot produce are computed in chunks of queries, so memory stays
linear in the sequence length.

Example:
    >>> call = SoftmaxCall(torch.tensor([[[[0.0, -1e38], [2.0, 2.0]]]]), torch.float32)
    >>> call.at_temperature(2.0).scores(slice(0, 2))[0, 0].tolist()
    [[0.0, -inf], [1.0, 1.0]]
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
        temperature = temperature.to(wide(rows[:0]))[:, None, None]
    return (rows / temperature).to(rows.dtype)


@dataclass(frozen=True)
class AttentionCall:
    """What an attention module passes to its attention function: heads split, positions rotated."""

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
        return self.query.shape[2]

    @property
    def n_keys(self) -> int:
        return self.key.shape[2]

    @property
    def explicit(self) -> bool:
        """Whether no product of queries and keys alone gives the scores."""
        return self.softcap is not None or self.bias is not None

    @property
    def group(self) -> int:
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
        return _chunks(batch, heads, queries, self.n_keys)

    def allowed_rows(self, rows: slice) -> Bool[Tensor, "#batch #head query_pos key_pos"]:
        """The mask of some queries, built where it is plain causal."""
        if self.allowed is not None:
            return self.allowed[:, :, rows]
        keys = torch.arange(self.n_keys, device=self.query.device)
        return (keys[None, :] <= self.n_keys - self.n_queries + keys[rows, None])[None, None]

    def scores(self, rows: slice) -> Float[Tensor, "batch head query_pos key_pos"]:
        """Scores of some queries: scaled, soft-capped, over the temperature, masked with -inf."""
        query = wide(self.query[:, :, rows])
        key = repeat(wide(self.key), "b kv k d -> b (kv group) k d", group=self.group)
        scores = (query @ key.mT) * self.scale
        if self.softcap is not None:
            capped = self.softcap * torch.tanh(scores / self.softcap)
            scores = divided(capped, self.temperature)
        if self.bias is not None:
            scores = scores + self.bias[:, :, rows].to(scores)
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
    returned: torch.dtype  # the type of what the softmax returns
    model: torch.dtype | None = None
    """The type of the model's weights, where it is not that of the scores."""

    @property
    def n_queries(self) -> int:
        return self.received.shape[2]

    @property
    def n_keys(self) -> int:
        return self.received.shape[3]

    def at_temperature(self, temperature: Temperature) -> "SoftmaxCall":
        """The same call with its scores divided, before the mask. Several temperatures multiply."""
        scores = self.scores(slice(0, self.n_queries))
        masked = scores.isneginf()
        # Dividing -inf would make the gradient of the temperature NaN.
        new = divided(scores.masked_fill(masked, 0.0), temperature).masked_fill(masked, -torch.inf)
        return replace(self, received=narrowed(new, self.received.dtype))

    def query_chunks(self) -> Iterator[slice]:
        return _chunks(*self.received.shape)

    def scores(self, rows: slice) -> Float[Tensor, "batch head query_pos key_pos"]:
        """Scores of some queries as the softmax receives them, masked with -inf."""
        return widened(self.received[:, :, rows], self.model)

    def mix(
        self, pattern: Float[Tensor, "batch head query_pos key_pos"]
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        return pattern.to(self.returned)

    def output(self) -> Float[Tensor, "batch head query_pos key_pos"]:
        return self.received.softmax(dim=-1, dtype=self.returned)


def _chunks(batch: int, heads: int, queries: int, keys: int) -> Iterator[slice]:
    size = max(1, _CHUNK_BYTES // (4 * batch * heads * keys))
    return (slice(start, min(start + size, queries)) for start in range(0, queries, size))


def pattern_of(
    scores: Float[Tensor, "batch head query_pos key_pos"],
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Softmax over keys; a query that may attend to nothing (a pad) gets zeros, not NaN."""
    return scores.softmax(dim=-1).nan_to_num(nan=0.0)


def widened(scores: Tensor, model: torch.dtype | None = None) -> Tensor:
    """Scores of an eager mask, which adds the model's lowest value, as float32 with -inf."""
    lowest = torch.finfo(model or scores.dtype).min
    return wide(scores).masked_fill(scores <= lowest * _SHARE_OF_LOWEST, -torch.inf)


def narrowed(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """The way back: infinities would make a row NaN, one that may attend to nothing for example."""
    limits = torch.finfo(dtype)
    return scores.clamp(limits.min, limits.max).to(dtype)


Answer = Callable[[nn.Module, AttentionCall | SoftmaxCall], Tensor]
"""From a module and what it passes to its attention function to what that returns."""

_SOFTMAXES = (nn.functional.softmax, torch.softmax, Tensor.softmax)


class _Running(threading.local):
    """The modules that run now, the innermost last; autograd runs some again in its own thread."""

    def __init__(self) -> None:
        self.modules: list[_Module] = []
        self.mode = _Answering(self)


class _Module:
    """One run of a module, and how often it has called an attention function."""

    def __init__(self, module: nn.Module, answer: Answer) -> None:
        self.module, self.answer, self.calls = module, answer, 0
        self.entered = 1
        """By how many contexts, which may be nested."""

    def take(self, call: AttentionCall | SoftmaxCall) -> Tensor:
        self.calls += 1
        return self.answer(self.module, call)


class _Answering(TorchFunctionMode):
    """Answers attention functions for the innermost module that runs."""

    def __init__(self, running: _Running) -> None:
        super().__init__()
        self._running = running

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        named, inside = kwargs or {}, self._running.modules[-1]
        if func is nn.functional.scaled_dot_product_attention:
            return inside.take(_fused_call(inside.module, *args, **named)).transpose(1, 2)
        if func in _SOFTMAXES and (call := _softmax_call(inside.module, *args, **named)):
            return inside.take(call)
        return func(*args, **named)


_running = _Running()


@contextmanager
def attention_inside(
    modules: Iterable[nn.Module], answer: Answer, *, required: bool = True
) -> Iterator[None]:
    """Answer the attention functions that some modules call, for the length of a `with` block."""

    def enter(module: nn.Module, _args: Any) -> None:
        if _running.modules and _running.modules[-1].module is module:
            _running.modules[-1].entered += 1
            return
        if not _running.modules:
            _running.mode.__enter__()
        _running.modules.append(_Module(module, answer))

    def leave(module: nn.Module, _args: Any, output: Any) -> None:
        ran = _running.modules[-1]
        ran.entered -= 1
        if ran.entered:
            return
        _running.modules.pop()
        if not _running.modules:
            _running.mode.__exit__(None, None, None)
        # There is no output after an exception, which says more.
        if required and output is not None and ran.calls != 1:
            raise ValueError(
                f"{type(module).__name__} calls {ran.calls} functions that show its attention "
                "scores, not one, so they can be neither read nor edited; set its attention "
                "implementation to 'eager', or measure this model without attention"
            )

    with ExitStack() as stack:
        for module in modules:
            first = module.register_forward_pre_hook(enter, prepend=True)
            stack.callback(first.remove)
            last = module.register_forward_hook(leave, always_call=True)
            stack.callback(last.remove)
        yield


def _softmax_call(
    module: nn.Module,
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> SoftmaxCall | None:
    """Named as PyTorch names them; None where it is no softmax over keys."""
    if input.ndim != 4 or dim not in (-1, 3):
        return None
    weights = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    return SoftmaxCall(input, dtype or input.dtype, weights)


def _fused_call(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    del enable_gqa
    causal = is_causal or query.shape[2] == 1
    return _call(module, (query, key, value), attn_mask, causal, scale, None, dropout_p)


def _call(
    module: nn.Module,
    tensors: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
    softcap: float | None,
    dropout: float,
) -> AttentionCall:
    if mask is None and not causal:
        raise ValueError(
            f"{type(module).__name__} attends in both directions; only causal models are measured"
        )
    allowed, bias = mask, None
    if mask is not None and mask.dtype is not torch.bool:
        # A mask that is added to the scores may hold a bias (alibi) too.
        allowed = mask > torch.finfo(mask.dtype).min / 2
        bias = mask.masked_fill(~allowed, 0.0)
    scale = tensors[0].shape[-1] ** -0.5 if scale is None else scale
    return AttentionCall(*tensors, allowed, scale, softcap, dropout, bias=bias)


# transformers inspects names: one with "sdpa" or "flash" in it would be treated as that kernel.
_NAME = "mnemoscope"

Handler = Callable[[AttentionCall | SoftmaxCall], Tensor]
"""From a call to what its function returns: `call.output()`, or `call.mix` of a pattern."""
Transform = Callable[[AttentionCall | SoftmaxCall], AttentionCall | SoftmaxCall]

_handlers: "WeakKeyDictionary[nn.Module, Handler]" = WeakKeyDictionary()
_transforms: "WeakKeyDictionary[nn.Module, list[Transform]]" = WeakKeyDictionary()


@contextmanager
def attention_taken_over(hf_model: Any, handlers: Mapping[nn.Module, Handler]) -> Iterator[None]:
    """Route the attention of some modules through handlers, and leave the model as it was."""
    with _routed(hf_model, handlers):
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
    """Change the calls of some attention modules, and leave the model as it was."""
    with _routed(hf_model, transforms):
        for module, transform in transforms.items():
            _transforms.setdefault(module, []).append(transform)
        try:
            yield
        finally:
            for module, transform in transforms.items():
                _transforms[module].remove(transform)


@contextmanager
def _routed(hf_model: Any, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Have the model's attention modules call our function; nests."""
    if not hf_model._can_set_attn_implementation():
        with attention_inside(modules, _answer):
            yield
        return
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_NAME, _attention_function)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
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
    causal = getattr(module, "is_causal", True)
    tensors = query, key, value
    call = _call(module, tensors, attention_mask, causal, scaling, softcap, dropout)
    return _answer(module, call).contiguous(), None


def _answer(module: nn.Module, call: AttentionCall | SoftmaxCall) -> Tensor:
    for transform in _transforms.get(module, ()):
        call = transform(call)
    handler = _handlers.get(module)
    return call.output() if handler is None else handler(call)
