"""Running model: a causal language model that runs with functions at its hook points.

A backend runs it (`probes.backends`); users call what is on top of it, in `probes.hooked_model`.

At load, and where modules were replaced, a few fixed tokens show whether the architecture table
describes the model: the norm and the unembedding of the last stream give its logits, activated
branches are the coefficients, coefficients times memory vectors are what an MLP adds, and what
attention and MLP add is what blocks return. A model that fails is refused. Attention is tried by
itself: where it can be neither read nor edited, the rest of the model is still measured.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.anatomy import Anatomy
from probes.architectures import Architecture
from probes.attach import TemperatureSource, check_multipliers, refusing_idle, temperature_now
from probes.backends.engine import Engine, TakeEntropies, model_inputs, positions_of
from probes.checking import (
    MeasuredModel,
    activation_of,
    all_finite,
    difference,
    evaluating,
    few_tokens,
    hook_pairs,
    refusing_failures,
    tolerance,
    what_makes_finite,
)
from probes.choices import Backend
from probes.corpus.token_batch import TokenBatch
from probes.model_folder import copied, sha256_of
from probes.places import IN_ATTENTION, HookFunction, keeping
from probes.projections import bias_of
from probes.readout import norm_and_unembed
from probes.rotary import Frequencies, keep_sequences_apart, set_frequencies
from probes.sites import ORDER, HookPoint, Site, as_hook_point, hook_name, named

_HALF_PRECISION_ATTENTION = 0.3  # patterns are computed more finely there, in every layer


@torch.no_grad()
def check_model(engine: Engine) -> str | None:
    """Refuse a model that the table does not describe; why its attention cannot be read, if so."""
    anatomy = engine.anatomy
    row, layers = anatomy.architecture, range(len(anatomy.layers))
    kept: dict[HookPoint, Tensor] = {}
    streams: list[Tensor] = []
    sites = [Site.MLP_UP, Site.MLP_COEFFICIENTS, Site.RESID_POST]
    sites += [Site.MLP_GATE] if row.gated else []
    sites += [] if row.mlp_out is None else [Site.RESID_PRE, Site.ATTENTION_OUT, Site.MLP_OUT]
    points = [HookPoint(site, layer) for layer in layers for site in sites]
    ids = few_tokens(anatomy.n_tokens, anatomy.device)
    handle = anatomy.trunk.register_forward_hook(
        lambda _module, _args, output: streams.append(output[0])
    )
    with refusing_failures(f"{row.family} does not run on a row of {ids.shape[1]} tokens here"):
        try:
            with engine.attached(keeping(points, kept)):
                logits = engine.logits({"input_ids": ids})
        finally:
            handle.remove()
    idle = next((point.layer for point in points if point not in kept), None)
    if idle is not None:
        raise ValueError(
            f"{row.family}: layer {idle} of {len(layers)} does not run in a forward pass; make "
            "num_hidden_layers of the configuration the number of layers that the model has"
        )
    _refuse_not_finite(anatomy, kept, logits)
    last = kept[HookPoint(Site.RESID_POST, layers[-1])]
    _compare(norm_and_unembed(anatomy, last), logits, f"{row.family}: readout of the last layer")
    for stream in streams:
        _compare(stream, anatomy.final_norm(last), f"{row.family}: stream that its trunk returns")
    activation = activation_of(engine.config, row.activation)
    for layer in layers:
        found = {point.site: tensor for point, tensor in kept.items() if point.layer == layer}
        _check_layer(anatomy, layer, found, activation)
    return _why_no_attention(engine, ids, logits)


def _why_no_attention(engine: Engine, ids: Tensor, logits: Tensor) -> str | None:
    """Why the pattern, spelled out, does not give the model's logits; None where it does."""
    family = engine.anatomy.architecture.family
    what = f"the attention of this {family} can be neither read nor edited"
    points = [HookPoint(Site.ATTENTION_PATTERN, i) for i in range(len(engine.anatomy.layers))]
    try:
        # Nothing is done with the pattern; that it is read has it spelled out.
        with refusing_failures(what), engine.attached([(p, lambda *_: None) for p in points]):
            found = engine.logits({"input_ids": ids})
    except ValueError as refusal:
        return str(refusal)
    gap = difference(found, logits)
    # Eager attention has its softmax in float32, also in a float64 model.
    half = logits.dtype.itemsize < 4
    if gap <= (_HALF_PRECISION_ATTENTION if half else tolerance(torch.float32)):
        return None
    return (
        f"{what}: its pattern times the values changes the logits by {gap:.2g} of the largest; "
        "measure this model without attention"
    )


