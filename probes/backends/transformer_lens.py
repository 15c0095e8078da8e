"""The TransformerLens backend: a `TransformerBridge`, and its own hooks.

A bridge rewrites the model it wraps: parameters get other names, fused projections are copied
apart, and the model can no longer be saved. So it gets a model of its own, and what needs the
Hugging Face model is refused. Within that the hook points are those of the other backends:

* `RESID_MID` is edited where the MLP's norm reads it, which in a bridge does not reach the stream
  past the MLP; the difference is added there.
* `LOGITS` are what the bridge returns, since no hook of it sees them soft-capped; edits of them
  apply when the hooked model runs, not when the bridge is called directly.
* Where TransformerLens leaves the attention to transformers (OPT), its pattern can be read but not
  edited, and its scores cannot be read. A check at load finds that out.

Importing TransformerLens silences transformers' logger; that is undone here.
"""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.special import entr

from probes.anatomy import Anatomy, locate
from probes.attach import TemperatureNow, dividing_scores
from probes.attention_interface import narrowed, widened
from probes.backends.engine import Engine, TakeEntropies
from probes.checking import difference, evaluating, few_tokens, refusing_failures, tolerance, wide
from probes.choices import Backend
from probes.model_folder import refuse_unordinary
from probes.places import HookFunction, Hooks, fitted
from probes.rotary import rope_border
from probes.sites import HookPoint, Site, hook_name

_ON_REQUEST = {
    Site.ATTENTION_IN: ("set_use_attn_in", "use_attn_in"),
    Site.HEAD_RESULTS: ("set_use_attn_result", "use_attn_result"),
    Site.MLP_IN: ("set_use_hook_mlp_in", "use_hook_mlp_in"),
}
"""What a bridge is told to compute, and where it says whether it does."""

_LensHook = Callable[[Tensor, Any], Tensor | None]


def bridge_over(hf_model: Any, tokenizer: Any | None) -> Any:
    """A `TransformerBridge` over a model, which it rewrites: pass a copy."""
    name = type(hf_model).__name__
    refuse_unordinary(hf_model, "TransformerLens would read others")
    hf_model.config.architectures = [name]
    # The only attention whose pattern a bridge can show where it does not compute it itself.
    hf_model.set_attn_implementation("eager")
    if tokenizer is not None:
        # Otherwise the tokenizer is read again from where it came, which may be nowhere.
        tokenizer.init_kwargs |= {"name_or_path": "in memory", "add_bos_token": True}
    with _without_side_effects():
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        try:
            return build_bridge_from_module(
                hf_model, name, hf_config=hf_model.config, tokenizer=tokenizer
            )
        except Exception as error:
            raise ValueError(
                f"TransformerLens cannot wrap a {name} ({error}); use backend='native'"
            ) from error


def engine_over(hf_model: Any, tokenizer: Any | None) -> "TransformerLensEngine":
    """An engine over a model that nothing else uses, located before it is rewritten."""
    anatomy, weights = locate(hf_model), hf_model.state_dict()
    inputs = {"input_ids": few_tokens(anatomy.n_tokens, anatomy.device)}
    what = f"TransformerLens does not run this {anatomy.architecture.family}; use backend='native'"
    with torch.no_grad(), evaluating(hf_model), refusing_failures(what):
        before = hf_model(**inputs, use_cache=False).logits
        bridge = bridge_over(hf_model, tokenizer)
        return TransformerLensEngine(bridge, anatomy, weights, logits=before)


