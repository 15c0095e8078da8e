"""Self-check: does an edit do anything, and the same in both of its forms?

On a few fixed tokens, edits are made one after the other, once all by hooks and once by weights
where weights can express them. Refused are

* an edit that changes neither logits nor coefficients nor any weight but attention's (but for
  `Identity`),
* one whose logits or coefficients are no longer finite, and
* one whose two forms differ by more than rounding.

On the native backend the hooks of others are off meanwhile, so that what counts or collects does
not see these tokens. Weights are written to and get the same bits back; autograd does not notice.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interventions.edit_forms import Clock, Edit, WeightChange, WeightWrites
from probes.checking import difference, few_tokens, tolerance
from probes.choices import Backend, Coefficient
from probes.corpus.token_batch import as_token_batch
from probes.hooked_model import HookedModel
from probes.results import EntropyResult
from probes.sites import HookPoint, Site

# Hooks without which a sharded, offloaded or compiled model does not run.
_LIBRARIES = ("torch", "accelerate", "transformers")

# In half precision, weights that are rounded once more can move a deep model whose layers an edit
# has thrown off by a tenth of what the edit does; another edit would move it by all of that.
_HALF_PRECISION_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the model computes with the first edits made."""

    logits: Float[Tensor, "batch pos d_vocab"]
    coefficients: Float[Tensor, "layer batch pos d_mlp"]
    wrote: bool = False
    """Whether the last of the edits changed a weight that a few tokens may not have used."""

    def same(self, other: "_Seen") -> bool:
        """Whether all bits agree."""
        return torch.equal(self.logits, other.logits) and torch.equal(
            self.coefficients, other.coefficients
        )

    def gap(self, other: "_Seen") -> float:
        """The larger of the differences in logits and in coefficients of a layer."""
        pairs = zip(self.coefficients, other.coefficients, strict=True)
        return max(difference(self.logits, other.logits), *(difference(a, b) for a, b in pairs))

    def finite(self) -> bool:
        """Whether all numbers are finite."""
        return bool(self.logits.isfinite().all() and self.coefficients.isfinite().all())


def check_edits(model: HookedModel, edits: Sequence[Edit]) -> None:
    """Try edits on a few tokens; the model is left as it was."""
    changes = [_changes_or_none(edit, model) for edit in edits]
    with torch.no_grad(), model.evaluating(), _quietly(model):
        before = _observe(model)
        as_hooks = _observed_as_hooks(model, edits)
        as_weights = _observed_as_weights(model, edits, changes)
    for i, edit in enumerate(edits):
        made = [form[i] for form in (as_hooks, as_weights) if i < len(form)]
        if not made:
            return
        earlier = [form[i - 1] if i else before for form in (as_hooks, as_weights) if i < len(form)]
        _require(edit, earlier, made, finite=before.finite(), dtype=model.dtype)


def _require(
    edit: Edit, earlier: Sequence[_Seen], made: Sequence[_Seen], *, finite: bool, dtype: torch.dtype
) -> None:
    kind = edit.describe()["kind"]
    if finite and not all(seen.finite() for seen in made):
        raise ValueError(
            f"edit {kind!r} makes numbers that are not finite in {dtype}; set max_multiplier, or "
            "leave neurons with tiny coefficients out"
        )
    idle = all(now.same(then) and not now.wrote for now, then in zip(made, earlier, strict=True))
    if idle and kind != "identity":
        raise ValueError(
            f"edit {kind!r} changes nothing: no weight, and on a few tokens neither logits nor "
            "coefficients; leave it out, or use Identity() where that is meant"
        )
    if len(made) < 2:
        return
    # Also a float64 model computes norms and rotations in float32, in most families.
    computed = torch.float32 if dtype is torch.float64 else dtype
    allowed, gap = tolerance(computed), made[0].gap(made[1])
    if dtype.itemsize < 4:
        allowed = max(allowed, _HALF_PRECISION_SHARE * made[0].gap(earlier[0]))
    if not gap <= allowed:
        raise ValueError(
            f"edit {kind!r} does one thing as hooks and another as weights: what the model "
            f"computes differs by {gap:.2g} of the largest value, where rounding explains "
            f"{allowed:.2g}; it is refused"
        )


def _observed_as_hooks(model: HookedModel, edits: Sequence[Edit]) -> list[_Seen]:
    """After each of the edits, up to the first that hooks cannot do here."""
    found = []
    with ExitStack() as stack:
        for edit in edits:
            try:
                stack.enter_context(edit.attached(model, Clock()))
            except ValueError:
                break
            found.append(_observe(model))
    return found


