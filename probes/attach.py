"""Attach functions to the hook points of a model, and take them off again.

How each site is reached: an input or output hook on the module that the architecture table names
for it; attention scores and pattern by taking the attention over (`attention_interface`). A
function receives the tensor and its hook point, and may return a replacement. Only our own handles
are removed, also after an exception; hooks that others put on the model stay.

Under gradient checkpointing a hook fires twice a step, once in the recomputation: an edit must, a
reducer must not be attached then.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from probes.anatomy import Anatomy, Layer
from probes.architectures import Architecture
from probes.attention_call import AttentionCall, SoftmaxCall, pattern_of
from probes.attention_interface import Handler, attention_taken_over
from probes.sites import HookPoint, Site, as_site, hook_name, parse_hook_point

HookFunction = Callable[[Tensor, HookPoint], Tensor | None]
_Attached = list[RemovableHandle]
# What a block that flattens its MLP has as `[batch*pos ...]`.
IN_MLP = (Site.RESID_MID, Site.MLP_UP, Site.MLP_GATE, Site.MLP_COEFFICIENTS, Site.MLP_OUT)


def fitted(
    hooks: Sequence[tuple[HookPoint, HookFunction]], architecture: Architecture
) -> list[tuple[HookPoint, HookFunction]]:
    """The same hooks, fitted to what the blocks of a family do."""
    mids: list[tuple[HookPoint, HookFunction]] = []
    others: list[tuple[HookPoint, HookFunction]] = []
    for point, function in hooks:
        if point.site is Site.RESID_MID:
            edit, carry_over = _edit_and_carry_over(function)
            mids += [(point, edit), (HookPoint(Site.RESID_POST, point.layer), carry_over)]
        elif point.site is Site.MLP_OUT and architecture.mlp_out_overwritten:
            others.append((point, _on_a_copy(function)))
        else:
            others.append((point, function))
    return mids + others


def _on_a_copy(function: HookFunction) -> HookFunction:
    return lambda tensor, point: function(tensor.clone(), point)


def _edit_and_carry_over(function: HookFunction) -> tuple[HookFunction, HookFunction]:
    differences: list[Tensor] = []

    def edit(stream: Tensor, point: HookPoint) -> Tensor | None:
        new = function(stream, point)
        if new is not None:
            differences.append(new - stream)
        return new

    def carry_over(stream: Tensor, _point: HookPoint) -> Tensor | None:
        return stream + differences.pop() if differences else None

    return edit, carry_over


@contextmanager
def attached(
    hf_model: Any, anatomy: Anatomy, hooks: Sequence[tuple[HookPoint, HookFunction]]
) -> Iterator[None]:
    """Attach functions to hook points for the length of a `with` block."""
    of_attention: dict[int, list[tuple[HookPoint, HookFunction]]] = defaultdict(list)
    with ExitStack() as stack:
        for point, function in fitted(hooks, anatomy.architecture):
            if point.site in (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN):
                assert point.layer is not None
                of_attention[point.layer].append((point, function))
                continue
            for handle in _attach(hf_model, anatomy, point, function):
                stack.callback(handle.remove)
        if of_attention:
            handlers = {
                anatomy.layers[layer].attention: _explicit_attention(pairs)
                for layer, pairs in of_attention.items()
            }
            stack.enter_context(attention_taken_over(hf_model, handlers))
        yield


def _attach(hf_model: Any, anatomy: Anatomy, point: HookPoint, function: HookFunction) -> _Attached:
    if point.site is Site.LOGITS:
        return [_on_logits(hf_model, point, function)]
    if point.site is Site.EMBED:
        return [_on_output(anatomy.embed, point, function)]
    if point.site is Site.FINAL_NORM:
        return [_on_output(anatomy.final_norm, point, function)]
    assert point.layer is not None
    layer = anatomy.layers[point.layer]
    if anatomy.architecture.flattened_mlp and point.site in IN_MLP:
        return _attach_flattened(anatomy, layer, point, function)
    return _attach_in_layer(anatomy, layer, point, function)


def _attach_flattened(
    anatomy: Anatomy, layer: Layer, point: HookPoint, function: HookFunction
) -> _Attached:
    """Give the function `batch pos` where the block runs its MLP on `batch*pos`."""
    shape: list[int] = []

    def remember(stream: Tensor, _point: HookPoint) -> None:
        shape[:] = stream.shape[:2]

    def unflattened(tensor: Tensor, where: HookPoint) -> Tensor | None:
        new = function(tensor.unflatten(0, shape), where)
        return None if new is None else new.flatten(0, 1)

    first = _on_input(layer.block, point, remember)
    return [first, *_attach_in_layer(anatomy, layer, point, unflattened)]


def _attach_in_layer(
    anatomy: Anatomy, layer: Layer, point: HookPoint, function: HookFunction
) -> _Attached:
    match point.site:
        case Site.RESID_PRE:
            return [_on_input(layer.block, point, function)]
        case Site.RESID_POST:
            return [_on_output(layer.block, point, function)]
        case Site.RESID_MID:
            assert layer.mid is not None
            return [_on_input(layer.mid, point, function)]
        case Site.ATTENTION_OUT:
            assert layer.attention_out is not None
            return [_on_output(layer.attention_out, point, function)]
        case Site.MLP_OUT:
            assert layer.mlp_out is not None
            return [_on_output(layer.mlp_out, point, function)]
        case Site.MLP_COEFFICIENTS:
            return [_on_input(layer.down, point, function)]
        case Site.MLP_GATE | Site.MLP_UP:
            return [_on_branch(anatomy, layer, point, function)]
        case _:
            raise AssertionError(f"{point.site} is not in a layer")


def _on_input(module: nn.Module, point: HookPoint, function: HookFunction) -> RemovableHandle:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = function(args[0], point)
            return None if new is None else ((new, *args[1:]), kwargs)
        name = next(iter(kwargs))
        new = function(kwargs[name], point)
        return None if new is None else (args, {**kwargs, name: new})

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(module: nn.Module, point: HookPoint, function: HookFunction) -> RemovableHandle:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            new = function(output[0], point)
            return None if new is None else (new, *output[1:])
        return function(output, point)

    return module.register_forward_hook(hook)


def _on_logits(hf_model: nn.Module, point: HookPoint, function: HookFunction) -> RemovableHandle:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        new = function(output.logits, point)
        if new is not None:
            output.logits = new
        return output

    return hf_model.register_forward_hook(hook)


def _on_branch(
    anatomy: Anatomy, layer: Layer, point: HookPoint, function: HookFunction
) -> RemovableHandle:
    """One branch of the MLP, cut out of the projection's output where the two are fused."""
    module = layer.up if point.site is Site.MLP_UP else layer.gate
    assert module is not None
    if not anatomy.architecture.gate_up_fused:
        return _on_output(module, point, function)
    width = anatomy.d_mlp
    half = slice(width, 2 * width) if point.site is Site.MLP_UP else slice(0, width)

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        new = function(output[..., half], point)
        if new is None:
            return None
        output = output.clone()
        output[..., half] = new
        return output

    return module.register_forward_hook(hook)


