"""Component edits: memory vectors are changed, heads taken out, a vector is added to a stream.

**Memory vectors.** A memory vector v, the row of a layer's down projection that one coefficient
multiplies, becomes `scale * v + added`: scaled where nothing is added, zeroed by a scale of 0,
replaced by a scale of 0 and new values (Geva et al., EMNLP 2021; Dai et al., ACL 2022).

**Heads.** What a head adds to the stream is its output z, a mean of value vectors, times its rows
of the attention's output projection. Ablating it replaces z by zeros or by its mean over a corpus.
As weights its rows become zero; a bias of the output projection carries what a mean adds (Michel et
al., NeurIPS 2019; Wang et al., ICLR 2023, 2.1).

**Steering.** A vector is added at a hook point, at every position. As weights it is in the bias of
the projection that writes there: down for what an MLP adds and for the stream after it, attention's
output for what attention adds, up and gate for their own outputs. Where no bias can carry it, only
a hook can (Turner et al., arXiv 2308.10248; Rimsky et al., ACL 2024).

Example:
    >>> MemoryEdit({3: [17, 256]}).describe()["vectors"]
    {'3': [17, 256]}
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from math import isfinite
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from interventions.edit_forms import Clock, NotInWeightsError, WeightChange
from interventions.neurons import (
    Rows,
    gate_rows,
    memory_rows,
    name_and_layout,
    require_native,
    up_rows,
    with_rows,
)
from probes.attach import Change, projection_changed
from probes.checking import as_tensor, as_tensors, hooked_model, takes
from probes.checking import batches as some_batches
from probes.corpus.token_batch import Batches, as_batches, as_token_batch
from probes.corpus_means import RunningMean
from probes.hooked_model import HookedModel
from probes.hooks import run_hooked
from probes.model_folder import sha256_of
from probes.projections import width_in
from probes.shown import Shown
from probes.sites import HookPoint, Site, hook_name


@dataclass(frozen=True, eq=False)
class MemoryEdit(Shown):
    """Scales, zeroes or replaces chosen memory vectors.

    Args:
        vectors: which ones: layer to the indices of its neurons.
        scale: what they are multiplied by; 0 takes them out.
        added: what is added to them then: layer to one row for each index, `[n d_model]`; with
            a scale of 0 they are replaced by it. None to add nothing.

    Raises:
        ValueError: no vector is chosen, one is chosen twice, the edit would change nothing, or a
            number is not finite.

    Example:
        >>> MemoryEdit({3: [17, 256]}, scale=0.5).scale  # half of two vectors of layer 3
        0.5
    """

    vectors: Mapping[int, Sequence[int] | Int[Tensor, "_"]]
    scale: float = 0.0
    _: KW_ONLY
    added: Mapping[int, Float[Tensor, "_ d_model"]] | None = None

    def __post_init__(self) -> None:
        chosen = chosen_places(self.vectors, "a MemoryEdit", "memory vector", "{3: [17, 256]}")
        object.__setattr__(self, "vectors", chosen)
        scale: Any = self.scale
        if not isinstance(scale, Real) or not isfinite(scale):
            raise ValueError(f"scale must be a finite number, found {self.scale!r}")
        if self.added is None and self.scale == 1:
            raise ValueError("a scale of 1 with nothing added changes nothing; give another")
        if self.added is not None:
            object.__setattr__(self, "added", as_tensors(self.added, "added", "n d_model"))
            self._check_added()

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        del clock
        self._require(model)
        if self.added is not None:
            require_native(model, "adding to memory vectors")
        with ExitStack() as stack:
            if self.scale != 1:
                by = {
                    layer: torch.ones(model.d_mlp).index_fill(0, neurons, self.scale)
                    for layer, neurons in self._chosen()
                }
                stack.enter_context(model.memory_vectors_scaled(by))
            for layer, added in (self.added or {}).items():
                rows, neurons = memory_rows(model, layer), torch.tensor(self.vectors[layer])
                stack.enter_context(with_rows(rows, neurons, added, None, instead=False))
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        self._require(model)
        changes = []
        for layer, neurons in self._chosen():
            added = None if self.added is None else self.added[layer]
            new = partial(_changed, scale=self.scale, added=added)
            # The bias of a down projection belongs to no neuron.
            changes += memory_rows(model, layer).changes(neurons, new, torch.zeros_like)
        return changes

    def describe(self) -> dict[str, Any]:
        added = {str(layer): rows for layer, rows in (self.added or {}).items()}
        return {
            "kind": "memory_edit",
            "vectors": {str(layer): list(chosen) for layer, chosen in self.vectors.items()},
            "scale": self.scale,
            "added_sha256": sha256_of(added) if added else None,
        }

    def _chosen(self) -> list[tuple[int, Tensor]]:
        return [(layer, torch.tensor(chosen)) for layer, chosen in self.vectors.items()]

    def _check_added(self) -> None:
        assert self.added is not None
        if set(self.added) != set(self.vectors):
            raise ValueError(
                f"vectors are chosen in layers {sorted(self.vectors)}, and rows to add given for "
                f"{sorted(self.added)}; give one row for each chosen vector"
            )
        for layer, rows in self.added.items():
            count = len(self.vectors[layer])
            if len(rows) != count or not bool(rows.isfinite().all()):
                raise ValueError(
                    f"the rows to add in layer {layer} have shape {tuple(rows.shape)}; give finite "
                    f"numbers of shape ({count}, d_model), a row for each chosen vector"
                )

    def _require(self, model: HookedModel) -> None:
        require_places(self.vectors, model, model.d_mlp, "memory vector")
        for layer, rows in (self.added or {}).items():
            if rows.shape[1] != model.d_model:
                raise ValueError(
                    f"the rows to add in layer {layer} have {rows.shape[1]} numbers, but d_model "
                    f"of {model.name} is {model.d_model}; they are of another model"
                )


def chosen_places(given: Any, whose: str, what: str, example: str) -> dict[int, tuple[int, ...]]:
    """Indices by layer, checked as far as they can be without a model."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{whose} takes layers and indices, such as {example}, found {given!r}")
    found = {}
    for layer, indices in given.items():
        listed = indices.tolist() if hasattr(indices, "tolist") else indices
        numbers = list(listed) if isinstance(listed, Iterable) else [listed]
        if not all(isinstance(n, Integral) and int(n) >= 0 for n in (layer, *numbers)):
            raise ValueError(
                f"{whose} takes layers and indices as numbers from 0 up, such as {example}; found "
                f"layer {layer!r} with {numbers}"
            )
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{whose} names a {what} of layer {layer} twice; name each once")
        if numbers:
            found[int(layer)] = tuple(map(int, numbers))
    if not found:
        raise ValueError(f"{whose} without any {what} changes nothing; give some, as {example}")
    return found


