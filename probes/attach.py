r"""Attach functions to the hook points of a model, or scale parts of it, and take them off again.

A site is reached by an input or output hook on the module that `place_of` names for it; attention
scores and pattern by taking the attention over (`attention_interface`). A function receives the
tensor and its hook point, and may return a replacement. Only our own handles are removed, also
after an exception; hooks that others put on the model stay. Under gradient checkpointing the
backward pass runs the forward pass again, and so whatever is attached.

A temperature (a number, one for every query head, or a function that is asked for either in every
forward pass) divides final scores, soft-capped, before the mask. Multipliers have memory vectors
count so many times, as if the rows of the down projection had been multiplied: after every hook on
its input, and without its bias. No weights are touched; gradients flow.

Source of the temperature: Kim et al., ICLR 2025, appendix B.8.

Example:
    >>> import torch
    >>> temperature_now(torch.tensor([1.0, 2.0]), layer=0, n_heads=2)(n_keys=3).tolist()
    [1.0, 2.0]
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from math import isfinite
from types import MethodType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from probes.anatomy import Anatomy
from probes.architectures import Architecture
from probes.attention_call import AttentionCall, SoftmaxCall, Temperature, divided, pattern_of
from probes.attention_interface import Handler, Transform, attention_taken_over
from probes.projections import device_of, stored_type
from probes.shown import Shown
from probes.sites import HookPoint, Site, as_site, hook_name, parse_hook_point

HookFunction = Callable[[Tensor, HookPoint], Tensor | None]
Hooks = Sequence[tuple[HookPoint, HookFunction]]

_INPUTS = {Site.RESID_PRE: "block", Site.RESID_MID: "mid", Site.MLP_COEFFICIENTS: "down"}
_OUTPUTS = {
    Site.ATTENTION_OUT: "attention_out",
    Site.MLP_GATE: "gate",
    Site.MLP_UP: "up",
    Site.MLP_OUT: "mlp_out",
    Site.RESID_POST: "block",
}
_IN_MLP = (Site.RESID_MID, Site.MLP_UP, Site.MLP_GATE, Site.MLP_COEFFICIENTS, Site.MLP_OUT)


class Place(NamedTuple):
    """The place at which the tensor of a hook point is met."""

    module: Any
    is_input: bool
    """Whether the module receives it; otherwise it returns it."""
    half: int | None
    """Which half of a fused projection's output it is; None for the whole."""
    flattened: bool
    """Whether the block has it as `[batch*pos ...]`."""


def place_of(anatomy: Anatomy, point: HookPoint) -> Place:
    """The place of a hook point, but for logits, attention scores and pattern."""
    if point.layer is None:
        whole = anatomy.embed if point.site is Site.EMBED else anatomy.final_norm
        return Place(whole, False, None, False)
    is_input, row = point.site in _INPUTS, anatomy.architecture
    module = getattr(anatomy.layers[point.layer], (_INPUTS | _OUTPUTS)[point.site])
    assert module is not None, f"{row.family} has no {point.site}"
    fused = row.gate_up_fused and point.site in (Site.MLP_GATE, Site.MLP_UP)
    half = int(point.site is Site.MLP_UP) if fused else None
    return Place(module, is_input, half, row.flattened_mlp and point.site in _IN_MLP)


def fitted(hooks: Hooks, architecture: Architecture) -> list[tuple[HookPoint, HookFunction]]:
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
    """A function for the norm that reads the stream, and one that adds its change to the stream."""
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
def attached(hf_model: Any, anatomy: Anatomy, hooks: Hooks) -> Iterator[None]:
    """Attach functions to hook points for the length of a `with` block."""
    of_attention: dict[nn.Module, list[tuple[HookPoint, HookFunction]]] = defaultdict(list)
    with ExitStack() as stack:
        for point, function in fitted(hooks, anatomy.architecture):
            if point.site in (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN):
                assert point.layer is not None
                of_attention[anatomy.layers[point.layer].attention].append((point, function))
                continue
            for handle in _attach(hf_model, anatomy, point, function):
                stack.callback(handle.remove)
        if of_attention:
            handlers = {
                module: _explicit_attention(pairs) for module, pairs in of_attention.items()
            }
            stack.enter_context(attention_taken_over(hf_model, handlers))
        yield


