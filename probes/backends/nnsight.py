"""The nnsight backend: captures and edits inside its traces.

The body of a trace runs beside the forward pass and meets it at the modules it names, in the order
in which they run. All functions attached at the time run in one body, one hook point after the
other. They apply to passes through the hooked model only: nnsight leaves the model itself alone.

Scores and pattern are inside transformers' eager attention function, which nnsight reaches through
`.source`: they are what its softmax receives and returns. So passes that read or edit them run with
eager attention; others with the model's own.

Importing nnsight puts a `.save` on every Python object, which no setting of ours takes off again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from probes.anatomy import locate
from probes.attach import (
    HookFunction,
    Hooks,
    TemperatureNow,
    dividing_scores,
    fitted,
    multiplied,
    place_of,
)
from probes.attention_call import narrowed, widened
from probes.backends.engine import Engine
from probes.checking import wide
from probes.choices import Backend
from probes.sites import HookPoint, Site

_ATTENTION_FUNCTIONS = ("attention_interface_", "self__attn_")


class Met(NamedTuple):
    """A tensor as a trace meets it: how to read it, and how to replace it."""

    read: Callable[[], Tensor]
    write: Callable[[Tensor], None]


def _input_of(module: Any) -> Met:
    return Met(lambda: module.input, lambda new: setattr(module, "input", new))


def _output_of(module: Any) -> Met:
    """What a module returns, or the first of what it returns."""

    def read() -> Tensor:
        output = module.output
        return output[0] if isinstance(output, tuple) else output

    def write(new: Tensor) -> None:
        output = module.output
        module.output = (new, *output[1:]) if isinstance(output, tuple) else new

    return Met(read, write)


def _logits_of(model: Any) -> Met:
    def write(new: Tensor) -> None:
        output = model.output
        output.logits = new
        model.output = output

    return Met(lambda: model.output.logits, write)


def _half_of(whole: Met, which: int) -> Met:
    """The first or second half of what a fused projection returns."""

    def write(new: Tensor) -> None:
        halves = list(whole.read().chunk(2, dim=-1))
        halves[which] = new
        whole.write(torch.cat(halves, dim=-1))

    return Met(lambda: whole.read().chunk(2, dim=-1)[which], write)


def _unflattened(flat: Met, shape: tuple[int, ...]) -> Met:
    return Met(lambda: flat.read().unflatten(0, shape), lambda new: flat.write(new.flatten(0, 1)))


def _scores_of(softmax: Any, model: torch.dtype) -> Met:
    """What the softmax receives in a model of some type."""

    def write(new: Tensor) -> None:
        (scores, *rest), keywords = softmax.inputs
        softmax.inputs = ((narrowed(new, scores.dtype), *rest), keywords)

    return Met(lambda: widened(softmax.inputs[0][0], model), write)


def _pattern_of(softmax: Any) -> Met:
    """What the softmax returns."""

    def write(new: Tensor) -> None:
        softmax.output = new.to(softmax.output.dtype)

    return Met(lambda: wide(softmax.output), write)


def _softmax_in(attention: Any, family: str) -> Any:
    """The softmax operation in an attention module, or in the function that it calls."""
    source = attention.source
    calls = [name for name in source.names if name.startswith(_ATTENTION_FUNCTIONS)]
    inner = getattr(source, calls[-1]).source if calls else source
    softmaxes = [name for name in inner.names if "softmax" in name]
    if len(softmaxes) == 1:
        return getattr(inner, softmaxes[0])
    raise ValueError(
        f"nnsight finds {len(softmaxes)} softmaxes, not one, in the attention of {family}, so its "
        "scores and pattern cannot be read; use backend='native'"
    )


_ATTENTION = (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN)
# Sites are declared in the order in which a forward pass comes by.
_ORDER = {site: place for place, site in enumerate(Site)}


def nnsight_over(hf_model: Any, tokenizer: Any | None) -> Any:
    """An nnsight model over a Hugging Face model, whose modules get a `forward` of nnsight's."""
    import nnsight  # type: ignore[import-untyped]

    if tokenizer is None:
        return nnsight.NNsight(hf_model)
    return nnsight.TransformersModel(hf_model, tokenizer=tokenizer)


