r"""Memory updates: how large the gradient and the update of every memory vector are.

Batch by batch, with the weights held still, the gradient of the mean next-token loss (nats per
predicted token) is taken with respect to the memory vectors of every layer, the rows of `W_out`
`[d_mlp d_model]`. Of each memory vector there are then the mean of \(|c_i|\) over tokens, the norm
of its gradient, and the norm of what Adam would do after the last batch, at a learning rate of 1,
without clipping and weight decay. The model is left as it was, also after an error.

Source: Kim et al., ICLR 2025: appendix A.1; Kingma and Ba, "Adam", 2015: Algorithm 1.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import cross_entropy

from analysis.checkpoints import Checkpoint, origin_in, refuse_another
from analysis.correlations import CorrelationKind, in_kind
from interventions.neurons import Rows, memory_rows
from probes.choices import Backend
from probes.cli import output_folder
from probes.corpus.batching import TokenBatches
from probes.corpus.token_batch import Batches, TokenBatch, as_batches, as_token_batch
from probes.hooked_model import HookedModel
from probes.perplexity import predicted_positions
from probes.results import Provenance, provenance_of
from probes.shown import json_text
from probes.sites import HookPoint, Site
from training.settings import OptimizerSettings


@dataclass(frozen=True, eq=False)
class MemoryUpdates:
    """What every memory vector is multiplied by, and how it would be changed."""

    mean_coefficients: Float64[Tensor, "layer d_mlp"]  # mean |c| over tokens
    gradient_norms: Float64[Tensor, "layer d_mlp"]  # norms of the gradient of the mean loss
    update_norms: Float64[Tensor, "layer d_mlp"]  # norms of Adam's update, at a learning rate of 1
    loss: float  # nats per predicted token
    predicted: int  # tokens that were predicted


def measure_updates(
    model: HookedModel,
    batches: Batches,
    settings: OptimizerSettings,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> MemoryUpdates:
    """Measure coefficients, gradients and updates of all memory vectors."""
    if model.backend is not Backend.NATIVE:
        raise ValueError(
            f"gradients of memory vectors are taken on the native backend, found {model.backend}; "
            "load the model without --backend"
        )
    rows = [memory_rows(model, layer) for layer in range(model.n_layers)]
    weights = [one.module.weight for one in rows]
    sums = torch.zeros(model.n_layers, model.d_mlp, dtype=torch.float64)
    mask = torch.zeros(0, 0)

    def take(tensor: Tensor, point: HookPoint) -> None:
        """Add up |c| over the tokens of the batch, pads left out."""
        found = tensor.detach().abs().to(torch.promote_types(tensor.dtype, torch.float32))
        assert point.layer is not None
        real = mask.to(found.device, found.dtype)
        sums[point.layer] += torch.einsum("bpn,bp->n", found, real).cpu()

    points = [((Site.MLP_COEFFICIENTS, layer), take) for layer in range(model.n_layers)]
    wide = [torch.promote_types(weight.dtype, torch.float32) for weight in weights]
    summed = [torch.zeros_like(w, dtype=d) for w, d in zip(weights, wide, strict=True)]
    # Adam moves these, from zero each time, in place of the weights.
    moved = [torch.nn.Parameter(torch.zeros_like(one)) for one in summed]
    adam = torch.optim.Adam(moved, lr=1.0, betas=settings.betas, eps=settings.eps)
    loss, predicted, tokens = 0.0, 0, 0
    with _requiring_gradients(weights), model.evaluating(), model.hooks(points):
        for mapping in as_batches(batches):
            batch = as_token_batch(mapping)
            mask = batch.attention_mask
            mean_loss, count, gradients = _gradients(model, batch, weights)
            for total, one, gradient in zip(summed, moved, gradients, strict=True):
                one.grad = gradient.to(one.dtype)
                total.add_(one.grad, alpha=count)
                one.data.zero_()
            adam.step()
            loss, predicted = loss + mean_loss * count, predicted + count
            tokens += int(mask.sum())
            if on_batch is not None:
                on_batch(int(mask.sum()))
    if not predicted:
        raise ValueError("there are no batches to take gradients of; give a corpus with texts")
    return MemoryUpdates(
        mean_coefficients=sums / tokens,
        gradient_norms=_norms([total / predicted for total in summed], rows),
        update_norms=_norms([one.detach() for one in moved], rows),
        loss=loss / predicted,
        predicted=predicted,
    )


def rank_correlations(
    coefficients: Float[Tensor, "layer d_mlp"], norms: Float[Tensor, "layer d_mlp"]
) -> list[float | None]:
    """Spearman's correlation over the memory vectors of every layer."""
    found: list[float | None] = []
    for pair in zip(coefficients.numpy(), norms.numpy(), strict=True):
        one, other = (in_kind(values, CorrelationKind.SPEARMAN) for values in pair)
        varied = np.ptp(one) > 0 and np.ptp(other) > 0
        found.append(float(np.corrcoef(one, other)[0, 1]) if varied else None)
    return found