@contextmanager
def _without_side_effects() -> Iterator[None]:
    """Keep warnings, and the level that the import sets on transformers' logger, inside."""
    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class TransformerLensEngine(Engine):
    """Runs a `TransformerBridge`."""

    backend = Backend.TRANSFORMER_LENS

    def __init__(
        self,
        bridge: Any,
        anatomy: Anatomy | None = None,
        weights: dict[str, Tensor] | None = None,
        logits: Tensor | None = None,
    ) -> None:
        """`weights` and `logits` of `few_tokens` are those before the bridge, where known."""
        self.wrapped = bridge
        self.module = bridge.original_model
        self.config = self.module.config
        self.anatomy = anatomy or locate(self.module, unwrap=_unwrapped)
        if self.config.model_type == "falcon" and self.config.alibi:
            # Too little to be noticed on a few tokens in half precision.
            raise ValueError(
                "TransformerLens adds Falcon's alibi twice, so its bridge is another model; use "
                "backend='native'"
            )
        self._weights = weights
        self._on_logits: Hooks = []
        self._shape = torch.Size((0, 0))
        with evaluating(self.module):
            self._scores_readable, self._pattern_readable, self._editable = self._attention(logits)

    def hugging_face(self) -> Any:
        raise ValueError(
            "a TransformerBridge rewrites the model it wraps, so there is no Hugging Face model to "
            "patch, train, save or hand out; load it with backend='native' for that"
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The weights, by the names they had before they were wrapped, where those are known."""
        return self.wrapped.state_dict() if self._weights is None else self._weights

    def lacks(self, site: Site) -> str | None:
        readable = {
            Site.ATTENTION_SCORES: self._scores_readable,
            Site.ATTENTION_PATTERN: self._pattern_readable,
        }
        if not readable.get(site, True):
            return (
                f"TransformerLens leaves the attention of {self.anatomy.architecture.family} to "
                f"transformers, so there is no {site} to read; use backend 'native' or 'nnsight'"
            )
        if (reason := self.anatomy.architecture.lacks(site)) or site is Site.LOGITS:
            return reason
        name = self._name(HookPoint(site, 0 if site.per_layer else None))
        if name in self._shown:
            return None
        family = self.anatomy.architecture.family
        return f"TransformerLens has no {name} for {family}; use backend='native'"

    @contextmanager
    def attached(self, hooks: Hooks) -> Iterator[None]:
        for point, _ in hooks:
            if reason := self.lacks(point.site):
                raise ValueError(reason)
        inside = [
            (self._name(point), self._translated(point, function))
            for point, function in fitted(hooks, self.anatomy.architecture)
            if point.site is not Site.LOGITS
        ]
        before = self._on_logits
        self._on_logits = [*before, *(pair for pair in hooks if pair[0].site is Site.LOGITS)]
        try:
            on_request = self._computing({point.site for point, _ in hooks})
            with on_request, self.wrapped.hooks(fwd_hooks=inside):
                yield
        finally:
            self._on_logits = before

    @contextmanager
    def _computing(self, sites: Set[Site]) -> Iterator[None]:
        """Have the bridge compute what it does on request."""
        asked = {
            name: flag
            for site, (name, flag) in _ON_REQUEST.items()
            if site in sites and not getattr(self.wrapped.cfg, flag)
        }
        for name in asked:
            getattr(self.wrapped, name)(True)
        try:
            yield
        finally:
            for name in asked:
                getattr(self.wrapped, name)(False)

    def attention_entropies(self, take: TakeEntropies) -> AbstractContextManager[None]:
        """Hand over entropies of captured scores; of the pattern where only that can be read."""
        if self._scores_readable:
            return super().attention_entropies(take)
        if self.anatomy.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"TransformerLens shows only the half-precision pattern of this "
                f"{self.anatomy.architecture.family}, which is too coarse for its entropy; "
                "use backend='native', or load it in float32"
            )
        hooks = self._reducing(Site.ATTENTION_PATTERN, lambda p: entr(p).sum(dim=-1), take)
        return self.attached(hooks)

    @contextmanager
    def attention_temperature(self, temperatures: Mapping[int, TemperatureNow]) -> Iterator[None]:
        if reason := self.lacks(Site.ATTENTION_SCORES):
            raise ValueError(reason)
        with ExitStack() as stack:
            for layer, now in temperatures.items():
                point = HookPoint(Site.ATTENTION_SCORES, layer)
                divide = partial(_on_scores, point=point, function=dividing_scores(now))
                scores = self.wrapped.hook_dict[self._name(point)]
                handle = scores.register_forward_hook(
                    lambda _point, _args, tensor, divide=divide: divide(tensor), prepend=True
                )
                stack.callback(handle.remove)
            yield

    def trunk(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_model"]:
        # A bridge always unembeds it too.
        kept: list[Tensor] = []
        with self.wrapped.hooks(fwd_hooks=[("ln_final.hook_out", _lens_hook(kept.append))]):
            self.logits(inputs)
        return kept[0]

    def logits(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch pos d_vocab"]:
        # It makes positions of the mask itself, so they are not passed.
        mask, self._shape = inputs.get("attention_mask"), inputs["input_ids"].shape
        border = rope_border(self.config)
        if mask is not None and border is not None and mask.shape[1] > border:
            padded = bool((mask[:, -1] == 0).any())
            if padded and int(mask.sum(dim=1).min()) <= border:
                # A bridge counts pads after a row into the length that frequencies go by.
                raise ValueError(
                    f"rotary frequencies of this {self.anatomy.architecture.family} change beyond "
                    f"{border} tokens, and TransformerLens goes by the longest row of a batch, of "
                    f"{mask.shape[1]}; use backend='native', or batch shorter rows apart from "
                    "longer"
                )
        with warnings.catch_warnings():
            # An edited norm is computed by the bridge itself, but for rounding the same.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            logits = self.wrapped(inputs["input_ids"], attention_mask=mask, return_type="logits")
        for point, function in self._on_logits:
            new = function(logits, point)
            logits = logits if new is None else new
        return logits

    def _name(self, point: HookPoint) -> str:
        if point.site is Site.EMBED:
            # `hook_embed` is normed where a norm follows the embedding.
            return "embed.hook_out"
        return hook_name(point, gated=self.anatomy.architecture.gated)

    def _translated(self, point: HookPoint, function: HookFunction) -> _LensHook:
        if point.site is Site.ATTENTION_SCORES:
            return _lens_hook(lambda tensor: _on_scores(tensor, point, function))
        if point.site is Site.ATTENTION_PATTERN:
            return _lens_hook(lambda tensor: self._on_pattern(tensor, point, function))
        return _lens_hook(lambda tensor: self._on_rows(tensor, point, function))

    def _on_rows(self, tensor: Tensor, point: HookPoint, function: HookFunction) -> Tensor | None:
        if tensor.shape[:2] == self._shape or tensor.shape[0] != self._shape.numel():
            return function(tensor, point)
        # The norm before OPT's MLP, of which a bridge shows what the block runs it on.
        new = function(tensor.unflatten(0, self._shape), point)
        return None if new is None else new.flatten(0, 1)

    def _on_pattern(
        self, pattern: Tensor, point: HookPoint, function: HookFunction
    ) -> Tensor | None:
        new = function(wide(pattern), point)
        if new is None:
            return None
        if not self._editable:
            raise ValueError(
                f"TransformerLens leaves the attention of {self.anatomy.architecture.family} to "
                "transformers and would ignore an edit of its pattern; use backend 'native' or "
                "'nnsight'"
            )
        return new.to(pattern.dtype)

    def _seen(
        self, ids: Tensor, on_request: Set[Site] = frozenset()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of a few tokens, and what hooks of the first layer and of the model show."""
        kept: dict[str, Tensor] = {}
        with ExitStack() as stack:
            stack.enter_context(self._computing(on_request))
            for site in Site:
                if site.on_request and site not in on_request:
                    continue
                name = self._name(HookPoint(site, 0 if site.per_layer else None))
                keep = [(name, _lens_hook(partial(kept.__setitem__, name)))]
                with suppress(KeyError):  # no such name
                    stack.enter_context(self.wrapped.hooks(fwd_hooks=keep))
            return self.wrapped(ids, return_type="logits"), kept

    @torch.no_grad()
    def _attention(self, logits: Tensor | None) -> tuple[bool, bool, bool]:
        """Whether scores and pattern can be read, and whether an edit of them does anything."""
        both = (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN)
        scores, pattern = (self._name(HookPoint(site, 0)) for site in both)
        ids = few_tokens(self.anatomy.n_tokens, self.anatomy.device)
        plain, kept = self._seen(ids)
        self._shown = set(kept)
        for site in _ON_REQUEST:
            with _without_side_effects(), suppress(NotImplementedError):
                _, more = self._seen(ids, {site})
                name = self._name(HookPoint(site, 0))
                # Where others are not shown meanwhile, it is not to be had.
                if name in more and set(kept) <= set(more) and _is_stream(site, name, more):
                    self._shown.add(name)
        if logits is not None and not (gap := difference(plain, logits)) <= tolerance(logits.dtype):
            raise ValueError(
                f"TransformerLens's bridge over this {self.anatomy.architecture.family} computes "
                f"other logits, by {gap:.2g} of the largest; use backend='native'"
            )
        with (
            _without_side_effects(),
            self.wrapped.hooks(fwd_hooks=[(pattern, _lens_hook(torch.zeros_like))]),
        ):
            edited = self.wrapped(ids, return_type="logits")
        editable = not torch.equal(edited, plain)
        if not {scores, pattern} <= kept.keys():
            return False, pattern in kept, editable
        gap = difference(widened(kept[scores]).softmax(dim=-1), wide(kept[pattern]))
        # The softmax is float32 in a float64 model too.
        bar = max(tolerance(torch.float32), tolerance(kept[pattern].dtype))
        return gap <= bar, True, editable


def _is_stream(site: Site, name: str, shown: Mapping[str, Tensor]) -> bool:
    """Whether what is shown as what attention reads is the stream, and not normed (BLOOM)."""
    if site is not Site.ATTENTION_IN:
        return True
    stream = shown["blocks.0.hook_resid_pre"][:, :, None].expand_as(shown[name])
    return difference(shown[name], stream) <= tolerance(stream.dtype)


def _lens_hook(function: Callable[[Tensor], Tensor | None]) -> _LensHook:
    def hook(tensor: Tensor, hook: Any) -> Tensor | None:
        del hook
        return function(tensor)

    return hook


def _on_scores(scores: Tensor, point: HookPoint, function: HookFunction) -> Tensor | None:
    new = function(widened(scores), point)
    return None if new is None else narrowed(new, scores.dtype)


def _unwrapped(module: Any) -> Any:
    while isinstance(getattr(module, "original_component", None), nn.Module):
        module = module.original_component
    return module
