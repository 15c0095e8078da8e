"""Weighting: how much each token counts in a mean over a corpus, and which document it is of.

Equation 2 of the Knowledge Entropy paper averages over the tokens of an instance and then over
instances; an instance is a row of a batch. `INSTANCE` gives a token of a row with T tokens the
weight 1/T; `TOKEN` gives every token the weight 1. The two agree when all rows are full.

Documents, not rows, are what an interval resamples. They are dealt into blocks in turn: document
*i* of the corpus goes to block `i mod n_blocks`.

Example:
    >>> import torch
    >>> from probes.corpus.token_batch import as_token_batch
    >>> batch = as_token_batch({"input_ids": torch.ones(1, 2, dtype=torch.long)})
    >>> weigh(batch, Weighting.INSTANCE, n_blocks=1).matrix.tolist()
    [[0.5, 0.5]]
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.choices import Weighting
from probes.corpus.token_batch import TokenBatch
from probes.streaming import BatchWeights


def weigh(batch: TokenBatch, weighting: Weighting, n_blocks: int) -> BatchWeights:
    """The weights of a batch; pads have none.

    Args:
        batch: tokens, mask and, for packed rows, the document of each token.
        weighting: what counts the same.
        n_blocks: how many blocks the documents are dealt into.
    """
    counted = batch.attention_mask.bool()
    return spread(_token_weights(counted, weighting), batch.segment_ids % n_blocks)


def spread(weights: Float[Tensor, "batch pos"], blocks: Int[Tensor, "batch pos"]) -> BatchWeights:
    """One row of weights per block that a batch touches; tokens of weight zero are dropped."""
    flat = weights.flatten()
    tokens = flat.nonzero().flatten()
    touched, place = blocks.flatten()[tokens].unique(return_inverse=True)
    matrix = torch.zeros(len(touched), len(tokens), dtype=flat.dtype)
    matrix[place, torch.arange(len(tokens))] = flat[tokens]
    return BatchWeights(matrix, touched, None if len(tokens) == len(flat) else tokens)


def _token_weights(
    counted: Bool[Tensor, "batch pos"], weighting: Weighting
) -> Float[Tensor, "batch pos"]:
    # float64: a third of a token must not be rounded before a million of them are added up.
    weights = counted.double()
    if weighting is Weighting.TOKEN:
        return weights
    return weights / weights.sum(dim=1, keepdim=True).clamp_min(1.0)