def require_places(chosen: Any, model: HookedModel, count: int, what: str) -> None:
    """Refuse layers and indices that a model does not have."""
    for layer, indices in chosen.items():
        model.hook_point((Site.RESID_POST, layer))
        if max(indices) >= count:
            has = f"{model.name} has 0 to {count - 1}"
            raise ValueError(f"layer {layer} has no {what} {max(indices)}; {has}")


def _changed(rows: Tensor, *, scale: float, added: Tensor | None) -> Tensor:
    return rows * scale if added is None else rows * scale + added.to(rows)


_OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense")


@dataclass(frozen=True, eq=False)
class AblateHeads(Shown):
    """Takes attention heads out.

    Args:
        heads: which ones: layer to the numbers of its query heads.
        means: what stands in for their outputs, `[layer head d_head]`, such as
            `mean_head_outputs` returns; None for zeros.

    Raises:
        ValueError: no head is chosen, one is chosen twice, or a mean is not finite.

    Example:
        >>> edit = AblateHeads({0: [1], 5: [0, 3]})  # three heads of two layers, by zeros
        >>> sorted(edit.heads)
        [0, 5]
    """

    heads: Mapping[int, Sequence[int]]
    _: KW_ONLY
    means: Float[Tensor, "layer head d_head"] | None = None

    def __post_init__(self) -> None:
        chosen = chosen_places(self.heads, "AblateHeads", "head", "{5: [0, 3]}")
        object.__setattr__(self, "heads", chosen)
        if self.means is not None:
            means = as_tensor(self.means, "means of heads", "layer head d_head").detach()
            object.__setattr__(self, "means", means.double().cpu())
            if not means.isfinite().all():
                raise ValueError("means of heads are finite; mean_head_outputs returns such")

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        del clock
        require_native(model, "AblateHeads")
        with ExitStack() as stack:
            for layer, rows, chosen in self._places(model):
                stack.enter_context(projection_changed(rows.module, self._change(layer, chosen)))
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        changes = []
        for layer, rows, chosen in self._places(model):
            name, _ = name_and_layout(model, rows.module)
            index = chosen.nonzero().flatten()
            if self.means is not None:
                # Before the rows are zeroed: changes are written in order.
                changes.append(self._carried(rows, name, index, self.means[layer].flatten()[index]))
            changes += rows.changes(index, torch.zeros_like, torch.zeros_like)
        return changes

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "ablate_heads",
            "heads": {str(layer): list(chosen) for layer, chosen in self.heads.items()},
            "means_sha256": None if self.means is None else sha256_of({"means": self.means}),
        }

    def _places(self, model: HookedModel) -> list[tuple[int, Rows, Tensor]]:
        """Layers, their output projections, and which of its inputs are the chosen heads'."""
        require_places(self.heads, model, model.n_heads, "head")
        found = []
        for layer, heads in self.heads.items():
            rows = head_rows(model, layer)
            width = width_in(rows.module) // model.n_heads
            expected = (model.n_layers, model.n_heads, width)
            if self.means is not None and tuple(self.means.shape) != expected:
                raise ValueError(
                    f"means of heads have shape {tuple(self.means.shape)}, but {model.name} needs "
                    f"{expected} (layer, head, d_head); measure them on this model"
                )
            chosen = torch.zeros(model.n_heads, width, dtype=torch.bool)
            chosen[list(heads)] = True
            found.append((layer, rows, chosen.flatten()))
        return found

    def _change(self, layer: int, chosen: Tensor) -> Change:
        means = None if self.means is None else self.means[layer].flatten()

        def change(forward: Any, outputs: Tensor) -> Tensor:
            instead = outputs.new_zeros(()) if means is None else means.to(outputs)
            return forward(torch.where(chosen.to(outputs.device), instead, outputs))

        return change

    def _carried(self, rows: Rows, name: str, index: Tensor, means: Tensor) -> WeightChange:
        """What the means of heads add to the stream, in the bias of the output projection."""
        if rows.module.bias is None:
            raise NotInWeightsError(
                f"{name} has no bias, which would have to carry what the mean of a head adds; use "
                "the ablation as a hook, or zeros"
            )

        def new(bias: Tensor) -> Tensor:
            weight = rows.weight(index)
            return bias + (means.to(weight.device) @ weight.double()).to(bias)

        return WeightChange(f"{name}.bias", 0, None, new)


