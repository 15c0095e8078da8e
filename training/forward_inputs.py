"""Forward inputs: what rows of tokens become for a model, so that documents do not see each other.

Attention is causal, so pads at the end of a row are seen by nothing that is trained on, and need no
mask. Where a row holds several documents, or pads before its tokens, positions start again from 0
at every document (a run of pads is one, too). transformers reads the boundaries off the positions
and masks attention accordingly, sliding windows included; where a family does not, it gets the mask
itself. Which it is, a trial at the start tells.

Example:
    >>> positions_within(torch.tensor([[5, 5, 5, 9, 9, -1]])).tolist()
    [[0, 1, 2, 0, 1, 0]]
"""

from enum import Enum, auto
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Int64
from torch import Tensor

from probes.checking import evaluating, refusing_failures
from probes.hooked_model import HookedModel
from training.batches import TrainingBatch

_PAD = -1


class Separation(Enum):
    """How a model is told where documents begin."""

    POSITIONS = auto()
    """By positions that start again."""
    MASK = auto()
    """By these and a mask for every query and key."""
    IMPOSSIBLE = auto()
    """Not in any way known here."""


def refuse_misfits(batch: TrainingBatch, model: HookedModel) -> None:
    """Make sure that a model has the tokens and the positions that a batch asks for.

    Raises:
        ValueError: it does not.
    """
    ids, vocabulary = batch.input_ids, model.anatomy.n_tokens
    lowest, highest = map(int, ids.aminmax())
    if lowest < 0 or highest >= vocabulary:
        raise ValueError(
            f"token ids of a batch run from {lowest} to {highest}, but {model.name} has "
            f"{vocabulary} tokens; make the rows with its own tokenizer"
        )
    longest = model.n_positions
    if longest is not None and ids.shape[1] > longest:
        raise ValueError(
            f"rows have {ids.shape[1]} tokens, but {model.name} has positions for {longest}; use "
            "shorter rows"
        )


def forward_inputs(
    batch: TrainingBatch,
    separation: Separation,
    device: torch.device,
    rope_border: int | None = None,
) -> dict[str, Tensor]:
    """Keyword arguments for a forward pass.

    Args:
        batch: the rows, on the CPU.
        separation: how the model is told where documents begin.
        device: where it computes.
        rope_border: `probes.sequence_rope.rope_border` of the model, beyond which a document's
            length must not count the pads after it.

    Raises:
        ValueError: a row holds several documents, and this model cannot keep them apart.
    """
    inputs = {"input_ids": batch.input_ids}
    documents = _documents(batch)
    apart = _matters(documents)
    longer = rope_border is not None and documents.shape[1] > rope_border
    if apart or (longer and bool((documents == _PAD).any())):
        inputs["position_ids"] = positions_within(documents)
    if apart:
        if separation is Separation.IMPOSSIBLE:
            raise ValueError(
                "this model does not keep the documents of a row apart; put one in a row, or leave "
                "out document masks"
            )
        if separation is Separation.MASK:
            inputs["attention_mask"] = _causal_within(documents)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}


def separation_of(hf_model: Any) -> Separation:
    """How a model is to be told where documents begin, found out on a row of two.

    The first document is changed; what the model says about the second must stay the same.
    """
    device = next(hf_model.parameters()).device
    rows = torch.tensor([[1, 1, 1, 2], [2, 2, 1, 2]])
    documents = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    batch = TrainingBatch(rows, rows, torch.ones_like(rows), documents)
    for separation in (Separation.POSITIONS, Separation.MASK):
        inputs = forward_inputs(batch, separation, device)
        try:
            with (
                evaluating(hf_model),
                torch.no_grad(),
                refusing_failures("it takes no such inputs"),
            ):
                one, other = hf_model(**inputs, use_cache=False).logits[:, 2:]
        except ValueError:
            continue
        # Rounding is a millionth of their spread; what a document sees of another is far more.
        if torch.allclose(one, other, rtol=0.0, atol=1e-4 * float(one.std())):
            return separation
    return Separation.IMPOSSIBLE


def positions_within(documents: Int64[Tensor, "batch pos"]) -> Int64[Tensor, "batch pos"]:
    """Positions that count from 0 in every document of a row.

    Args:
        documents: a number for each token; a document is a run of the same.
    """
    here = torch.arange(documents.shape[1]).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return here - torch.where(begins, here, 0).cummax(dim=1).values


def _documents(batch: TrainingBatch) -> Int64[Tensor, "batch pos"]:
    """A number for every token's document, another one for pads."""
    segments = batch.segment_ids
    numbers = torch.zeros_like(batch.input_ids) if segments is None else segments
    return torch.where(batch.attention_mask == 1, numbers, _PAD)


def _matters(documents: Int64[Tensor, "batch pos"]) -> bool:
    """Whether any token has another document, or pads, before it in its row."""
    changes = documents[:, 1:] != documents[:, :-1]
    return bool((changes & (documents[:, 1:] != _PAD)).any())


def _causal_within(documents: Int64[Tensor, "batch pos"]) -> Bool[Tensor, "batch 1 pos pos"]:
    """Which keys a query may attend to: those before it in its own document."""
    queries = rearrange(documents, "batch query -> batch 1 query 1")
    keys = rearrange(documents, "batch key -> batch 1 1 key")
    return (queries == keys) & torch.ones(documents.shape[1], documents.shape[1]).tril().bool()
