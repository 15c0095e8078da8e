r"""Rank-one writes: have a layer's memory answer a key with a value, and others as before.

With W the down projection (:math:`W k` and its bias are what the MLP writes for coefficients k) and
C the uncentred covariance of the coefficients over a corpus,

.. math:: W' = W + (v^* - W k^*) \, \frac{(C^{-1} k^*)^\top}{{k^*}^\top C^{-1} k^*}

is the smallest change, as weighed by C, that gives :math:`W' k^* = v^*`. For a fact, the key is the
coefficients at the last token of its subject, and the value is found by gradient descent, so that
the model goes on with the target; what it says of the subject otherwise is held. W is as the write
finds it: edits that come before it are written over.

Source: Meng et al., NeurIPS 2022 (ROME), section 3.1, Eq. 2 to 4; settings of their released code.
There the value is added to what each text has at the place; here, as in their Eq. 4, it stands
instead of it. One layer is written; MEMIT spreads a write over several.

Example:
    >>> import torch
    >>> edit = RankOneWrite(2, torch.tensor([1.0, 2.0]), torch.zeros(3))
    >>> edit.direction.tolist()
    [0.2, 0.4]
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from interventions.edit_forms import Clock, WeightChange
from interventions.neurons import memory_rows, require_native
from probes.attach import Change, Forward, projection_changed
from probes.checking import as_tensor, hooked_model, takes
from probes.checking import batches as some_batches
from probes.corpus.token_batch import Batches, TokenBatch, as_token_batch
from probes.hooked_model import HookedModel
from probes.hooks import stream
from probes.model_folder import sha256_of
from probes.projections import device_of, stored_type
from probes.prompts import LensItem, lens_items
from probes.refusals import instance_of, shown, whole_number
from probes.shown import Shown
from probes.sites import HookPoint, Site


@dataclass(frozen=True, eq=False)
class RankOneWrite(Shown):
    """Has a layer's memory answer a key with a value, by a change of rank one.

    Args:
        layer: whose memory.
        key: MLP coefficients, `[d_mlp]`.
        value: what the down projection, with its bias, is to write for them, `[d_model]`.
        covariance: of the coefficients, `[d_mlp d_mlp]`, such as `key_covariance` returns: keys
            that are frequent there are moved least. None for the identity.

    Raises:
        ValueError: shapes do not go together, a number is not finite, the key is zero, or the
            covariance cannot be inverted.
    """

    layer: int
    key: Float[Tensor, "d_mlp"]
    value: Float[Tensor, "d_model"]
    _: KW_ONLY
    covariance: Float[Tensor, "d_mlp d_mlp"] | None = None

    def __post_init__(self) -> None:
        for name in ("key", "value", "covariance"):
            if (given := getattr(self, name)) is not None:
                axes = {"key": "d_mlp", "value": "d_model", "covariance": "d_mlp d_mlp"}[name]
                given = as_tensor(given, f"the {name} of a RankOneWrite", axes).detach()
                if not bool(given.isfinite().all()):
                    raise ValueError(
                        f"the {name} of a RankOneWrite has numbers that are not finite"
                    )
                object.__setattr__(self, name, given.double().cpu())
        if not bool(self.key.any()):
            raise ValueError(
                "the key of a RankOneWrite is zero, and no weights answer that; give the "
                "coefficients of a token at which some neuron is active"
            )
        width = len(self.key)
        if self.covariance is not None and self.covariance.shape != (width, width):
            raise ValueError(
                f"the key has {width} numbers and the covariance shape "
                f"{tuple(self.covariance.shape)}; measure it in the same model"
            )
        _ = self.direction

    @cached_property
    def direction(self) -> Float64[Tensor, "d_mlp"]:
        """What the change does to a coefficient vector c: c times it is the share of the key."""
        towards = self.key
        if self.covariance is not None:
            root, failed = torch.linalg.cholesky_ex(self.covariance)
            if int(failed):
                raise ValueError(
                    "the covariance of a RankOneWrite cannot be inverted: it was measured on fewer "
                    "tokens than there are neurons, or some are never active; measure on more, or "
                    "add a small multiple of the identity"
                )
            towards = torch.cholesky_solve(self.key[:, None], root)[:, 0]
        return towards / (self.key @ towards)

    @contextmanager
    def attached(self, model: HookedModel, clock: Clock) -> Iterator[None]:
        del clock
        require_native(model, "RankOneWrite")
        self._require(model)
        down = model.anatomy.layers[self.layer].down
        wide = torch.promote_types(stored_type(down), torch.float32)
        key, value, direction = (
            t.to(device_of(down), wide) for t in (self.key, self.value, self.direction)
        )

        def change(forward: Forward, coefficients: Tensor) -> Tensor:
            missing = value - forward(key.to(coefficients.dtype)[None])[0]
            share = coefficients.to(wide) @ direction
            written = forward(coefficients)
            return written + (share[..., None] * missing).to(written.dtype)

        with projection_changed(down, change):
            yield

    def weight_changes(self, model: HookedModel) -> list[WeightChange]:
        self._require(model)
        rows = memory_rows(model, self.layer)

        def new(vectors: Tensor) -> Tensor:
            wide, bias = vectors.double(), rows.module.bias
            key, value, direction = (
                t.to(vectors.device) for t in (self.key, self.value, self.direction)
            )
            missing = value - key @ wide - (0 if bias is None else bias.detach().double())
            return (wide + torch.outer(direction, missing)).to(vectors)

        return rows.changes(torch.arange(model.d_mlp), new, torch.zeros_like)

    def describe(self) -> dict[str, Any]:
        tensors = {"key": self.key, "value": self.value, "covariance": self.covariance}
        given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return {
            "kind": "rank_one_write",
            "layer": self.layer,
            "with_covariance": self.covariance is not None,
            "tensors_sha256": sha256_of(given),
        }

    def _require(self, model: HookedModel) -> None:
        model.hook_point((Site.MLP_COEFFICIENTS, self.layer))
        found, needed = (len(self.key), len(self.value)), (model.d_mlp, model.d_model)
        if found != needed:
            raise ValueError(
                f"the write has a key of {found[0]} and a value of {found[1]} numbers, but "
                f"{model.name} needs {needed[0]} and {needed[1]}; it is of another model"
            )


class _SecondMoments:
    """Sums of outer products over unmasked positions, float64."""

    def __init__(self) -> None:
        self.sum: Tensor | int = 0
        self.count = 0

    def update(
        self, values: Float[Tensor, "batch pos width"], mask: Bool[Tensor, "batch pos"]
    ) -> None:
        seen = values[mask].double()
        self.sum = self.sum + seen.T @ seen
        self.count += len(seen)

    def merge(self, other: "_SecondMoments") -> None:
        self.sum, self.count = self.sum + other.sum, self.count + other.count

    def result(self) -> Float64[Tensor, "width width"]:
        return (self.sum / self.count).cpu()  # type: ignore[union-attr]


@takes(model=hooked_model, batches=some_batches)
def key_covariance(
    model: HookedModel, batches: Batches, layer: int
) -> Float64[Tensor, "d_mlp d_mlp"]:
    """The uncentred covariance of a layer's MLP coefficients over the tokens of a corpus.

    One streaming pass; memory grows with the square of `d_mlp`, not with the corpus.

    Args:
        model: the model to run.
        batches: what to measure on, of more tokens than a layer has neurons; pads do not count.
        layer: of which layer.

    Returns:
        Mean of c c^T, float64 on the CPU.

    Raises:
        ValueError: there is no such layer, or there are no batches.
    """
    point = model.hook_point((Site.MLP_COEFFICIENTS, layer))
    return stream(model, batches, {point: _SecondMoments()})[point]


def _a_search(value: Any) -> str | None:
    check = instance_of(ValueSearch, "interventions.ValueSearch(steps=...)")
    return None if value is None else check(value)


def _some_texts(value: Any) -> str | None:
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return None
    return f"{shown(value)}; give a list of texts, ['', 'Yes. '] say"


@dataclass(frozen=True, kw_only=True)
class ValueSearch:
    """How the value of a fact is searched for; the defaults are those of ROME's released code.

    Attributes:
        steps: of Adam, at most.
        learning_rate: of it.
        weight_decay: weight of the size of the change, relative to the square of the old value's.
        drift: weight of the divergence in nats of what follows "{subject} is a".
        largest: how long the change may be, in lengths of the old value.
        enough: the loss in nats at which to stop.
    """

    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    drift: float = 0.0625
    largest: float = 4.0
    enough: float = 0.05

    def __post_init__(self) -> None:
        if wrong := whole_number()(self.steps):
            raise ValueError(f"steps of a ValueSearch is {wrong}")


@takes(model=hooked_model, search=_a_search, prefixes=_some_texts)
def rank_one_write(
    model: HookedModel,
    prompt: str,
    subject: str,
    target: str,
    *,
    layer: int,
    covariance: Float[Tensor, "d_mlp d_mlp"] | None = None,
    prefixes: Sequence[str] = ("",),
    search: ValueSearch | None = None,
) -> RankOneWrite:
    """A rank-one write that has a model go on with a target after a prompt about a subject.

    The model is not edited; hand the result to `applied` or `patch_weights`.

    Args:
        model: the model, on the native backend and with a tokenizer.
        prompt: it holds the subject: `"The Eiffel Tower is in the city of"`.
        subject: `"Eiffel Tower"`; its last token is where the memory is asked.
        target: what is to follow, with its space: `" Rome"`.
        layer: whose memory is written; the middle ones hold most of what is known of a subject.
        covariance: of the layer's coefficients, from `key_covariance`.
        prefixes: texts that the prompt may stand behind, over which key and loss are averaged; ROME
            takes fifty that the model has generated.
        search: how the value is found.

    Raises:
        ValueError: the prompt does not hold the subject, an argument does not fit the model, or the
            search finds no value that makes the target the most likely answer.
    """
    require_native(model, "rank_one_write")
    if covariance is not None:
        covariance = as_tensor(covariance, "covariance", "d_mlp d_mlp")
    point = model.hook_point((Site.MLP_COEFFICIENTS, layer))
    start = prompt.rfind(subject)
    if start < 0 or not subject:
        raise ValueError(
            f"the prompt {prompt!r} does not hold the subject {subject!r}; give both so"
        )
    texts = [f"{prefix}{prompt}" for prefix in prefixes]
    spans = [(len(p) + start, len(p) + start + len(subject)) for p in prefixes]
    items = lens_items(model, texts, [target] * len(texts), subjects=spans)
    about = lens_items(model, [f"{subject} is a"], [target], subjects=[(0, len(subject))])
    rows = _Rows.of(items, about[0])
    with torch.no_grad(), model.evaluating():
        key = rows.mean_key(model, point)
    with model.evaluating():
        value = _value_for(model, layer, rows, key, search or ValueSearch())
    return RankOneWrite(layer, key, value, covariance=covariance)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Prompts with their target, then the row that asks what the subject is."""

    batch: TokenBatch
    places: list[int]
    ends: list[int]
    items: list[LensItem]

    @classmethod
    def of(cls, items: list[LensItem], about: LensItem) -> "_Rows":
        rows = [item.prompt_ids + item.target_ids[:-1] for item in items] + [about.prompt_ids]
        width = max(map(len, rows))
        ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
        for row, given in enumerate(rows):
            ids[row, : len(given)] = torch.tensor(given)
            mask[row, : len(given)] = 1
        spans = [item.subject for item in (*items, about)]
        places = [span[1] - 1 for span in spans if span is not None]
        batch = as_token_batch({"input_ids": ids, "attention_mask": mask})
        return cls(batch, places, [len(row) - 1 for row in rows], items)

    def mean_key(self, model: HookedModel, point: HookPoint) -> Float64[Tensor, "d_mlp"]:
        """Coefficients at the last token of the subject, over the prompts."""
        seen: list[Tensor] = []
        with model.hooks([(point, lambda tensor, _point: seen.append(tensor))]):
            model.trunk(self.batch)
        prompts = range(len(self.items))
        return torch.stack([seen[0][row, self.places[row]] for row in prompts]).double().mean(dim=0)

    def loss(self, logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, ""]:
        """Mean over the prompts of minus the log-probability of the target."""
        losses = [-said.gather(1, ids[:, None]).sum() for said, ids in self._targets(logits)]
        return torch.stack(losses).mean()

    def answered(self, logits: Float[Tensor, "row pos d_vocab"]) -> bool:
        return all(bool((said.argmax(dim=1) == ids).all()) for said, ids in self._targets(logits))

    def _targets(self, logits: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Log-probabilities where the target is predicted, and its tokens, by prompt."""
        for row, item in enumerate(self.items):
            first = len(item.prompt_ids) - 1
            said = log_softmax(logits[row, first : first + len(item.target_ids)].float(), dim=-1)
            yield said, torch.tensor(item.target_ids, device=said.device)

    def about(self, logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, "d_vocab"]:
        """Log-probabilities of what follows "{subject} is a"."""
        return log_softmax(logits[-1, self.ends[-1]].float(), dim=-1)

    def with_value(self, value: Float[Tensor, "d_model"]) -> Change:
        """What a down projection computes if it writes this value at the subject of each row."""

        def change(forward: Forward, coefficients: Tensor) -> Tensor:
            written = forward(coefficients)
            # Some families run their MLP on [batch*pos].
            apart = written.reshape(len(self.places), -1, written.shape[-1])
            where = (torch.arange(len(self.places)), torch.tensor(self.places))
            return apart.index_put(where, value.to(written)).reshape(written.shape)

        return change


def _value_for(
    model: HookedModel, layer: int, rows: _Rows, key: Float64[Tensor, "d_mlp"], search: ValueSearch
) -> Float64[Tensor, "d_model"]:
    down = model.anatomy.layers[layer].down
    with torch.no_grad():
        old = down.forward(key.to(device_of(down), stored_type(down))[None])[0].float()
        plain = rows.about(model.logits(rows.batch))
    moved = torch.zeros_like(old, requires_grad=True)
    adam = torch.optim.Adam([moved], lr=search.learning_rate)
    length = float(old.norm()) or 1.0
    for step in range(search.steps + 1):
        with torch.enable_grad(), projection_changed(down, rows.with_value(old + moved)):
            logits = model.logits(rows.batch)
            drift = kl_div(rows.about(logits), plain, reduction="sum", log_target=True)
            size = moved.norm() / length**2
            loss = rows.loss(logits) + search.drift * drift + search.weight_decay * size
        if step == search.steps or float(loss.detach()) < search.enough:
            break
        (moved.grad,) = torch.autograd.grad(loss, moved)
        adam.step()
        with torch.no_grad():
            moved.mul_(min(1.0, search.largest * length / max(float(moved.norm()), length)))
    if not rows.answered(logits.detach()):
        probability = float((-rows.loss(logits.detach())).exp())
        raise ValueError(
            f"no value of layer {layer} was found that makes the target the most likely answer: it "
            f"has probability {probability:.2g}; raise largest or steps of the search, lower its "
            "weight_decay, or take another layer"
        )
    return (old + moved).detach().double().cpu()