def head_rows(model: HookedModel, layer: int) -> Rows:
    """The rows of an attention's output projection: what a head's output is multiplied by."""
    attention = model.anatomy.layers[layer].attention
    named = [(n.rpartition(".")[2], module) for n, module in attention.named_modules()]
    found = [module for name, module in named if name in _OUTPUTS]
    if len(found) != 1:
        raise ValueError(
            f"it is not known where {model.architecture.family} keeps the output projection of its "
            f"attention ({len(found)} modules are named {', '.join(_OUTPUTS)}), so its heads "
            "cannot be told apart"
        )
    name, conv1d = name_and_layout(model, found[0])
    return Rows(found[0], name, axis=int(not conv1d), first=0, produces=False)


@takes(model=hooked_model, batches=some_batches)
def mean_head_outputs(model: HookedModel, batches: Batches) -> Float64[Tensor, "layer head d_head"]:
    """The mean output of every head over the tokens of a corpus, before the output projection.

    Args:
        model: the model, on the native backend.
        batches: what to measure on; pads do not count.

    Returns:
        Means for `AblateHeads`, float64 on the CPU.

    Raises:
        ValueError: there are no batches, the model runs on another backend, or its attention has
            no output projection that is known.
    """
    require_native(model, "mean_head_outputs")
    means = [RunningMean() for _ in range(model.n_layers)]
    mask = torch.empty(0)

    def reading(mean: RunningMean) -> Change:
        def change(forward: Any, outputs: Tensor) -> Tensor:
            mean.update(outputs.detach(), mask.to(outputs.device))
            return forward(outputs)

        return change

    with ExitStack() as stack:
        for layer, mean in enumerate(means):
            projection = head_rows(model, layer).module
            stack.enter_context(projection_changed(projection, reading(mean)))
        for batch in map(as_token_batch, as_batches(batches)):
            mask = batch.attention_mask.bool()
            run_hooked(model, batch, [])
    found = torch.stack([mean.result().cpu() for mean in means])
    return found.unflatten(1, (model.n_heads, -1))