def _refuse_not_finite(anatomy: Anatomy, kept: Mapping[HookPoint, Tensor], logits: Tensor) -> None:
    """Say so where a model overflows, rather than that its parts do not add up."""
    bad = [point for point, tensor in kept.items() if not all_finite(tensor)]
    if not bad and not logits.isnan().any():
        return
    family = anatomy.architecture.family
    place = hook_name(bad[0], gated=anatomy.architecture.gated) if bad else "the logits"
    weights = dict(anatomy.trunk.state_dict()) | {"unembedding": anatomy.unembed.weight}
    helps = what_makes_finite(f"this {family}", weights, anatomy.dtype)
    raise ValueError(
        f"{family}: on a few tokens the model is not finite, first at {place}; {helps}"
    )


def _check_layer(
    anatomy: Anatomy,
    i: int,
    found: Mapping[Site, Tensor],
    activation: Callable[[Tensor], Tensor] | None,
) -> None:
    layer, what = anatomy.layers[i], f"{anatomy.architecture.family}: {{}} of layer {i}"
    coefficients = found[Site.MLP_COEFFICIENTS]
    if activation is not None:
        branches = activation(found.get(Site.MLP_GATE, found[Site.MLP_UP]))
        if Site.MLP_GATE in found:
            branches = branches * found[Site.MLP_UP]
        _compare(branches, coefficients, what.format("activated branches"))
    if layer.mlp_out is None:
        return
    product, bias = coefficients @ layer.memory_vectors, bias_of(layer.down)
    product = product if bias is None else product + bias
    if layer.mlp_out is not layer.mlp:
        # Some families put a norm after the MLP.
        product = layer.mlp_out(product)
    _compare(product, found[Site.MLP_OUT], what.format("coefficients times memory vectors"))
    total = found[Site.RESID_PRE] + found[Site.ATTENTION_OUT] + found[Site.MLP_OUT]
    _compare(total, found[Site.RESID_POST], what.format("stream plus attention plus MLP"))


def _compare(found: Tensor, expected: Tensor, what: str) -> None:
    gap = difference(found, expected)
    if not gap <= tolerance(expected.dtype):
        raise ValueError(
            f"{what} differs from what the model computes by {gap:.2g} of the largest "
            "value; the architecture table does not describe this model, or hooks or edits are in "
            "it already, so it is refused"
        )