class NnsightEngine(Engine):
    """Runs an nnsight model."""

    backend = Backend.NNSIGHT

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self.module = wrapped._module
        self.config = self.module.config
        self.anatomy = locate(self.module)
        self._paths = {module: path for path, module in self.module.named_modules()}
        self._hooks: Hooks = []
        self._last: Hooks = []

    def attached(self, hooks: Hooks) -> AbstractContextManager[None]:
        return self._running([*self._hooks, *hooks], self._last)

    def memory_vectors_scaled(
        self, multipliers: Mapping[int, Float[Tensor, "d_mlp"]]
    ) -> AbstractContextManager[None]:
        scaling = [
            (HookPoint(Site.MLP_COEFFICIENTS, layer), _multiplying(of_layer))
            for layer, of_layer in multipliers.items()
        ]
        return self._running(self._hooks, [*self._last, *scaling])

    def attention_temperature(
        self, temperatures: Mapping[int, TemperatureNow]
    ) -> AbstractContextManager[None]:
        dividing = [
            (HookPoint(Site.ATTENTION_SCORES, layer), dividing_scores(now))
            for layer, now in temperatures.items()
        ]
        return self._running([*dividing, *self._hooks], self._last)

    @contextmanager
    def _running(self, hooks: Hooks, last: Hooks) -> Iterator[None]:
        before = self._hooks, self._last
        self._hooks, self._last = hooks, last
        try:
            yield
        finally:
            self._hooks, self._last = before

    def trunk(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        return self._traced(inputs, unembed=False)

    def logits(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_vocab"]:
        return self._traced(inputs, unembed=True)

    def _traced(self, inputs: Mapping[str, Tensor], *, unembed: bool) -> Tensor:
        """One pass, with eager attention where it is read; without the unembedding it stops."""
        kept: list[Tensor] = []
        config, before = self.config, self.config._attn_implementation
        if any(point.site in _ATTENTION for point, _ in self._hooks):
            config._attn_implementation = "eager"
        try:
            with self.wrapped.trace(**inputs, use_cache=False) as tracer:
                self._visit_all(inputs, unembed=unembed)
                if unembed:
                    kept.append(self.wrapped.output.logits)
                else:
                    kept.append(self._envoy(self.anatomy.final_norm).output)
                    tracer.stop()
        finally:
            config._attn_implementation = before
        return kept[0]

    def _visit_all(self, inputs: Mapping[str, Tensor], *, unembed: bool) -> None:
        """Run the attached functions; called in the body of a trace."""
        functions: dict[HookPoint, list[HookFunction]] = defaultdict(list)
        for point, function in fitted([*self._hooks, *self._last], self.anatomy.architecture):
            if unembed or point.site is not Site.LOGITS:
                functions[point].append(function)
        for point in sorted(functions, key=self._when):
            met = self._met(point, tuple(inputs["input_ids"].shape))
            tensor, edited = met.read(), False
            for function in functions[point]:
                new = function(tensor, point)
                if new is not None:
                    tensor, edited = new, True
            if edited:
                met.write(tensor)

    def _when(self, point: HookPoint) -> tuple[int, int]:
        """Sorts hook points into the order in which a forward pass comes by."""
        outside = -1 if point.site is Site.EMBED else len(self.anatomy.layers)
        return outside if point.layer is None else point.layer, _ORDER[point.site]

    def _envoy(self, module: Any) -> Any:
        path = self._paths[module]
        return self.wrapped.get(path) if path else self.wrapped

    def _met(self, point: HookPoint, shape: tuple[int, ...]) -> Met:
        if point.site is Site.LOGITS:
            return _logits_of(self.wrapped)
        if point.site in _ATTENTION:
            assert point.layer is not None
            layer = self.anatomy.layers[point.layer]
            softmax = _softmax_in(self._envoy(layer.attention), self.anatomy.architecture.family)
            if point.site is Site.ATTENTION_PATTERN:
                return _pattern_of(softmax)
            return _scores_of(softmax, layer.down.weight.dtype)
        module, is_input, half, flattened = place_of(self.anatomy, point)
        met = (_input_of if is_input else _output_of)(self._envoy(module))
        if half is not None:
            return _half_of(met, half)
        return _unflattened(met, shape) if flattened else met


def _multiplying(multipliers: Tensor) -> HookFunction:
    return lambda coefficients, _point: multiplied(coefficients, multipliers)