def _observed_as_weights(
    model: HookedModel, edits: Sequence[Edit], changes: Sequence[list[WeightChange] | None]
) -> list[_Seen]:
    """After each of the edits, made by weights where they can be and by hooks elsewhere."""
    found = []
    with ExitStack() as stack:
        for edit, own in zip(edits, changes, strict=True):
            wrote = False
            if own is None:
                try:
                    stack.enter_context(edit.attached(model, Clock()))
                except ValueError:
                    break
            else:
                writes = WeightWrites(model.hf_model, in_passing=True)
                stack.callback(writes.restore)
                writes.write(own)
                wrote = writes.changed(but_for=_of_attention(model))
            found.append(_observe(model, wrote=wrote))
    return found


def _of_attention(model: HookedModel) -> set[str]:
    """Names of attention's weights, which every token uses, as it need not each memory vector."""
    layers = model.anatomy.layers
    own = {id(weight) for layer in layers for weight in layer.attention.parameters()}
    named = model.hf_model.named_parameters(remove_duplicate=False)
    return {name for name, weight in named if id(weight) in own}


def _changes_or_none(edit: Edit, model: HookedModel) -> list[WeightChange] | None:
    try:
        _ = model.hf_model  # raises on a backend that has rewritten it
        return edit.weight_changes(model)
    except ValueError:
        return None


def _observe(model: HookedModel, *, wrote: bool = False) -> _Seen:
    kept: dict[HookPoint, Tensor] = {}

    def keep(tensor: Tensor, point: HookPoint) -> None:
        kept[point] = tensor.clone()

    points = [HookPoint(Site.MLP_COEFFICIENTS, layer) for layer in range(model.n_layers)]
    ids = few_tokens(model.anatomy.n_tokens, model.device)
    with model.hooks([(point, keep) for point in points]):
        logits = model.logits(as_token_batch({"input_ids": ids})).clone()
    coefficients = torch.stack([kept[point].to(logits.device) for point in points])
    return _Seen(logits, coefficients, wrote)


@contextmanager
def _quietly(model: HookedModel) -> Iterator[None]:
    """Without the hooks that others have put on the model, for the length of a `with` block."""
    if model.backend is not Backend.NATIVE:
        yield
        return
    taken: list[tuple[Any, dict[int, Any]]] = []
    for part in model.engine.module.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            if hooks:
                taken.append((hooks, dict(hooks)))
    for hooks, before in taken:
        for key, hook in before.items():
            if not _of_a_library(hook):
                del hooks[key]
    try:
        yield
    finally:
        for hooks, before in taken:
            hooks.clear()
            hooks.update(before)


def _of_a_library(hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").split(".")[0] in _LIBRARIES


_Versions = list[tuple[str, int, int]]
_hashes: "WeakKeyDictionary[nn.Module, tuple[_Versions, str]]" = WeakKeyDictionary()


def measured_means(
    given: Float[Tensor, "layer d_mlp"] | EntropyResult,
) -> tuple[Float[Tensor, "layer d_mlp"], str | None]:
    """Mean |c| of every neuron, float64 on the CPU, and the model's hash where it is known."""
    if isinstance(given, Tensor):
        return given.detach().double().cpu(), None
    measured = given.provenance.configuration.get("coefficient", Coefficient.ABS)
    if measured != Coefficient.ABS:
        raise ValueError(
            f"an edit of inactive neurons needs means of |c|, but this result has coefficient "
            f"{str(measured)!r}; measure with coefficient='abs'"
        )
    return given.mean_coefficients.double().cpu(), given.provenance.weights_sha256


def require_measured_on(
    model: HookedModel, shape: tuple[int, ...], model_hash: str | None, *, whose: str
) -> None:
    """Refuse coefficients that belong to another model."""
    if shape != (model.n_layers, model.d_mlp):
        raise ValueError(
            f"{whose} has coefficients of {shape[0]} layers of {shape[1]} neurons, but "
            f"{model.name} has {model.n_layers} layers of {model.d_mlp}; measure them on this model"
        )
    if model_hash is not None and model_hash != (found := content_hash(model)):
        raise ValueError(
            f"{whose} has coefficients of another model: measured on weights {model_hash[:12]}, "
            f"found {found[:12]} in {model.name}; measure again, or pass the coefficients as a "
            "tensor without model_hash"
        )


def content_hash(model: HookedModel) -> str:
    """`model.content_hash()`, computed again only where a weight was written to."""
    module = model.engine.module
    versions = [_version(name, weight) for name, weight in model.engine.state_dict().items()]
    known: Any = _hashes.get(module)
    if known is None or known[0] != versions:
        known = _hashes[module] = (versions, model.content_hash())
    return known[1]


def _version(name: str, weight: Tensor) -> tuple[str, int, int]:
    # Tensors made in inference mode cannot be written to outside of it, and have no counter.
    return name, weight.data_ptr(), 0 if weight.is_inference() else weight._version
