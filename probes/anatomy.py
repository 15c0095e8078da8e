"""Anatomy: the parts of one loaded model, module by module.

`locate` follows the paths in the row of the model's family (`probes.architectures`). A family
without a row is run once on a few tokens, and its parts are known by what they do: the down
projection leads from another width back to that of the stream, outside the attention; gate and up
are told apart by which of them, activated, gives the coefficients; the final norm reads what comes
out of the last block; attention and MLP are read where their outputs are seen to add up to the
stream. Where they do not (Granite multiplies them first), `attention_out`, `mlp_out` and `mid` do
not exist.

Mixtures of experts are refused: transformers keeps their experts in three-dimensional parameters,
so no expert has a down projection to hook.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from itertools import permutations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.architectures import ARCHITECTURES, Architecture, row_of
from probes.attention_interface import (
    AttentionCall,
    SoftmaxCall,
    attention_inside,
    attention_taken_over,
)
from probes.checking import activation_of, difference, few_tokens, refusing_failures, tolerance
from probes.projections import Structure, device_of, matrix_of, stored_type, width_in, width_out
from probes.shown import Shown


@dataclass(frozen=True)
class Layer(Shown):
    """The modules of one block."""

    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    up: nn.Module
    gate: nn.Module | None
    down: Any  # a `Linear`, or GPT-2's `Conv1D`
    q: nn.Module | None
    k: nn.Module | None
    v: nn.Module | None  # the same module as `q` where one projection gives all three
    o: Any
    ln1: nn.Module | None
    ln2: nn.Module | None
    mid: nn.Module | None
    attention_out: nn.Module | None
    mlp_out: nn.Module | None

    @property
    def memory_vectors(self) -> Float[Tensor, "d_mlp d_model"]:
        """The rows that the coefficients weight: the down projection, one memory vector a row."""
        return matrix_of(self.down)


@dataclass(frozen=True)
class Anatomy(Shown):
    """The parts of one loaded model."""

    architecture: Architecture
    trunk: nn.Module  # embedding, blocks and final norm: the model without its unembedding
    embed: Any
    pos_embed: Any | None
    layers: tuple[Layer, ...]
    final_norm: nn.Module
    unembed: Any
    logit_scale: float  # what the unembedding's output is multiplied by
    logit_softcap: float | None  # c in c * tanh(logits / c), where the family caps its logits
    d_model: int
    d_mlp: int
    n_heads: int
    n_key_value_heads: int
    d_head: int

    def _facts(self) -> Mapping[str, Any]:
        sizes = ("d_model", "d_mlp", "n_heads", "d_vocab", "dtype", "device")
        layers = {"layers": f"{len(self.layers)} of {type(self.layers[0].block).__name__}"}
        return {"": self.architecture.family, **layers, **{n: getattr(self, n) for n in sizes}}

    @property
    def d_vocab(self) -> int:
        return width_out(self.unembed)

    @property
    def n_tokens(self) -> int:
        """Number of token ids that the model reads."""
        held = (getattr(part, "weight", None) for part in self.embed.modules())
        return next(weight for weight in held if weight is not None).shape[0]

    @property
    def device(self) -> torch.device:
        """The device of the token embedding, which token ids must go to."""
        return device_of(self.embed)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the memory vectors, and so of the coefficients."""
        return stored_type(self.layers[0].down)

    def memory_norms(self) -> Float[Tensor, "layer d_mlp"]:
        """The norms of the memory vectors, float64 on the CPU."""
        norms = torch.empty(len(self.layers), self.d_mlp, dtype=torch.float64)
        for row, layer in zip(norms, self.layers, strict=True):
            # In parts: between copies of whole layers, what is kept would leave gaps in the heap.
            # Squares are several times faster than `norm`, along an axis that is not the last.
            parts = layer.memory_vectors.detach().split(128)
            row.copy_(torch.cat([part.double().square().sum(dim=1) for part in parts]).sqrt())
        return norms

    def structure(self, root: nn.Module) -> Structure:
        """The modules of a model that these parts were found in, as they are now."""
        own = (self.trunk, self.embed, self.final_norm, self.unembed)
        inside = (getattr(layer, f.name) for layer in self.layers for f in fields(Layer))
        return Structure(root, (*own, *inside))


