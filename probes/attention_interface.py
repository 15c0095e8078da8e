"""Take over a model's attention for a while, mostly through transformers' `AttentionInterface`.

Every attention module of a modern transformers model hands its queries, keys and values to a
function chosen by name in the configuration. `attention_taken_over` points the configuration at a
function of ours, in which a handler per attention module receives the `AttentionCall`; modules
without a handler run PyTorch's fused attention. `attention_transformed` changes the call itself,
before whoever reads it. Contexts nest in any order, and everything is put back afterwards.

Modules of older families (GPT-J, GPT-Neo, Falcon, BLOOM, MPT, CodeGen) call one function of PyTorch
for their attention, a softmax or `scaled_dot_product_attention`; while they run, `attention_inside`
answers that call. A module that makes no such call, or two, is refused.

Source: `transformers.AttentionInterface`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probes.attention_call import AttentionCall, SoftmaxCall, allowed_and_bias

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
    allowed, bias = allowed_and_bias(mask)
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
    causal = getattr(module, "is_causal", True)
    tensors = query, key, value
    call = _call(module, tensors, attention_mask, causal, scaling, softcap, dropout)
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
