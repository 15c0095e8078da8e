"""Anatomy: the parts of one loaded model, module by module.

`locate` takes the row of the model's family, or one made up from its structure where the family
has none, and follows its paths.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import partial
from itertools import permutations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.architectures import ARCHITECTURES, Architecture, row_of
from probes.attention_call import AttentionCall, SoftmaxCall
from probes.attention_interface import attention_inside, attention_taken_over
from probes.checking import activation_of, difference, few_tokens, refusing_failures, tolerance
from probes.projections import Structure, device_of, matrix_of, stored_type, width_in, width_out


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
    """Run a model on a few tokens and remember what its modules did."""
    layers = _layers(hf_model)
    blocks = list(hf_model.get_submodule(layers))
    calls: dict[str, Call] = {}
    attention: list[nn.Module] = []
    handles = [
        module.register_forward_hook(_hook_to_remember(calls, name), with_kwargs=True)
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


def _hook_to_remember(calls: dict[str, Call], name: str) -> Any:
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


def recognise(hf_model: Any) -> Architecture:
    """Make up the row of a model whose family the architecture table does not have."""
    _refuse_experts(hf_model)
    family = hf_model.config.model_type
    try:
        with refusing_failures(f"what the modules of a {family} do is not understood"):
            return _row_from_trace(hf_model, traced(hf_model))
    except UnclearStructure as unclear:
        raise ValueError(
            f"model family {family!r} is not in the architecture table and was "
            f"not recognised by its structure: {unclear}; the table has {', '.join(ARCHITECTURES)}"
        ) from unclear


def _refuse_experts(hf_model: Any) -> None:
    for name, parameter in hf_model.named_parameters():
        if parameter.ndim == 3 and "experts" in name.split("."):
            raise ValueError(
                f"{type(hf_model).__name__} ({hf_model.config.model_type}) is a mixture of "
                f"experts: {name} is one three-dimensional parameter, so there is no down "
                "projection per expert to hook; mixtures of experts are not supported"
            )


def _row_from_trace(hf_model: Any, trace: ModuleTrace) -> Architecture:
    blocks = list(trace.blocks())
    into, down = _projections(hf_model, trace, blocks[0])
    up, gate = _up_and_gate(hf_model.config, blocks[0], into, down)
    # Where the MLP is no module of its own, the down projection stands for it.
    mlp = down.rpartition(".")[0] or down
    sites = _additions(blocks, trace.attention, mlp)
    return Architecture(
        family=hf_model.config.model_type,
        layers=trace.layers,
        embed=_name_of(hf_model, hf_model.get_input_embeddings()),
        final_norm=_final_norm(trace, blocks[-1][""]),
        attention=trace.attention,
        mlp=mlp,
        up=up,
        gate=gate,
        gate_up_fused=up == gate,
        down=down,
        flattened_mlp=blocks[0][down].input.ndim == 2,
        recognised=True,
        attention_out=sites["attention_out"],
        mlp_out=sites["mlp_out"],
        mid=sites["mid"],
    )


def _projections(
    hf_model: Any, trace: ModuleTrace, block: dict[str, Call]
) -> tuple[list[str], str]:
    """The projections into the MLP's width, and the one back."""
    d_model = block[""].output.shape[-1]
    module = hf_model.get_submodule(f"{trace.layers}.0")
    widths = {
        path: (call.input.shape[-1], call.output.shape[-1])
        for path, call in block.items()
        if path and not path.startswith(trace.attention) and _is_projection(module, path)
    }
    back = [path for path, (wide, out) in widths.items() if out == d_model != wide]
    if len(back) != 1:
        raise UnclearStructure(
            f"a block has {len(back)} projections from another width to d_model={d_model}, not one"
        )
    d_mlp = widths[back[0]][0]
    into = [p for p, found in widths.items() if found in ((d_model, d_mlp), (d_model, 2 * d_mlp))]
    return into, back[0]


def _is_projection(block: Any, path: str) -> bool:
    return getattr(getattr(block.get_submodule(path), "weight", None), "ndim", 0) == 2