Unwrap = Callable[[Any], Any]


def locate(hf_model: Any, unwrap: Unwrap = lambda module: module) -> Anatomy:
    """Find the parts of a Hugging Face causal language model."""
    config = hf_model.config
    unembed = hf_model.get_output_embeddings()
    if unembed is None:
        raise ValueError(
            f"{type(hf_model).__name__} has no unembedding; "
            "load the causal language model (AutoModelForCausalLM), not its trunk"
        )
    row = row_of(config) or recognise(hf_model)

    def layer_of(block: nn.Module) -> Layer:
        paths = {f.name: getattr(row, f.name) for f in fields(Layer) if f.name != "block"}
        parts: dict[str, Any] = {
            name: path if path is None else _follow(block, path, unwrap)
            for name, path in paths.items()
        }
        return Layer(block=block, **parts)

    blocks = _follow(hf_model, row.layers, unwrap)
    layers = tuple(layer_of(unwrap(block)) for block in blocks)
    _refuse_shared(row, layers)
    widths = sorted({width_in(layer.down) for layer in layers})
    if len(widths) != 1:
        raise ValueError(f"layers of {row.family} differ in d_mlp: found {widths}; one is needed")
    base = hf_model.base_model
    n_heads = config.num_attention_heads
    d_head, n_key_value_heads = _widths_of_heads(layers[0], config, n_heads)
    scaling = getattr(config, "logits_scaling", 0) or 1
    return Anatomy(
        architecture=row,
        # The part with the blocks, where the model is its own base model.
        trunk=base if base is not hf_model else getattr(hf_model, row.layers.partition(".")[0]),
        embed=_follow(hf_model, row.embed, unwrap),
        pos_embed=None if row.pos_embed is None else _follow(hf_model, row.pos_embed, unwrap),
        layers=layers,
        final_norm=_follow(hf_model, row.final_norm, unwrap),
        unembed=unwrap(unembed),
        # Cohere multiplies its logits by a constant, Granite divides them by one.
        logit_scale=getattr(config, "logit_scale", None) or 1 / scaling,
        logit_softcap=getattr(config, "final_logit_softcapping", None),
        d_model=width_out(layers[0].down),
        d_mlp=widths[0],
        n_heads=n_heads,
        n_key_value_heads=n_key_value_heads,
        d_head=d_head,
    )


def _widths_of_heads(layer: Layer, config: Any, n_heads: int) -> tuple[int, int]:
    if layer.q is None or layer.k is None:
        width = getattr(config, "head_dim", None) or config.hidden_size // n_heads
        return width, getattr(config, "num_key_value_heads", None) or n_heads
    width = width_in(layer.o) // n_heads
    heads = width_out(layer.k) // width
    return width, (heads - n_heads) // 2 if layer.k is layer.q else heads


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


class _Unclear(ValueError):
    """Why a model's structure was not recognised."""


@dataclass(frozen=True)
class _Call:
    """The first tensor that a module received, and the first that it returned."""

    input: Tensor
    output: Tensor


_Calls = dict[str, _Call]
"""Calls by the module's path in a block; the block itself is the empty path."""


def recognise(hf_model: Any) -> Architecture:
    """Make up the row of a model whose family the architecture table does not have."""
    family = hf_model.config.model_type
    for name, parameter in hf_model.named_parameters():
        if parameter.ndim == 3 and "experts" in name.split("."):
            raise ValueError(
                f"{type(hf_model).__name__} ({family}) is a mixture of "
                f"experts: {name} is one three-dimensional parameter, so there is no down "
                "projection per expert to hook; mixtures of experts are not supported"
            )
    try:
        with refusing_failures(f"what the modules of a {family} do is not understood"):
            return _row_from_trace(hf_model)
    except _Unclear as unclear:
        raise ValueError(
            f"model family {family!r} is not in the architecture table and was "
            f"not recognised by its structure: {unclear}; the table has {', '.join(ARCHITECTURES)}"
        ) from unclear


