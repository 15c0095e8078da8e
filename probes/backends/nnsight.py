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
from probes.attach import TemperatureNow, dividing_scores, multiplied
from probes.attention_interface import narrowed, widened
from probes.backends.engine import Engine
from probes.checking import wide
from probes.choices import Backend
from probes.places import (
    NORM_SITES,
    HookFunction,
    Hooks,
    Place,
    Run,
    View,
    expanded_view,
    fitted,
    flattened_view,
    place_of,
)
from probes.projections import kind_of
from probes.sites import ORDER, HookPoint, Site

_ATTENTION_FUNCTIONS = ("attention_interface_", "self__attn_")


class Met(NamedTuple):
    """A tensor as a trace meets it: how to read it, and how to replace it."""

    read: Callable[[], Tensor]
    write: Callable[[Tensor], None]


def _output_of(module: Any) -> Met:
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


def _part_of(whole: Met, view: View) -> Met:
    return Met(
        lambda: view.read(whole.read()), lambda new: whole.write(view.write(whole.read(), new))
    )


def _computed_of(place: Place, site: Site, envoy: Any, runs: dict[Any, Run]) -> Met:
    """What is computed of what a module receives; its run is shared by its sites."""
    output = _output_of(envoy)

    def run() -> Run:
        if place.module not in runs:
            assert place.begin is not None
            runs[place.module] = place.begin(envoy.input)
        return runs[place.module]

    return Met(
        lambda: run().read(site), lambda new: output.write(run().write(site, new, output.read()))
    )


def _scores_of(softmax: Any, model: torch.dtype) -> Met:
    """What the softmax receives in a model of some type."""

    def write(new: Tensor) -> None:
        (scores, *rest), keywords = softmax.inputs
        softmax.inputs = ((narrowed(new, scores.dtype), *rest), keywords)

    return Met(lambda: widened(softmax.inputs[0][0], model), write)


def _pattern_of(softmax: Any) -> Met:
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


_AT_LN2 = (Site.MLP_IN, Site.LN2_SCALE, Site.LN2_NORMALIZED)
_ATTENTION = (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN)


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
        for point, _ in self._hooks:
            if point.site in NORM_SITES:
                # Found by running the norm, which cannot be done in a trace.
                kind_of(place_of(self.anatomy, point).module, self.anatomy.d_model)
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
        runs: dict[Any, Run] = {}
        for point in sorted(functions, key=self._when):
            met = self._met(point, tuple(inputs["input_ids"].shape), runs)
            tensor, edited = met.read(), False
            for function in functions[point]:
                new = function(tensor, point)
                if new is not None:
                    tensor, edited = new, True
            if edited:
                met.write(tensor)

    def _when(self, point: HookPoint) -> tuple[int, int, int]:
        """Sorts hook points into the order in which a forward pass comes by."""
        first = point.site in (Site.EMBED, Site.POS_EMBED)
        outside = -1 if first else len(self.anatomy.layers)
        place = met = ORDER[point.site]
        if self.anatomy.architecture.ln2 == "ln_mlp" and point.site in _AT_LN2:
            # Falcon norms the stream for both before it goes on.
            met = ORDER[Site.LN1_NORMALIZED]
        return outside if point.layer is None else point.layer, met, place

    def _envoy(self, module: Any) -> Any:
        path = self._paths[module]
        return self.wrapped.get(path) if path else self.wrapped

    def lacks(self, site: Site) -> str | None:
        if site in (Site.ROTATED_QUERY, Site.ROTATED_KEY):
            return f"nnsight does not show {site}; use backend='native', or read {site[8:]}"
        return super().lacks(site)

    def _met(self, point: HookPoint, shape: tuple[int, ...], runs: dict[Any, Run]) -> Met:
        if point.site is Site.LOGITS:
            return _logits_of(self.wrapped)
        if point.site in _ATTENTION:
            assert point.layer is not None
            layer = self.anatomy.layers[point.layer]
            softmax = _softmax_in(self._envoy(layer.attention), self.anatomy.architecture.family)
            if point.site is Site.ATTENTION_PATTERN:
                return _pattern_of(softmax)
            return _scores_of(softmax, layer.down.weight.dtype)
        place = place_of(self.anatomy, point)
        envoy = self._envoy(place.module)
        if place.begin is not None:
            met = _computed_of(place, point.site, envoy, runs)
        elif place.is_input:
            met = Met(lambda: envoy.input, lambda new: setattr(envoy, "input", new))
        else:
            met = _output_of(envoy)
        if place.flattened:
            met = _part_of(met, flattened_view(shape))
        if place.expanded:
            met = _part_of(met, expanded_view(shape))
        return met if place.view is None else _part_of(met, place.view)


def _multiplying(multipliers: Tensor) -> HookFunction:
    return lambda coefficients, _point: multiplied(coefficients, multipliers)
