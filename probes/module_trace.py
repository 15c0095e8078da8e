"""Module trace: what every module of a model received and returned on a few tokens.

The blocks are the list of as many modules as the configuration says there are layers; a block's
attention is the module in it that calls transformers' attention function, or PyTorch's.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probes.attention_call import AttentionCall, SoftmaxCall
from probes.attention_inside import attention_inside
from probes.attention_interface import attention_taken_over
from probes.checking import few_tokens, refusing_failures


class UnclearStructure(ValueError):
    """Why a model's structure was not recognised."""


@dataclass(frozen=True)
class Call:
    """The first tensor that a module received, and the first that it returned."""

    input: Tensor
    output: Tensor


@dataclass(frozen=True)
class ModuleTrace:
    """What every module did; `layers` is the path of the blocks, `attention` a path in a block."""

    calls: dict[str, Call]
    layers: str
    attention: str
    n_layers: int

    def blocks(self) -> Iterator[dict[str, Call]]:
        """The calls of each block, by path in the block; the block itself is the empty path."""
        for i in range(self.n_layers):
            block = f"{self.layers}.{i}"
            inside = {
                n: c for n, c in self.calls.items() if n == block or n.startswith(f"{block}.")
            }
            yield {name[len(block) + 1 :]: call for name, call in inside.items()}


@torch.no_grad()
def traced(hf_model: Any) -> ModuleTrace:
    """Run a model on a few tokens and remember what its modules did.

    Raises:
        UnclearStructure: blocks or their attention cannot be told.
    """
    layers = _layers(hf_model)
    blocks = list(hf_model.get_submodule(layers))
    calls: dict[str, Call] = {}
    attention: list[nn.Module] = []
    handles = [
        module.register_forward_hook(_remembering(calls, name), with_kwargs=True)
        for name, module in hf_model.named_modules()
    ]
    ids = few_tokens(hf_model.config.vocab_size, next(hf_model.parameters()).device)
    try:
        with _attention_noted(hf_model, blocks, attention), refusing_failures("it does not run"):
            hf_model(ids, use_cache=False)
    except ValueError as error:
        raise UnclearStructure(str(error)) from error
    finally:
        for handle in handles:
            handle.remove()
    return ModuleTrace(calls, layers, _attention_path(blocks, attention), len(blocks))


def _remembering(calls: dict[str, Call], name: str) -> Any:
    def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        received, returned = _first_tensor((*args, *kwargs.values())), _first_tensor(output)
        if received is not None and returned is not None:
            calls[name] = Call(received, returned)

    return hook


def _attention_noted(
    hf_model: Any, blocks: list[nn.Module], called: list[nn.Module]
) -> AbstractContextManager[None]:
    """Note which modules call an attention function, transformers' or one of PyTorch's."""

    def answer(module: nn.Module, call: AttentionCall | SoftmaxCall) -> Tensor:
        called.append(module)
        return call.output()

    modules = [module for block in blocks for module in block.modules()]
    if hf_model._can_set_attn_implementation():
        return attention_taken_over(hf_model, {m: partial(answer, m) for m in modules})
    return attention_inside(modules, answer, required=False)


def _first_tensor(values: Any) -> Tensor | None:
    candidates = values if isinstance(values, tuple) else (values,)
    return next((v for v in candidates if isinstance(v, Tensor) and v.is_floating_point()), None)


def _layers(hf_model: Any) -> str:
    wanted = getattr(hf_model.config, "num_hidden_layers", None)
    for name, module in hf_model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return name
    raise UnclearStructure(f"it has no list of {wanted} blocks (num_hidden_layers)")


def _attention_path(blocks: list[Any], called: list[nn.Module]) -> str:
    found = {
        tuple(name for name, module in block.named_modules() if module in called)
        for block in blocks
    }
    paths = next(iter(found))
    if len(found) != 1 or len(paths) != 1 or len(called) != len(blocks):
        raise UnclearStructure(
            "not every block has one module that calls an attention function, once"
        )
    return paths[0]