def _row_from_trace(hf_model: Any) -> Architecture:
    config = hf_model.config
    wanted = getattr(config, "num_hidden_layers", None)
    lists = [(n, m) for n, m in hf_model.named_modules() if isinstance(m, nn.ModuleList)]
    layers, modules = next((found for found in lists if len(found[1]) == wanted), ("", None))
    if modules is None:
        raise _Unclear(f"it has no list of {wanted} blocks (num_hidden_layers)")
    calls, attention = _traced(hf_model, list(modules))
    blocks: list[_Calls] = []
    for i in range(len(modules)):
        own = f"{layers}.{i}"
        inside = [name for name in calls if name == own or name.startswith(f"{own}.")]
        blocks.append({name[len(own) + 1 :]: calls[name] for name in inside})
    into, down = _projections(modules[0], blocks[0], attention)
    up, gate = _up_and_gate(config, blocks[0], into, down)
    # Where the MLP is no module of its own, the down projection stands for it.
    mlp = down.rpartition(".")[0] or down
    last = blocks[-1][""].output
    reads_last = (n for n, c in calls.items() if not n.startswith(f"{layers}.") and c.input is last)
    if (final_norm := next(reads_last, None)) is None:
        raise _Unclear("no final norm reads what comes out of the last block")
    embedding = hf_model.get_input_embeddings()
    additions = _additions(blocks, attention, mlp)
    return Architecture(
        family=config.model_type,
        layers=layers,
        embed=next(name for name, module in hf_model.named_modules() if module is embedding),
        final_norm=final_norm,
        attention=attention,
        mlp=mlp,
        up=up,
        gate=gate,
        gate_up_fused=up == gate,
        down=down,
        flattened_mlp=blocks[0][down].input.ndim == 2,
        recognised=True,
        **_known_projections(modules[0], attention),
        **additions,
        **_norms(modules[0], blocks[0], {"attention": attention, "mlp": mlp, **additions}),
    )


def _known_projections(block: Any, attention: str) -> dict[str, Any]:
    """Projections of the attention, where they have the names that most families use."""
    inside = dict(block.get_submodule(attention).named_children())
    back = next((name for name in ("o_proj", "out_proj", "dense") if name in inside), None)
    known = back is not None and {"q_proj", "k_proj", "v_proj"} <= inside.keys()
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": back}
    return {part: f"{attention}.{name}" if known else None for part, name in names.items()}


