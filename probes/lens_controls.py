r"""Targets that no item should lead to, to hold a lens against.

How early a target is found says little unless another target would be found later. Two controls:

- **Shuffled targets**: each item gets the target of another. They have the same tokens as the real
  ones, and share with them whatever all answers of a set have in common.
- **Frequency-matched tokens**: each item gets a token that occurs about as often in a corpus as the
  first of its target. Early layers favour frequent tokens, whatever the prompt.

How near two frequencies are is the **gap** \(|\ln\frac{1 + c}{1 + c'}|\) of the two counts, in
nats: 0 for equal counts, 0.69 for twice as often.

Example:
    >>> import numpy as np
    >>> shuffled_targets([(5,), (7,)], np.random.default_rng(0))
    [(7,), (5,)]
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from probes.corpus.token_batch import Batches, as_batches, as_token_batch

POOL = 20
"""From how many of the nearest tokens a frequency-matched one is drawn."""


def shuffled_targets(
    target_ids: Sequence[Sequence[int]], generator: np.random.Generator
) -> list[tuple[int, ...]]:
    """The same targets, each given to another item at random."""
    own = [tuple(ids) for ids in target_ids]
    if len(set(own)) < 2:
        raise ValueError(
            f"nothing to shuffle: {len(own)} targets, {len(set(own))} different; give items with "
            f"two different targets or more"
        )
    given = [own[index] for index in generator.permutation(len(own))]
    for item, mine in enumerate(own):
        if given[item] == mine:
            # A swap settles this item and spoils none: neither side gets back its own. One exists
            # unless this target is more than half of all, as 2 count - 1 items at most rule out.
            partners = [i for i in range(len(own)) if mine not in (own[i], given[i])]
            if partners:
                other = generator.choice(partners)
                given[item], given[other] = given[other], given[item]
    return given


def token_counts(batches: Batches, d_vocab: int) -> Int64[Tensor, "d_vocab"]:
    """How often each token occurs in a corpus, pads left out."""
    counts = torch.zeros(d_vocab, dtype=torch.long)
    for batch in map(as_token_batch, as_batches(batches)):
        ids = batch.input_ids[batch.attention_mask.bool()].cpu()
        _check_ids(ids, d_vocab)
        counts += torch.bincount(ids, minlength=d_vocab)
    if not counts.any():
        raise ValueError("there were no tokens to count; pass at least one batch")
    return counts


def frequency_matched(
    target_ids: Sequence[Sequence[int]],
    counts: Int64[Tensor, "d_vocab"],
    generator: np.random.Generator,
    *,
    special_ids: Iterable[int] = (),
    pool: int = POOL,
) -> list[tuple[int, ...]]:
    """For each item one token that is about as frequent as the first of its target."""
    first = _first_tokens(target_ids, len(counts))
    barred = torch.tensor(sorted(set(special_ids)), dtype=torch.long)
    _check_ids(barred, len(counts))
    if not 1 <= pool < len(counts) - len(barred):
        raise ValueError(
            f"pool is {pool}, and {len(counts) - len(barred)} of {len(counts)} tokens may be "
            f"drawn: give 1 or more and fewer than these"
        )
    logs = counts.double().log1p()
    drawn: list[tuple[int, ...]] = []
    for token in first.tolist():
        gaps = (logs - logs[token]).abs()
        gaps[barred] = gaps[token] = torch.inf
        near = (gaps <= gaps.kthvalue(pool).values).nonzero()[:, 0]
        drawn.append((int(near[generator.integers(len(near))]),))
    return drawn


def frequency_gaps(
    target_ids: Sequence[Sequence[int]],
    control_ids: Sequence[Sequence[int]],
    counts: Int64[Tensor, "d_vocab"],
) -> Float64[Tensor, "item"]:
    """How far apart the frequencies of first tokens of targets and controls are, in nats."""
    if len(target_ids) != len(control_ids):
        raise ValueError(
            f"found {len(target_ids)} targets and {len(control_ids)} controls: give one for each"
        )
    logs = counts.double().log1p()
    ours, theirs = (_first_tokens(ids, len(counts)) for ids in (target_ids, control_ids))
    return (logs[ours] - logs[theirs]).abs()


def _first_tokens(target_ids: Sequence[Sequence[int]], d_vocab: int) -> Int64[Tensor, "item"]:
    for item, ids in enumerate(target_ids):
        if not len(ids):
            raise ValueError(f"target {item} has no tokens: give one or more")
    first = torch.tensor([ids[0] for ids in target_ids], dtype=torch.long)
    _check_ids(first, d_vocab)
    return first


def _check_ids(ids: Int64[Tensor, "item"], d_vocab: int) -> None:
    if len(ids) and not (ids.min() >= 0 and ids.max() < d_vocab):
        raise ValueError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}, but there are {d_vocab} "
            f"tokens: give ids of this vocabulary"
        )
