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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.anatomy import Anatomy, Layer, locate
from probes.attach import IN_MLP, HookFunction, TemperatureNow, dividing_scores, fitted, multiplied
from probes.attention_call import narrowed, widened
from probes.backends.engine import Hooks, TakeEntropies, taking_from_scores
from probes.checking import wide
from probes.choices import Backend
from probes.sites import HookPoint, Site

_ATTENTION_FUNCTIONS = ("attention_interface_", "self__attn_")


@dataclass(frozen=True)
class Place:
    """How to read a tensor, and how to replace it."""

    read: Callable[[], Tensor]
    write: Callable[[Tensor], None]


def input_of(module: Any) -> Place:
    """What a module receives first."""

    def write(new: Tensor) -> None:
        module.input = new

    return Place(lambda: module.input, write)


def output_of(module: Any) -> Place:
    """What a module returns, or the first of what it returns."""

    def read() -> Tensor:
        output = module.output
        return output[0] if isinstance(output, tuple) else output

    def write(new: Tensor) -> None:
        output = module.output
        module.output = (new, *output[1:]) if isinstance(output, tuple) else new

    return Place(read, write)


def logits_of(model: Any) -> Place:
    """The logits in what a causal language model returns."""

    def write(new: Tensor) -> None:
        output = model.output
        output.logits = new
        model.output = output

    return Place(lambda: model.output.logits, write)


def half_of(whole: Place, which: int) -> Place:
    """The first or second half of what a fused projection returns."""

    def write(new: Tensor) -> None:
        halves = list(whole.read().chunk(2, dim=-1))
        halves[which] = new
        whole.write(torch.cat(halves, dim=-1))

    return Place(lambda: whole.read().chunk(2, dim=-1)[which], write)


def unflattened(flat: Place, shape: tuple[int, ...]) -> Place:
    """`[batch pos ...]` where the block runs on `[batch*pos ...]`."""
    return Place(lambda: flat.read().unflatten(0, shape), lambda new: flat.write(new.flatten(0, 1)))


def scores_of(softmax: Any, model: torch.dtype) -> Place:
    """Attention scores: what the softmax receives in a model of some type."""

    def write(new: Tensor) -> None:
        (scores, *rest), keywords = softmax.inputs
        softmax.inputs = ((narrowed(new, scores.dtype), *rest), keywords)

    return Place(lambda: widened(softmax.inputs[0][0], model), write)


def pattern_of(softmax: Any) -> Place:
    """The attention pattern: what the softmax returns."""

    def write(new: Tensor) -> None:
        softmax.output = new.to(softmax.output.dtype)

    return Place(lambda: wide(softmax.output), write)


def softmax_in(attention: Any, family: str) -> Any:
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