@torch.no_grad()
def _traced(hf_model: Any, blocks: list[nn.Module]) -> tuple[_Calls, str]:
    """What every module does with a few tokens, and which module of a block is its attention."""
    calls: _Calls = {}
    called: list[nn.Module] = []

    def first_tensor(values: tuple[Any, ...]) -> Tensor | None:
        tensors = (v for v in values if isinstance(v, Tensor))
        return next((tensor for tensor in tensors if tensor.is_floating_point()), None)

    def remember(name: str, _module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        received = first_tensor((*args, *kwargs.values()))
        returned = first_tensor(output if isinstance(output, tuple) else (output,))
        if received is not None and returned is not None:
            calls[name] = _Call(received, returned)

    def answer(module: nn.Module, call: AttentionCall | SoftmaxCall) -> Tensor:
        called.append(module)
        return call.output()

    modules = [module for block in blocks for module in block.modules()]
    if hf_model._can_set_attn_implementation():
        noting = attention_taken_over(hf_model, {m: partial(answer, m) for m in modules})
    else:
        noting = attention_inside(modules, answer, required=False)
    handles = [
        module.register_forward_hook(partial(remember, name), with_kwargs=True)
        for name, module in hf_model.named_modules()
    ]
    ids = few_tokens(hf_model.config.vocab_size, next(hf_model.parameters()).device)
    try:
        with noting, refusing_failures("it does not run"):
            hf_model(ids, use_cache=False)
    except ValueError as error:
        raise _Unclear(str(error)) from error
    finally:
        for handle in handles:
            handle.remove()
    found = {tuple(n for n, m in block.named_modules() if m in called) for block in blocks}
    paths = next(iter(found))
    if len(found) != 1 or len(paths) != 1 or len(called) != len(blocks):
        raise _Unclear("not every block has one module that calls an attention function, once")
    return calls, paths[0]


def _projections(module: Any, block: _Calls, attention: str) -> tuple[list[str], str]:
    """The projections into the MLP's width, and the one back."""
    d_model = block[""].output.shape[-1]
    widths = {
        path: (call.input.shape[-1], call.output.shape[-1])
        for path, call in block.items()
        if path
        and not path.startswith(attention)
        and getattr(getattr(module.get_submodule(path), "weight", None), "ndim", 0) == 2
    }
    back = [path for path, (wide, out) in widths.items() if out == d_model != wide]
    if len(back) != 1:
        raise _Unclear(
            f"a block has {len(back)} projections from another width to d_model={d_model}, not one"
        )
    d_mlp = widths[back[0]][0]
    into = [p for p, found in widths.items() if found in ((d_model, d_mlp), (d_model, 2 * d_mlp))]
    return into, back[0]


def _up_and_gate(config: Any, block: _Calls, into: list[str], down: str) -> tuple[str, str | None]:
    """Which projections, one of them activated, give the coefficients."""
    activation = activation_of(config)
    if activation is None:
        raise _Unclear("its configuration does not name the MLP's activation function")
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
    raise _Unclear(f"what {down} receives is neither an activated projection nor one times another")


def _additions(blocks: list[_Calls], attention: str, mlp: str) -> dict[str, Any]:
    children = [path for path in blocks[0] if path and "." not in path] + [mlp]
    # The plain modules first: where a norm of ones or dropout follows one, both fit.
    firsts = sorted(children, key=lambda path: path != attention)
    seconds = sorted(children, key=lambda path: path != mlp)

    def gap(pair: tuple[str, str]) -> float:
        return max(_sum_gap(block, pair) for block in blocks)

    best = min(((a, m) for a in firsts for m in seconds if a != m), key=gap)
    if not gap(best) <= tolerance(blocks[0][""].output.dtype):
        return {"attention_out": None, "mlp_out": None, "mid": None}
    reads = (path for path in children if all(_reads_mid(b, best[0], path) for b in blocks))
    return {"attention_out": best[0], "mlp_out": best[1], "mid": next(reads, None)}


def _sum_gap(block: _Calls, pair: tuple[str, str]) -> float:
    stream, added = block[""], [block[path].output for path in pair]
    if any(output.numel() != stream.input.numel() for output in added):
        return float("inf")
    total = stream.input + sum(output.view_as(stream.input) for output in added)
    return difference(total, stream.output)


def _reads_mid(block: _Calls, attention_out: str, path: str) -> bool:
    before, added, read = block[""].input, block[attention_out].output, block[path].input
    return read.numel() == before.numel() and _agree(read.view_as(before), before + added)


def _norms(module: Any, block: _Calls, row: dict[str, Any]) -> dict[str, Any]:
    """The norms that attention and MLP read the stream through, as far as that is clear."""
    norms = [
        path
        for path in block
        if path and "." not in path and "norm" in type(module.get_submodule(path)).__name__.lower()
    ]

    def before(part: str) -> str | None:
        received = block[part].input.data_ptr()
        return next((path for path in norms if block[path].output.data_ptr() == received), None)

    ln1, ln2 = before(row["attention"]), before(row["mlp"])
    ln2 = row["mid"] if row["mid"] in norms else ln2
    return {"ln1": ln1, "ln2": None if ln2 == ln1 else ln2}


def _agree(found: Tensor, expected: Tensor) -> bool:
    return difference(found, expected) <= tolerance(expected.dtype)