def _attach(
    hf_model: Any, anatomy: Anatomy, point: HookPoint, function: HookFunction
) -> list[RemovableHandle]:
    if point.site is Site.LOGITS:
        return [_on_logits(hf_model, point, function)]
    module, is_input, half, flattened = place_of(anatomy, point)
    on = _on_input if is_input else _on_output
    if half is not None:
        columns = slice(half * anatomy.d_mlp, (half + 1) * anatomy.d_mlp)
        return [_on_output(module, point, _on_columns(columns, function))]
    if not flattened:
        return [on(module, point, function)]
    shape: list[int] = []

    def remember(stream: Tensor, _point: HookPoint) -> None:
        shape[:] = stream.shape[:2]

    def unflattened(tensor: Tensor, where: HookPoint) -> Tensor | None:
        new = function(tensor.unflatten(0, shape), where)
        return None if new is None else new.flatten(0, 1)

    assert point.layer is not None
    first = _on_input(anatomy.layers[point.layer].block, point, remember)
    return [first, on(module, point, unflattened)]


def _on_columns(columns: slice, function: HookFunction) -> HookFunction:
    def on_whole(output: Tensor, point: HookPoint) -> Tensor | None:
        new = function(output[..., columns], point)
        if new is None:
            return None
        output = output.clone()
        output[..., columns] = new
        return output

    return on_whole


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


def _explicit_attention(pairs: Hooks) -> Handler:
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


class Captured(Shown, Mapping[HookPoint, Tensor]):
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

    def _facts(self) -> Mapping[str, Any]:
        shapes = {name: self[name] for name in self.names()}
        return {"": f"{len(shapes)} tensor{'s' * (len(shapes) != 1)}", **shapes}

    def names(self) -> list[str]:
        """The TransformerLens names of what was captured."""
        return [hook_name(point, gated=self._gated) for point in self._tensors]

    def _point(self, key: Any) -> HookPoint:
        if isinstance(key, str) and key not in set(Site):
            return parse_hook_point(key, gated=self._gated)
        site, layer = (key, None) if isinstance(key, str) else key
        return HookPoint(as_site(site), layer)


TemperatureSource = Temperature | Callable[[], Temperature]


@dataclass
class TemperatureNow:
    """Asked in every forward pass, with the number of keys there."""

    ask: Callable[[], Temperature]
    most_keys: int = 0

    def __call__(self, n_keys: int) -> Temperature:
        """The temperature."""
        self.most_keys = max(self.most_keys, n_keys)
        return self.ask()


def temperature_now(source: TemperatureSource, *, layer: int, n_heads: int) -> TemperatureNow:
    """A temperature as something to ask in every forward pass, which checks what it says."""
    if callable(source):
        return TemperatureNow(lambda: _checked_temperature(source(), layer, n_heads))
    fixed = _checked_temperature(source, layer, n_heads)
    return TemperatureNow(lambda: fixed)


def _checked_temperature(temperature: Temperature, layer: int, n_heads: int) -> Temperature:
    what = f"the attention temperature of layer {layer}"
    if isinstance(temperature, Tensor):
        if tuple(temperature.shape) != (n_heads,):
            raise ValueError(
                f"{what} has shape {tuple(temperature.shape)}; pass a number, or one for each of "
                f"the {n_heads} query heads"
            )
        values = temperature.detach()
        sound = bool((values.isfinite() & (values > 0)).all())
    else:
        sound = isfinite(temperature) and temperature > 0
    if not sound:
        found = temperature.tolist() if isinstance(temperature, Tensor) else temperature
        raise ValueError(
            f"{what} is {found}; scores can only be divided by a finite number above 0"
        )
    return temperature


