"""Take over a model's attention for a while, mostly through transformers' `AttentionInterface`.

Every attention module of a modern transformers model hands its queries, keys and values to a
function chosen by name in the configuration. `attention_taken_over` registers a function of ours
under a name of ours, points the configuration at it, and puts everything back afterwards, also
after an exception. Inside, a handler per attention module receives the `AttentionCall` and
returns the attention output; modules without a handler run PyTorch's fused attention. Modules of
older families compute attention themselves; there the function that they call for it is answered
(`probes.attention_inside`), and a handler returns what that would.
`attention_transformed` changes the call itself, before whoever reads it: any number of changes add
up, nested in any order with each other and with the one handler that a module may have.

Source: `transformers.AttentionInterface`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from probes.attention_call import AttentionCall, SoftmaxCall, allowed_and_bias
from probes.attention_inside import attention_inside

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
    _register()
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
    allowed, bias = allowed_and_bias(attention_mask)
    call = AttentionCall(query, key, value, allowed, scale, softcap, dropout, bias=bias)
    return _answer(module, call).contiguous(), None


def _answer(module: nn.Module, call: AttentionCall | SoftmaxCall) -> Tensor:
    for transform in _transforms.get(module, ()):
        call = transform(call)
    handler = _handlers.get(module)
    return call.output() if handler is None else handler(call)


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_NAME, _attention_function)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