class RunningModel(MeasuredModel):
    """A causal language model that runs with functions at its hook points.

    `name` is what it was loaded as; `tokenizer` and `revision` may be None.
    """

    def __init__(
        self, engine: Engine, tokenizer: Any | None, *, name: str, revision: str | None
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        keep_sequences_apart(engine.module)
        self._attached = 0
        self._check(engine.anatomy)

    @property
    def hf_model(self) -> Any:
        """The Hugging Face `PreTrainedModel`, whose weights are as they were given.

        Only rounded rotary frequencies are made float32 again, and rotary modules of `longrope` and
        `dynamic` models have a hook that gives every sequence its own frequencies.

        Raises:
            ValueError: the model runs through a TransformerBridge, which has rewritten it.
        """
        return self.engine.hugging_face()

    @property
    def backend(self) -> Backend:
        """What runs the model."""
        return self.engine.backend

    @property
    def wrapped(self) -> Any:
        """The backend's own: the Hugging Face model, `TransformerBridge` or nnsight model."""
        return self.engine.wrapped

    @property
    def anatomy(self) -> Anatomy:
        """The model's parts; found and checked again where modules were replaced.

        Raises:
            ValueError: the model that it has become is refused.
        """
        self._keep_up()
        return self.engine.anatomy

    @property
    def architecture(self) -> Architecture:
        """The row of the architecture table that describes the model."""
        return self.anatomy.architecture

    @property
    def n_layers(self) -> int:
        return len(self.anatomy.layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads in a block."""
        return self.anatomy.n_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.anatomy.d_model

    @property
    def d_mlp(self) -> int:
        """Number of memory vectors in a block."""
        return self.anatomy.d_mlp

    @property
    def d_vocab(self) -> int:
        """Number of logits."""
        return self.anatomy.d_vocab

    @property
    def n_positions(self) -> int | None:
        """How many tokens a row may have; None where the configuration sets no limit."""
        return positions_of(self.engine.config)

    @property
    def device(self) -> torch.device:
        """The device of the token embedding, which token ids must go to."""
        return self.anatomy.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the memory vectors, and so of the coefficients."""
        return self.anatomy.dtype

    def content_hash(self) -> str:
        """SHA-256 over the names and values of all parameters and buffers, as they are now.

        Of buffers that checkpoints do not hold, those are in it that a reload would not have.
        """
        self._keep_up()
        return sha256_of(self.engine.state_dict() | set_frequencies(self.engine.module))

    def hook_point(self, name: str | tuple[Site | str, int | None]) -> HookPoint:
        """The hook point of a TransformerLens name or a `(site, layer)` pair, checked.

        Raises:
            ValueError: the model has no such hook point.
        """
        return self._point(self.anatomy, name)

    def _point(self, anatomy: Anatomy, name: str | tuple[Site | str, int | None]) -> HookPoint:
        gated, n_layers = anatomy.architecture.gated, len(anatomy.layers)
        point = as_hook_point(name, gated=gated, n_layers=n_layers)
        if point.layer is not None and not 0 <= point.layer < n_layers:
            raise ValueError(
                f"layer {point.layer} does not exist; {self.name} has layers 0 to {n_layers - 1}"
            )
        return named(point, gated=gated)

    def lacks(self, site: Site) -> str | None:
        """Why the model has no such site on its backend; None where it has."""
        if self._no_attention and site in IN_ATTENTION:
            return self._no_attention
        return self.engine.lacks(site)

    def hook_points(self) -> list[HookPoint]:
        """The hook points of this model, in the order in which a forward pass comes by.

        Those that are read on request are not among them: see `probes.sites`.
        """
        there = [s for s in Site if not s.on_request and not self.lacks(s)]
        in_layers = [site for site in there if site.per_layer]
        once = [HookPoint(site, None) for site in there if not site.per_layer]
        first = [point for point in once if ORDER[point.site] < ORDER[in_layers[0]]]
        return [
            *first,
            *(HookPoint(site, layer) for layer in range(self.n_layers) for site in in_layers),
            *once[len(first) :],
        ]

    def hook_names(self) -> list[str]:
        """TransformerLens names of all hook points of this model."""
        return [hook_name(point, gated=self.architecture.gated) for point in self.hook_points()]

    def hooks(
        self, hooks: Sequence[tuple[str | tuple[Site | str, int | None], HookFunction]]
    ) -> AbstractContextManager[None]:
        """Attach functions for the length of a `with` block.

        They run when this model does. On the native backend any forward pass of `hf_model`
        runs them too; in a `TransformerBridge` any pass of it, but for `LOGITS`.

        Args:
            hooks: pairs of hook point (or TransformerLens name) and `fn(tensor, point)`, which
                returns a replacement, or None to leave the tensor alone.

        Raises:
            ValueError: the model has no such hook point, or a function returns another shape.
        """
        anatomy = self.anatomy  # which every look at it makes sure of
        pairs = [(self._point(anatomy, name), function) for name, function in hook_pairs(hooks)]
        for site in dict.fromkeys(point.site for point, _ in pairs):
            self._require(site)
        return self._counted(self.engine.attached(pairs))

    def attention_entropies(self, take: TakeEntropies) -> AbstractContextManager[None]:
        """Hand over attention entropies, `[batch head query_pos]` in nats, and their layer."""
        self._keep_up()
        # Its entropies can be had from a pattern alone.
        self._require(Site.ATTENTION_PATTERN)
        return self._counted(self.engine.attention_entropies(take))

    def memory_vectors_scaled(
        self, multipliers: Mapping[int, Float[Tensor, "d_mlp"]]
    ) -> AbstractContextManager[None]:
        """Have memory vectors count so many times for the length of a `with` block.

        As if the rows of the down projections had been multiplied, but for rounding: hooks at
        `MLP_COEFFICIENTS`, attached before or after, see the coefficients unscaled. The bias is
        not scaled. Nested scalings multiply.

        Args:
            multipliers: layer to one number for each of its memory vectors.

        Raises:
            ValueError: a layer does not exist, or has not so many memory vectors.
        """
        for layer, of_layer in multipliers.items():
            self.hook_point((Site.MLP_COEFFICIENTS, layer))
            check_multipliers(layer, of_layer, self.d_mlp)
        return self._counted(self.engine.memory_vectors_scaled(multipliers))

    def attention_temperature(
        self, temperatures: Mapping[int, TemperatureSource]
    ) -> AbstractContextManager[None]:
        """Divide final attention scores by temperatures for the length of a `with` block.

        Before the mask. Hooks at `ATTENTION_SCORES` and `ATTENTION_PATTERN` and attention
        entropies, attached before or after, see the divided scores. Nested temperatures multiply.
        Only the native backend keeps fused attention.

        Args:
            temperatures: layer to a number, one for each query head, or a function that is asked
                for either in every forward pass.

        Raises:
            ValueError: a layer does not exist, a temperature is not positive and finite, the
                scores cannot be reached, or (at the end) each query saw one key.
        """
        for layer in temperatures:
            self.hook_point((Site.ATTENTION_SCORES, layer))
        self._require(Site.ATTENTION_SCORES)
        now = {
            layer: temperature_now(source, layer=layer, n_heads=self.n_heads)
            for layer, source in temperatures.items()
        }
        attached = self.engine.attention_temperature(now)
        return self._counted(refusing_idle(attached, now.values()))

    def trunk(self, batch: TokenBatch) -> Float[Tensor, "batch pos d_model"]:
        """The normed residual stream after the last block; the unembedding is not computed."""
        return self.engine.trunk(self._inputs(batch))

    def logits(self, batch: TokenBatch) -> Float[Tensor, "batch pos d_vocab"]:
        """The model's own logits."""
        return self.engine.logits(self._inputs(batch))

    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode (no dropout) for the length of a `with` block."""
        return evaluating(self.engine.module)

    def to_transformer_lens(self) -> Any:
        """A TransformerLens `TransformerBridge` over a copy of the model.

        Needs memory for a second model. Wherever the model came from, and with or without a
        tokenizer, nothing is read from the network.

        Raises:
            ValueError: TransformerLens has no adapter for the model, or it runs through one.
        """
        from probes.backends.transformer_lens import bridge_over

        return bridge_over(copied(self.hf_model), copy.deepcopy(self.tokenizer))

    def to_nnsight(self) -> Any:
        """An nnsight model over a copy of the model, since nnsight replaces its modules' `forward`.

        Raises:
            ValueError: the model runs through a TransformerBridge.
        """
        from probes.backends.nnsight import nnsight_over

        return nnsight_over(copied(self.hf_model), copy.deepcopy(self.tokenizer))

    def _keep_up(self) -> None:
        """Notice other modules in the model, and a cast of it."""
        self._frequencies.keep_exact()
        if self._structure.is_unchanged():
            return
        if self._attached:
            raise ValueError(
                f"modules of {self.name} were replaced while hooks or edits are attached to it; "
                "take these off first"
            )
        self._check(self.engine.locate_again())

    def _check(self, anatomy: Anatomy) -> None:
        self._frequencies = Frequencies(self.engine.module, self.name)
        before, self.engine.anatomy = self.engine.anatomy, anatomy
        try:
            with self.evaluating():
                refusal = check_model(self.engine)
        except BaseException:
            self.engine.anatomy = before
            raise
        self._no_attention = refusal
        self._structure = anatomy.structure(self.engine.module)

    @contextmanager
    def _counted(self, attached: AbstractContextManager[None]) -> Iterator[None]:
        with attached:
            self._attached += 1
            try:
                yield
            finally:
                self._attached -= 1

    def _require(self, site: Site) -> None:
        if reason := self.lacks(site):
            raise ValueError(reason)

    def _inputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        return model_inputs(batch, self.anatomy, self.engine.config, self.name)