@contextmanager
def _requiring_gradients(weights: Sequence[Tensor]) -> Iterator[None]:
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)


def _gradients(
    model: HookedModel, batch: TokenBatch, weights: Sequence[Tensor]
) -> tuple[float, int, tuple[Tensor, ...]]:
    """The mean loss of a batch, of how many tokens, and its gradient."""
    follows = predicted_positions(batch)
    count = int(follows.sum())
    if not count:
        raise ValueError("a batch predicts no token, so it has no gradient; give longer rows")
    with torch.enable_grad():
        logits = model.logits(_without_last_pads(batch))[follows.to(model.device)]
        # As in training, but float64 stays float64.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = batch.input_ids.roll(-1, dims=1)[follows]
        loss = cross_entropy(wide, targets.to(wide.device))
        # Not `backward`: what the model has in `.grad` stays what it is.
        found = torch.autograd.grad(loss, list(weights))
    nats = float(loss.detach())
    if not isfinite(nats) or not all(bool(one.isfinite().all()) for one in found):
        raise ValueError(
            f"the loss of a batch ({nats:g} nats) or its gradient is not finite in "
            f"{model.dtype}; try --dtype float32"
        )
    return nats, count, found


def _without_last_pads(batch: TokenBatch) -> TokenBatch:
    """A batch in which pads at the end of rows count as tokens."""
    mask = batch.attention_mask
    if (mask[:, 1:] > mask[:, :-1]).any():
        return batch
    return TokenBatch(batch.input_ids, torch.ones_like(mask), batch.segment_ids)


def _norms(values: Iterable[Tensor], rows: Sequence[Rows]) -> Float64[Tensor, "layer d_mlp"]:
    return torch.stack(
        [
            one.double().movedim(place.axis, 0).norm(dim=1).cpu()
            for one, place in zip(values, rows, strict=True)
        ]
    )


RESULT = "checkpoint.json"


def measured_once(
    folder: Path, origin: Mapping[str, str | None], measure: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """What a folder holds, or what is measured now and written there."""
    if not (folder / RESULT).is_file():
        found = json_text(measure(), f"{folder / RESULT}", indent=2)
        with output_folder(folder) as partial:
            (partial / RESULT).write_text(found + "\n", encoding="utf-8")
    kept = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    refuse_another(folder, origin_in(Provenance(**kept["provenance"])), origin)
    return kept


def first_batches(tokens: TokenBatches, steps: int) -> list[TokenBatch]:
    """The batches that gradients are taken of; `tokens` then knows the hash of their texts."""
    batches = list(islice(tokens, steps))
    if len(batches) < steps:
        raise ValueError(
            f"corpus {tokens.corpus.name} gave {len(batches)} batches, but --batches asks for "
            f"{steps}; give fewer, smaller ones, or a larger corpus"
        )
    return batches


def checkpoint_result(
    checkpoint: Checkpoint,
    model: HookedModel,
    tokens: TokenBatches,
    batches: Sequence[TokenBatch],
    settings: OptimizerSettings,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Correlations of one checkpoint, as plain values."""
    found = measure_updates(model, batches, settings, on_batch=on_batch)
    gradients, updates = (
        rank_correlations(found.mean_coefficients, norms)
        for norms in (found.gradient_norms, found.update_norms)
    )
    used = {"betas": list(settings.betas), "eps": settings.eps, "batches": len(batches)}
    provenance = provenance_of(
        model,
        {**tokens.configuration, **used},
        documents=1 + max(int(batch.segment_ids.max()) for batch in batches),
        rows=sum(len(batch.input_ids) for batch in batches),
        tokens=sum(int(batch.attention_mask.sum()) for batch in batches),
        corpus=tokens.corpus.name,
        corpus_licence=tokens.corpus.licence,
        corpus_sha256=tokens.content_hash,
    )
    return {
        "checkpoint": checkpoint.label,
        "step": checkpoint.step,
        "revision": checkpoint.revision,
        "loss": found.loss,
        "layers": [
            {"layer": layer, "gradients": gradient, "updates": update}
            for layer, (gradient, update) in enumerate(zip(gradients, updates, strict=True))
        ],
        "provenance": asdict(provenance),
    }