def _up_and_gate(
    config: Any, block: dict[str, Call], into: list[str], down: str
) -> tuple[str, str | None]:
    """Which projections, one of them activated, give the coefficients."""
    activation = activation_of(config)
    if activation is None:
        raise UnclearStructure("its configuration does not name the MLP's activation function")
    coefficients = block[down].input
    outputs = {path: block[path].output for path in into}
    if len(into) == 2:
        for gate, up in permutations(into):
            if _agree(activation(outputs[gate]) * outputs[up], coefficients):
                return up, gate
    if len(into) == 1:
        only = outputs[into[0]]
        if only.shape != coefficients.shape:
            first, second = only.chunk(2, dim=-1)
            if _agree(activation(first) * second, coefficients):
                return into[0], into[0]
        elif _agree(activation(only), coefficients):
            return into[0], None
    raise UnclearStructure(
        f"what {down} receives is neither an activated projection nor one times another"
    )


def _additions(blocks: list[dict[str, Call]], attention: str, mlp: str) -> dict[str, str | None]:
    """Whose outputs add up to what every block does, and who reads the stream in between."""
    nothing: dict[str, str | None] = {"attention_out": None, "mlp_out": None, "mid": None}
    children = [path for path in blocks[0] if path and "." not in path] + [mlp]
    # The plain modules first: where a norm of ones or dropout follows one, both fit.
    firsts = sorted(children, key=lambda path: path != attention)
    seconds = sorted(children, key=lambda path: path != mlp)

    def gap(pair: tuple[str, str]) -> float:
        return max(_sum_gap(block, pair) for block in blocks)

    best = min(((a, m) for a in firsts for m in seconds if a != m), key=gap)
    if not gap(best) <= tolerance(blocks[0][""].output.dtype):
        return nothing
    reads = (path for path in children if all(_reads_mid(b, best[0], path) for b in blocks))
    return {"attention_out": best[0], "mlp_out": best[1], "mid": next(reads, None)}


def _sum_gap(block: dict[str, Call], pair: tuple[str, str]) -> float:
    stream, added = block[""], [block[path].output for path in pair]
    if any(output.numel() != stream.input.numel() for output in added):
        return float("inf")
    total = stream.input + sum(output.view_as(stream.input) for output in added)
    return difference(total, stream.output)


def _reads_mid(block: dict[str, Call], attention_out: str, path: str) -> bool:
    before, added, read = block[""].input, block[attention_out].output, block[path].input
    return read.numel() == before.numel() and _agree(read.view_as(before), before + added)


def _final_norm(trace: ModuleTrace, last: Call) -> str:
    for name, call in trace.calls.items():
        if not name.startswith(f"{trace.layers}.") and call.input is last.output:
            return name
    raise UnclearStructure("no final norm reads what comes out of the last block")


def _name_of(hf_model: Any, module: Any) -> str:
    return next(name for name, candidate in hf_model.named_modules() if candidate is module)


def _agree(found: Tensor, expected: Tensor) -> bool:
    return difference(found, expected) <= tolerance(expected.dtype)


@dataclass(frozen=True)
class Layer:
    """The modules of one block."""

    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    up: nn.Module
    gate: nn.Module | None
    down: Any
    """A `Linear`, or GPT-2's `Conv1D`."""
    mid: nn.Module | None
    attention_out: nn.Module | None
    mlp_out: nn.Module | None

    @property
    def memory_vectors(self) -> Float[Tensor, "d_mlp d_model"]:
        """The rows that the coefficients weight: the down projection, one memory vector a row."""
        return matrix_of(self.down)