@contextmanager
def refusing_idle(
    attached: AbstractContextManager[None], temperatures: Iterable[TemperatureNow]
) -> Iterator[None]:
    """Refuse, at the end of a `with` block, temperatures that found one key in each row."""
    with attached:
        yield
    if {now.most_keys for now in temperatures} == {1}:
        raise ValueError(
            "the attention temperature has changed nothing: all rows had one token, so each query "
            "saw one key; give longer rows, or leave it out"
        )


def dividing_calls(now: TemperatureNow) -> Transform:
    """A change of attention calls that divides their final scores, before the mask."""
    return lambda call: call.at_temperature(now(call.n_keys))


def dividing_scores(now: TemperatureNow) -> HookFunction:
    """A function for `ATTENTION_SCORES` that divides them, where only masked scores are shown."""

    def divide(
        scores: Float[Tensor, "batch head query_pos key_pos"], _point: Any
    ) -> Float[Tensor, "batch head query_pos key_pos"]:
        # Dividing -inf would make the gradient of the temperature NaN.
        masked = scores.isneginf()
        by = now(scores.shape[-1])
        return divided(scores.masked_fill(masked, 0.0), by).masked_fill(masked, -torch.inf)

    return divide


_multipliers: "WeakKeyDictionary[nn.Module, list[Tensor]]" = WeakKeyDictionary()
_forward_before: "WeakKeyDictionary[nn.Module, Any]" = WeakKeyDictionary()


def check_multipliers(layer: int, multipliers: Float[Tensor, "d_mlp"], d_mlp: int) -> None:
    """Refuse what cannot multiply the memory vectors of a layer."""
    if tuple(multipliers.shape) != (d_mlp,):
        raise ValueError(
            f"the multipliers of layer {layer} have shape {tuple(multipliers.shape)}; pass one for "
            f"each of its {d_mlp} memory vectors"
        )
    if bad := int((~multipliers.detach().isfinite()).sum()):
        raise ValueError(
            f"{bad} of the {d_mlp} multipliers of layer {layer} are not finite; pass finite numbers"
        )


def multiplied(
    coefficients: Float[Tensor, "*batch_pos d_mlp"], multipliers: Float[Tensor, "d_mlp"]
) -> Float[Tensor, "*batch_pos d_mlp"]:
    """Coefficients times multipliers, in float32 or wider and rounded once."""
    wide = torch.promote_types(coefficients.dtype, torch.float32)
    return (coefficients * multipliers.to(coefficients.device, wide)).to(coefficients.dtype)


@contextmanager
def memory_vectors_scaled(
    multipliers: Mapping[Any, Float[Tensor, "d_mlp"]],
) -> Iterator[None]:
    """Scale the memory vectors of down projections for a `with` block; several multiply."""
    with ExitStack() as stack:
        for down, of_layer in multipliers.items():
            wide = torch.promote_types(stored_type(down), torch.float32)
            mine = of_layer.to(device_of(down), wide)
            if down not in _multipliers:
                _forward_before[down] = down.__dict__.get("forward")
                # A method, no closure: a copy of the model made meanwhile runs its own weights.
                down.forward = MethodType(forward, down)
            _multipliers.setdefault(down, []).append(mine)
            stack.callback(_take_off, down, mine)
        yield


def forward(down: Any, coefficients: Tensor) -> Tensor:
    """The `forward` of a scaled projection, run after all hooks on its input."""
    for multipliers in _multipliers.get(down, ()):
        coefficients = multiplied(coefficients, multipliers)
    before = _forward_before.get(down)
    return type(down).forward(down, coefficients) if before is None else before(coefficients)


def _take_off(down: Any, mine: Tensor) -> None:
    stack = _multipliers[down]
    # By identity, and once: the same tensor may be on twice.
    del stack[next(i for i, multipliers in enumerate(stack) if multipliers is mine)]
    if stack:
        return
    del _multipliers[down]
    before = _forward_before.pop(down)
    if before is None:
        del down.forward
    else:
        down.forward = before
