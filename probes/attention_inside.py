"""Attention inside a module: reach the scores of modules that compute their attention themselves.

GPT-J, GPT-Neo, Falcon, BLOOM, MPT and CodeGen do not hand queries, keys and values to transformers'
`AttentionInterface`. Each of their attention modules still calls one function of PyTorch, a softmax
or `scaled_dot_product_attention`, and what that receives are the scores, or what gives them. While
such a module runs, `attention_inside` answers the call in its place; positions, masks, biases,
caches and dropout stay the module's own.

A module whose attention does neither, or does it twice, is refused: nothing goes unanswered.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

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
    if attn_mask is None and not is_causal and query.shape[2] > 1:
        raise ValueError(
            f"{type(module).__name__} attends in both directions; only causal models are measured"
        )
    allowed, bias = allowed_and_bias(attn_mask)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return AttentionCall(query, key, value, allowed, scale, None, dropout_p, bias=bias)