def _explicit_attention(
    pairs: Sequence[tuple[HookPoint, HookFunction]],
) -> Handler:
    """Attention with its scores and pattern spelled out, so that they can be read and replaced."""

    def run(site: Site, tensor: Tensor) -> Tensor:
        for point, function in pairs:
            if point.site is site:
                new = function(tensor, point)
                tensor = tensor if new is None else new
        return tensor

    def handler(call: AttentionCall | SoftmaxCall) -> Tensor:
        scores = run(Site.ATTENTION_SCORES, call.scores(slice(0, call.n_queries)))
        return call.mix(run(Site.ATTENTION_PATTERN, pattern_of(scores)))

    return handler


class Captured(Mapping[HookPoint, Tensor]):
    """Tensors by hook point; `(site, layer)` and TransformerLens names work as keys too.

    Iteration yields hook points, in the order in which they were asked for.
    """

    def __init__(self, tensors: Mapping[HookPoint, Tensor], *, gated: bool) -> None:
        self._tensors = dict(tensors)
        self._gated = gated

    def __getitem__(self, key: Any) -> Tensor:
        point = self._point(key)
        if point not in self._tensors:
            raise KeyError(f"{key!r} was not captured; captured are {', '.join(self.names())}")
        return self._tensors[point]

    def __iter__(self) -> Iterator[HookPoint]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        try:
            return self._point(key) in self._tensors
        except ValueError:
            return False

    def __repr__(self) -> str:
        shapes = (f"{n}: {tuple(self[n].shape)}" for n in self.names())
        return f"Captured({', '.join(shapes)})"

    def names(self) -> list[str]:
        """The TransformerLens names of what was captured."""
        return [hook_name(point, gated=self._gated) for point in self._tensors]

    def _point(self, key: Any) -> HookPoint:
        if isinstance(key, str) and key not in set(Site):
            return parse_hook_point(key, gated=self._gated)
        site, layer = (key, None) if isinstance(key, str) else key
        return HookPoint(as_site(site), layer)