_OF_MLP = (Site.MLP_GATE, Site.MLP_UP, Site.MLP_COEFFICIENTS)


@dataclass(frozen=True, eq=False)
class Steer(Shown):
    """Adds a vector at a hook point.

    Args:
        at: TransformerLens name or (site, layer) of the hook point.
        vector: what is added at every position, as wide as the tensor there.
        scale: what it is multiplied by first.

    Raises:
        ValueError: the vector or the scale is zero or not finite.

    Example:
        >>> import torch
        >>> Steer("blocks.3.hook_resid_post", torch.ones(64), scale=4.0).scale
        4.0
    """

    at: str | tuple[Site | str, int | None]
    vector: Float[Tensor, "width"]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.at, str) and self.at in list(Site) and Site(self.at).per_layer:
            raise ValueError(f"{self.at!r} is a site of every layer; give a pair, ({self.at!r}, 3)")
        vector = as_tensor(self.vector, "a steering vector", "width").detach().clone().cpu()
        object.__setattr__(self, "vector", vector)
        if not isfinite(self.scale) or not bool(vector.isfinite().all()):
            raise ValueError(
                f"steering takes finite numbers, found scale {self.scale} and "
                f"{int((~vector.isfinite()).sum())} others in the vector"
            )
        if self.scale == 0 or not bool(vector.any()):
            raise ValueError("a vector or a scale of zero changes nothing; give others")

    def attached(self, model: HookedModel, clock: Clock) -> AbstractContextManager[None]:
        del clock
        point, added = self._point(model), self.vector * self.scale
        return model.hooks([(point, lambda tensor, _point: tensor + added.to(tensor))])

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        point = self._point(model)
        rows = self._carrier(model, point)
        where = hook_name(point, gated=model.architecture.gated)
        if rows is None or rows.module.bias is None:
            has = "no bias" if rows is None else f"{rows.name} has no bias, and none other"
            raise NotInWeightsError(
                f"{has} carries a vector at {where} of {model.architecture.family} into the "
                "weights; steer by a hook"
            )
        index = torch.arange(rows.first, rows.first + len(self.vector)) if rows.produces else None
        added = self.vector * self.scale
        return [WeightChange(f"{rows.name}.bias", 0, index, lambda bias: bias + added.to(bias))]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "steer",
            "at": self.at if isinstance(self.at, str) else list(self.at),
            "scale": self.scale,
            "vector_sha256": sha256_of({"vector": self.vector}),
        }

    def _point(self, model: HookedModel) -> HookPoint:
        point = model.hook_point(self.at)
        if point.site in (Site.ATTENTION_SCORES, Site.ATTENTION_PATTERN):
            raise ValueError(
                f"{point.site} holds no vector for a position; steer at another site, or use an "
                "AttentionTemperature"
            )
        width = model.d_mlp if point.site in _OF_MLP else model.d_model
        width = model.d_vocab if point.site is Site.LOGITS else width
        if len(self.vector) != width:
            raise ValueError(
                f"the steering vector has {len(self.vector)} numbers, but "
                f"{hook_name(point, gated=model.architecture.gated)} of {model.name} has {width}"
            )
        return point

    def _carrier(self, model: HookedModel, point: HookPoint) -> Rows | None:
        """The projection whose output is what stands at the point, or adds to it alone."""
        number = point.layer
        if point.site is Site.RESID_PRE and number:
            number -= 1
        if number is None or (point.site is Site.RESID_PRE and point.layer == 0):
            return None
        layer = model.anatomy.layers[number]
        match point.site:
            case Site.MLP_UP:
                return up_rows(model, number)
            case Site.MLP_GATE:
                return gate_rows(model, number)
            case Site.MLP_OUT | Site.RESID_PRE | Site.RESID_POST:
                # Where a norm follows, what it adds is no longer a constant.
                own = layer.mlp_out is layer.mlp or layer.mlp_out is layer.down
                return memory_rows(model, number) if own else None
            case Site.ATTENTION_OUT | Site.RESID_MID:
                rows = head_rows(model, number)
                own = layer.attention_out in (layer.attention, rows.module)
                return rows if own else None
        return None
