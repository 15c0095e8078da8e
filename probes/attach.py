r"""Attach functions, temperatures and multipliers to a model, and take them off again.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from probes.anatomy import Anatomy
from probes.attention_interface import (
    AttentionCall,
    Handler,
    SoftmaxCall,
    Temperature,
    Transform,
    attention_taken_over,
    divided,
    pattern_of,
)
from probes.places import (
    IN_ATTENTION,
    HookFunction,
    Hooks,
    Place,
    View,
    expanded_view,
    fitted,
    flattened_view,
    place_of,
)
from probes.projections import device_of, stored_type
from probes.sites import ORDER, HookPoint, Site


@contextmanager
def attached(hf_model: Any, anatomy: Anatomy, hooks: Hooks) -> Iterator[None]:
    """Attach functions to hook points for the length of a `with` block."""
    of_attention: dict[nn.Module, list[tuple[HookPoint, HookFunction]]] = defaultdict(list)
    with ExitStack() as stack:
        for point, function in fitted(hooks, anatomy.architecture):
            if point.site in IN_ATTENTION:
                assert point.layer is not None
                of_attention[anatomy.layers[point.layer].attention].append((point, function))
                continue
            for take_off in _attach(hf_model, anatomy, point, function):
                stack.callback(take_off)
        if of_attention:
            handlers = {
                module: _explicit_attention(pairs) for module, pairs in of_attention.items()
            }
            stack.enter_context(attention_taken_over(hf_model, handlers))
        yield


def _attach(
    hf_model: Any, anatomy: Anatomy, point: HookPoint, function: HookFunction
) -> Iterator[Callable[[], None]]:
    if point.site is Site.LOGITS:
        yield _on_logits(hf_model, point, function).remove
        return
    place = place_of(anatomy, point)
    shape: list[int] = []
    if place.flattened or place.expanded:
        first, is_input = anatomy.embed, False
        if place.flattened:
            assert point.layer is not None
            first, is_input = anatomy.layers[point.layer].block, True

        def remember(stream: Tensor, _point: HookPoint) -> None:
            shape[:] = stream.shape[:2]

        yield (_on_input if is_input else _on_output)(first, point, remember).remove
    if place.view is not None:
        function = _on_part(place.view, function)
    if place.flattened:
        function = _on_part(flattened_view(shape), function)
    if place.expanded:
        function = _on_part(expanded_view(shape), function)
    if place.begin is not None:
        yield _on_computed(place, point, function)
    else:
        yield (_on_input if place.is_input else _on_output)(place.module, point, function).remove


def _on_part(view: View, function: HookFunction) -> HookFunction:
    def on_whole(whole: Tensor, point: HookPoint) -> Tensor | None:
        new = function(view.read(whole), point)
        return None if new is None else view.write(whole, new)

    return on_whole


_computing: "WeakKeyDictionary[nn.Module, list[tuple[HookPoint, HookFunction]]]" = (
    WeakKeyDictionary()
)


def _on_computed(place: Place, point: HookPoint, function: HookFunction) -> Callable[[], None]:
    """Attach a function to what is computed of a module's input; one hook runs all of them."""
    module, pair = place.module, (point, function)
    assert place.begin is not None
    begin = place.begin
    if module not in _computing:
        _computing[module] = []

        def hook(own: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor:
            # A copy of the model made meanwhile has this hook too, and no functions.
            functions = _computing.get(own, ())
            if not functions:
                return output
            run = begin(args[0] if args else next(iter(kwargs.values())))
            for where, on_it in sorted(functions, key=lambda one: ORDER[one[0].site]):
                new = on_it(run.read(where.site), where)
                output = output if new is None else run.write(where.site, new, output)
            return output

        # Before functions on the output itself, which see what these have changed.
        handle = module.register_forward_hook(hook, prepend=True, with_kwargs=True)
        _handles[module] = handle
    _computing[module].append(pair)

    def take_off() -> None:
        there = _computing[module]
        del there[next(i for i, one in enumerate(there) if one is pair)]
        if not there:
            del _computing[module]
            _handles.pop(module).remove()

    return take_off


_handles: "WeakKeyDictionary[nn.Module, RemovableHandle]" = WeakKeyDictionary()


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
    spelled_out = any(p.site in (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN) for p, _ in pairs)

    def run(site: Site, tensor: Tensor) -> Tensor:
        for point, function in pairs:
            if point.site is site:
                new = function(tensor, point)
                tensor = tensor if new is None else new
        return tensor

    def handler(call: AttentionCall | SoftmaxCall) -> Tensor:
        if isinstance(call, AttentionCall):
            # Functions have heads after positions, as in projections.
            query = run(Site.ROTATED_QUERY, call.query.transpose(1, 2)).transpose(1, 2)
            key = run(Site.ROTATED_KEY, call.key.transpose(1, 2)).transpose(1, 2)
            call = replace(call, query=query, key=key)
        if not spelled_out:
            return call.output()
        scores = run(Site.ATTENTION_SCORES, call.scores(slice(0, call.n_queries)))
        return call.mix(run(Site.ATTENTION_PATTERN, pattern_of(scores)))

    return handler


TemperatureSource = Temperature | Callable[[], Temperature]


@dataclass
class TemperatureNow:
    """Asked in every forward pass, with the number of keys there."""

    ask: Callable[[], Temperature]
    most_keys: int = 0

    def __call__(self, n_keys: int) -> Temperature:
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


Forward = Callable[[Tensor], Tensor]
Change = Callable[[Forward, Tensor], Tensor]
"""What a projection computes instead, from what it would have computed and what it receives."""

_changes: "WeakKeyDictionary[nn.Module, list[Change]]" = WeakKeyDictionary()
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

    def scaling(by: Tensor) -> Change:
        return lambda forward, coefficients: forward(multiplied(coefficients, by))

    with ExitStack() as stack:
        for down, of_layer in multipliers.items():
            wide = torch.promote_types(stored_type(down), torch.float32)
            by = of_layer.to(device_of(down), wide)
            stack.enter_context(projection_changed(down, scaling(by)))
        yield


@contextmanager
def projection_changed(projection: Any, change: Change) -> Iterator[None]:
    """Change what a projection computes for a `with` block, after all hooks on its input."""
    _put_on(projection)
    _changes[projection].append(change)
    try:
        yield
    finally:
        _changes[projection].remove(change)
        if not _changes[projection]:
            _take_off(projection)


@contextmanager
def projections_unchanged(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Have the projections among some modules compute their own for a `with` block."""
    held = {module: _changes[module] for module in modules if module in _changes}
    for projection in held:
        _take_off(projection)
    try:
        yield
    finally:
        for projection, changes in held.items():
            _put_on(projection)
            _changes[projection] = changes


def forward(projection: Any, received: Tensor) -> Tensor:
    """The `forward` of a changed projection, run after all hooks on its input."""
    return _run(projection, tuple(_changes.get(projection, ())), received)


def _run(projection: Any, changes: tuple[Change, ...], received: Tensor) -> Tensor:
    if changes:
        return changes[-1](partial(_run, projection, changes[:-1]), received)
    before = _forward_before.get(projection)
    return type(projection).forward(projection, received) if before is None else before(received)


def _put_on(projection: Any) -> None:
    if projection not in _changes:
        _forward_before[projection] = projection.__dict__.get("forward")
        # A method, no closure: a copy of the model made meanwhile runs its own weights.
        projection.forward = MethodType(forward, projection)
        _changes[projection] = []


def _take_off(projection: Any) -> None:
    del _changes[projection]
    before = _forward_before.pop(projection)
    if before is None:
        del projection.forward
    else:
        projection.forward = before
