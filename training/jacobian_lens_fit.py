r"""How a Jacobian lens is fitted: the mean Jacobian of the last stream on every layer's.

.. math::

    J_\ell = \frac{1}{N} \sum_{\mathrm{rows}} \frac{1}{|V|} \sum_{t \in V} \sum_{t' \in V}
        \frac{\partial h_{\mathrm{final}, t'}}{\partial h_{\ell, t}}

A row's positions :math:`V` are all but the first few, whose streams are unlike the others, and the
last, which no token follows; :math:`h_{\mathrm{final}}` is the stream before the final norm. One
backward pass gives one row of the matrices of all layers, so a batch costs `d_model` of them.

Source: Gurnee et al., "Verbalizable Representations Form a Global Workspace in Language Models",
Transformer Circuits (2026); the estimator of `anthropics/jacobian-lens` and TransformerLens 4.3,
which leave out the stream before block 0.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from probes.checking import wide
from probes.choices import Backend, Lens
from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch
from probes.hooked_model import HookedModel
from probes.hooks import require_finite
from probes.sites import HookPoint, Site
from probes.translators import Translators
from training.lens_fits import model_of_fit, remaining, require_finite_layers, text_origin

SKIP_FIRST = 16
"""How many positions at the start of a row are left out: the published lenses' number."""


def fit_jacobian_lens(
    model: HookedModel,
    batches: Batches,
    *,
    skip_first: int = SKIP_FIRST,
    kept_in: str | Path | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Translators:
    """Fit the Jacobian lens of a model.

    It takes a forward and `d_model` backward passes for every batch, and nothing is drawn.

    Args:
        model: the hooked model, on the native backend; no gradient and no change reaches its
            weights. In float32 the lens is exact to rounding.
        batches: text, gone through once; every row counts the same, rows of at most
            `skip_first + 1` tokens not at all.
        skip_first: how many positions at the start of every row to leave out.
        kept_in: a file to keep the fit in every half minute; a fit that was stopped goes on from
            it. It stays there at the end.
        on_batch: called with 1 after every batch.

    Returns:
        The lens, for `analysis.lens(translators=...)`.

    Raises:
        ValueError: no row is long enough, something that is computed is not finite, the backend has
            no gradients, or `kept_in` holds the fit of another model, text or setting.

    Example:
        >>> import probes
        >>> model = probes.load_model("smollm2-135m-instruct-q4")      # doctest: +SKIP
        >>> rows = probes.token_batches("general", model.tokenizer)     # doctest: +SKIP
        >>> lens = fit_jacobian_lens(model, rows, kept_in="fit.pt")     # doctest: +SKIP
    """
    if model.backend is not Backend.NATIVE:
        raise ValueError(f"a Jacobian lens is fitted on the native backend, not {model.backend}")
    if skip_first < 0:
        raise ValueError(f"skip_first is {skip_first}; give 0 or more")
    text = as_batches(batches)
    batching = getattr(text, "configuration", None)
    fit = JacobianFit(model, skip_first)
    left = remaining(
        fit,
        map(as_token_batch, text),
        kept_in=None if kept_in is None else Path(kept_in),
        belongs_to={**model_of_fit(model), "skip_first": skip_first, "batching": batching},
        content_hash=lambda: getattr(text, "content_hash", None),
        on_batch=on_batch,
    )
    for _, batch in left:
        fit.step(batch)
    return fit.translators(text_origin(text))


class JacobianFit:
    """The sum of the Jacobians of rows."""

    def __init__(self, model: HookedModel, skip_first: int) -> None:
        size = (model.n_layers, model.d_model, model.d_model)
        self._model, self._skip_first = model, skip_first
        self._total = torch.zeros(size, dtype=torch.float64)
        self._rows = self._too_short = 0

    def step(self, batch: TokenBatch) -> None:
        weights = position_weights(batch.attention_mask, self._skip_first)
        usable = int(weights.any(dim=1).sum())
        self._rows += usable
        self._too_short += len(weights) - usable
        if usable:
            found = summed_jacobians(self._model, batch, weights, range(self._model.d_model))
            self._total += found.double().cpu()

    def state_dict(self) -> dict[str, Any]:
        return {"total": self._total, "rows": self._rows, "too_short": self._too_short}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._total, self._rows = state["total"], state["rows"]
        self._too_short = state["too_short"]

    def translators(self, origin: dict[str, Any]) -> Translators:
        if not self._rows:
            raise ValueError(
                f"no row has more than {self._skip_first + 1} tokens; give longer rows or text, or "
                "leave out fewer positions at their start"
            )
        model = self._model
        weight = self._total / self._rows - torch.eye(model.d_model, dtype=torch.float64)
        rows = {"rows": self._rows, "rows_too_short": self._too_short}
        return Translators(
            weight=weight.float(),
            bias=torch.zeros(weight.shape[:2]),
            model=model.name,
            weights_sha256=model.content_hash(),
            training={"skip_first": self._skip_first, **rows, **origin},
            name=Lens.JACOBIAN,
        ).to(model.device)


def position_weights(
    mask: Int64[Tensor, "batch pos"], skip_first: int
) -> Float32[Tensor, "batch pos"]:
    """A share for each position of a row that counts, which add up to 1; 0 on the others."""
    place = mask.cumsum(dim=1) - 1
    last = mask.sum(dim=1, keepdim=True) - 1
    counted = mask.bool() & (place >= skip_first) & (place < last)
    return counted.float() / counted.sum(dim=1, keepdim=True).clamp_min(1)


def summed_jacobians(
    model: HookedModel, batch: TokenBatch, weights: Float32[Tensor, "batch pos"], outputs: range
) -> Float[Tensor, "layer output d_model"]:
    """Some rows of every layer's Jacobian, summed over the rows of a batch."""
    counted = weights > 0
    found = torch.empty(model.n_layers, len(outputs), model.d_model, device=model.device)
    with frozen(model.engine.module):
        *sources, final = _streams_with_graph(model, batch)
        require_finite(final.detach()[counted.to(final.device)], model, batch, counted, "a stream")
        cotangent = torch.zeros_like(final)
        for place, output in enumerate(outputs):
            # Rows do not see each other, so each gets the gradient of its own output.
            cotangent[..., output] = counted.to(final)
            keep = place + 1 < len(outputs)
            slopes = torch.autograd.grad(final, sources, cotangent, retain_graph=keep)
            cotangent[..., output] = 0
            for layer, slope in enumerate(slopes):
                shares = weights.to(slope.device)
                found[layer, place] = torch.einsum("bp,bpd->d", shares, wide(slope)).to(found)
    require_finite_layers(model, found, "the Jacobian")
    return found


def _streams_with_graph(
    model: HookedModel, batch: TokenBatch
) -> Sequence[Float[Tensor, "batch pos d_model"]]:
    """The stream before block 0 and after every block, each computed from the one before."""
    kept: list[Tensor] = []

    def begin(stream: Tensor, _point: HookPoint) -> Tensor:
        kept.append(stream.detach().requires_grad_())
        return kept[0]

    def keep(stream: Tensor, _point: HookPoint) -> None:
        kept.append(stream)

    points = [HookPoint(Site.RESID_POST, layer) for layer in range(model.n_layers)]
    hooks = [(HookPoint(Site.RESID_PRE, 0), begin), *((point, keep) for point in points)]
    with torch.enable_grad(), model.evaluating(), model.hooks(hooks):
        model.trunk(batch)
    return kept


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Weights need no gradient for the length of a `with` block, so none is kept ready."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