@dataclass(frozen=True)
class Anatomy:
    """The parts of one loaded model."""

    architecture: Architecture
    trunk: nn.Module
    """Embedding, blocks and final norm: the model without its unembedding."""
    embed: Any
    layers: tuple[Layer, ...]
    final_norm: nn.Module
    unembed: Any
    logit_scale: float
    """What the unembedding's output is multiplied by."""
    logit_softcap: float | None
    """c in c * tanh(logits / c), where the family caps its logits."""
    d_model: int
    d_mlp: int
    n_heads: int

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return width_out(self.unembed)

    @property
    def n_tokens(self) -> int:
        """Number of token ids that the model reads."""
        held = (getattr(part, "weight", None) for part in self.embed.modules())
        return next(weight for weight in held if weight is not None).shape[0]

    @property
    def device(self) -> torch.device:
        """Where the token embedding lies, and token ids must go."""
        return device_of(self.embed)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the memory vectors, and so of the coefficients."""
        return stored_type(self.layers[0].down)

    def structure(self, root: nn.Module) -> Structure:
        """The modules of a model that these parts were found in, as they are now."""
        own = (self.trunk, self.embed, self.final_norm, self.unembed)
        inside = (getattr(layer, f.name) for layer in self.layers for f in fields(Layer))
        return Structure(root, (*own, *inside))


Unwrap = Callable[[Any], Any]


def _as_it_is(module: Any) -> Any:
    return module


def locate(hf_model: Any, unwrap: Unwrap = _as_it_is) -> Anatomy:
    """Find the parts of a Hugging Face causal language model."""
    config = hf_model.config
    unembed = hf_model.get_output_embeddings()
    if unembed is None:
        raise ValueError(
            f"{type(hf_model).__name__} has no unembedding; "
            "load the causal language model (AutoModelForCausalLM), not its trunk"
        )
    row = row_of(config) or recognise(hf_model)
    layers = tuple(
        _layer(row, unwrap(block), unwrap) for block in _follow(hf_model, row.layers, unwrap)
    )
    _refuse_shared(row, layers)
    widths = sorted({width_in(layer.down) for layer in layers})
    if len(widths) != 1:
        raise ValueError(f"layers of {row.family} differ in d_mlp: found {widths}; one is needed")
    return Anatomy(
        architecture=row,
        trunk=_trunk(hf_model, row.layers),
        embed=_follow(hf_model, row.embed, unwrap),
        layers=layers,
        final_norm=_follow(hf_model, row.final_norm, unwrap),
        unembed=unwrap(unembed),
        logit_scale=_logit_scale(config),
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        d_model=width_out(layers[0].down),
        d_mlp=widths[0],
        n_heads=config.num_attention_heads,
    )


def _refuse_shared(row: Architecture, layers: tuple[Layer, ...]) -> None:
    """Refuse a module that runs in two layers: a hook on it could not tell them apart."""
    seen: dict[int, int] = {}
    for number, layer in enumerate(layers):
        for part in fields(Layer):
            module = getattr(layer, part.name)
            other = number if module is None else seen.setdefault(id(module), number)
            if other != number:
                raise ValueError(
                    f"layers {other} and {number} of this {row.family} share one module ("
                    f"{part.name}), so hook points could not tell them apart; give each its own "
                    "(copy.deepcopy)"
                )


def _trunk(hf_model: Any, layers: str) -> Any:
    """The base model, or the part with the blocks where the model is its own base model."""
    if hf_model.base_model is not hf_model:
        return hf_model.base_model
    return getattr(hf_model, layers.partition(".")[0])


def _logit_scale(config: Any) -> float:
    """Cohere multiplies its logits by a constant, Granite divides them by one."""
    return getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", 0) or 1)


def _layer(row: Architecture, block: nn.Module, unwrap: Unwrap) -> Layer:
    def part(path: str | None) -> Any:
        return None if path is None else _follow(block, path, unwrap)

    return Layer(
        block=block,
        attention=part(row.attention),
        mlp=part(row.mlp),
        up=part(row.up),
        gate=part(row.gate),
        down=part(row.down),
        mid=part(row.mid),
        attention_out=part(row.attention_out),
        mlp_out=part(row.mlp_out),
    )


def _follow(module: nn.Module, path: str, unwrap: Unwrap) -> Any:
    found = module
    for name in path.split("."):
        if not isinstance(getattr(found, name, None), nn.Module):
            raise ValueError(
                f"{type(module).__name__} has no module {path!r}; the architecture table does not "
                "fit this model, so it is refused"
            )
        found = unwrap(getattr(found, name))
    return found