class NnsightEngine:
    """Runs an nnsight model."""

    backend = Backend.NNSIGHT

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped
        self.module = wrapped._module
        self.config = self.module.config
        self.anatomy: Anatomy = locate(self.module)
        self._paths = {module: path for path, module in self.module.named_modules()}
        self._hooks: list[tuple[HookPoint, HookFunction]] = []
        self._last: list[tuple[HookPoint, HookFunction]] = []

    def hugging_face(self) -> Any:
        """The Hugging Face model, to patch, train and save."""
        return self.module

    def locate_again(self) -> Anatomy:
        """Impossible: what is wrapped are the modules that were there before."""
        raise ValueError(
            "modules of this model were replaced since nnsight has wrapped it; change the "
            "model first, and load it then"
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The weights by name, as they are now."""
        return self.module.state_dict()

    def lacks(self, site: Site) -> str | None:
        """Why there is no such site; None where there is."""
        return self.anatomy.architecture.lacks(site)

    @contextmanager
    def attached(self, hooks: Hooks) -> Iterator[None]:
        """Have every trace in the `with` block run these functions."""
        for point, _ in hooks:
            if reason := self.lacks(point.site):
                raise ValueError(reason)
        with self._running([*self._hooks, *hooks], self._last):
            yield

    def attention_entropies(self, take: TakeEntropies) -> AbstractContextManager[None]:
        """Hand over the entropies of captured scores."""
        return self.attached(taking_from_scores(take, len(self.anatomy.layers)))

    @contextmanager
    def memory_vectors_scaled(
        self, multipliers: Mapping[int, Float[Tensor, "d_mlp"]]
    ) -> Iterator[None]:
        """Multiply the coefficients after all functions on them have run."""
        scaling = [
            (HookPoint(Site.MLP_COEFFICIENTS, layer), _multiplying(of_layer))
            for layer, of_layer in multipliers.items()
        ]
        with self._running(self._hooks, [*self._last, *scaling]):
            yield

    @contextmanager
    def attention_temperature(self, temperatures: Mapping[int, TemperatureNow]) -> Iterator[None]:
        """Divide the scores before any other function on them runs."""
        dividing = [
            (HookPoint(Site.ATTENTION_SCORES, layer), dividing_scores(now))
            for layer, now in temperatures.items()
        ]
        with self._running([*dividing, *self._hooks], self._last):
            yield

    @contextmanager
    def _running(
        self,
        hooks: list[tuple[HookPoint, HookFunction]],
        last: list[tuple[HookPoint, HookFunction]],
    ) -> Iterator[None]:
        before = self._hooks, self._last
        self._hooks, self._last = hooks, last
        try:
            yield
        finally:
            self._hooks, self._last = before

    def trunk(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        """The normed residual stream after the last block; the pass stops there."""
        with self._eager_where_attention_is_read():
            return self._traced(inputs, unembed=False)

    def logits(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_vocab"]:
        """The model's own logits."""
        with self._eager_where_attention_is_read():
            return self._traced(inputs, unembed=True)

    def _traced(self, inputs: Mapping[str, Tensor], *, unembed: bool) -> Tensor:
        kept: list[Tensor] = []
        with self.wrapped.trace(**inputs, use_cache=False) as tracer:
            self._visit_all(inputs, unembed=unembed)
            if unembed:
                kept.append(self.wrapped.output.logits)
            else:
                kept.append(self._envoy(self.anatomy.final_norm).output)
                tracer.stop()
        return kept[0]

    @contextmanager
    def _eager_where_attention_is_read(self) -> Iterator[None]:
        config, before = self.module.config, self.module.config._attn_implementation
        if any(point.site in _ATTENTION for point, _ in self._hooks):
            config._attn_implementation = "eager"
        try:
            yield
        finally:
            config._attn_implementation = before

    def _visit_all(self, inputs: Mapping[str, Tensor], *, unembed: bool) -> None:
        """Run the attached functions; called in the body of a trace."""
        functions: dict[HookPoint, list[HookFunction]] = defaultdict(list)
        for point, function in fitted([*self._hooks, *self._last], self.anatomy.architecture):
            if unembed or point.site is not Site.LOGITS:
                functions[point].append(function)
        shape = tuple(inputs["input_ids"].shape)
        for point in sorted(functions, key=self._when):
            place = self._place(point)
            if self.anatomy.architecture.flattened_mlp and point.site in IN_MLP:
                place = unflattened(place, shape)
            _visit(place, point, functions[point])

    def _when(self, point: HookPoint) -> tuple[int, int]:
        """Sorts hook points into the order in which a forward pass comes by."""
        outside = -1 if point.site is Site.EMBED else len(self.anatomy.layers)
        return outside if point.layer is None else point.layer, _ORDER[point.site]

    def _envoy(self, module: nn.Module | None) -> Any:
        assert module is not None
        path = self._paths[module]
        return self.wrapped.get(path) if path else self.wrapped

    def _place(self, point: HookPoint) -> Place:
        match point.site:
            case Site.LOGITS:
                return logits_of(self.wrapped)
            case Site.EMBED:
                return output_of(self._envoy(self.anatomy.embed))
            case Site.FINAL_NORM:
                return output_of(self._envoy(self.anatomy.final_norm))
        assert point.layer is not None
        layer = self.anatomy.layers[point.layer]
        if point.site in _ATTENTION:
            softmax = softmax_in(self._envoy(layer.attention), self.anatomy.architecture.family)
            if point.site is Site.ATTENTION_PATTERN:
                return pattern_of(softmax)
            return scores_of(softmax, layer.down.weight.dtype)
        return self._place_in(layer, point.site)

    def _place_in(self, layer: Layer, site: Site) -> Place:
        match site:
            case Site.RESID_PRE:
                return input_of(self._envoy(layer.block))
            case Site.RESID_MID:
                return input_of(self._envoy(layer.mid))
            case Site.MLP_COEFFICIENTS:
                return input_of(self._envoy(layer.down))
        returning = {
            Site.RESID_POST: layer.block,
            Site.ATTENTION_OUT: layer.attention_out,
            Site.MLP_OUT: layer.mlp_out,
            Site.MLP_GATE: layer.gate,
            Site.MLP_UP: layer.up,
        }
        place = output_of(self._envoy(returning[site]))
        if self.anatomy.architecture.gate_up_fused and site in (Site.MLP_GATE, Site.MLP_UP):
            return half_of(place, int(site is Site.MLP_UP))
        return place


def _multiplying(multipliers: Tensor) -> HookFunction:
    return lambda coefficients, _point: multiplied(coefficients, multipliers)


def _visit(place: Place, point: HookPoint, functions: Sequence[HookFunction]) -> None:
    tensor, edited = place.read(), False
    for function in functions:
        new = function(tensor, point)
        if new is not None:
            tensor, edited = new, True
    if edited:
        place.write(tensor)
