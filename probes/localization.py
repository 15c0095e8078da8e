r"""Localization: the layer at which a target becomes readable, and controls that should not.

A **rank** is `[layer item]`: how many tokens a readout of that layer puts before the target of an
item, 0 being the top. An item is **found** at a layer if its target is among the top `k` there.
Layers are indices of rows; -1 stands for none.

- `layer_histogram`: shares of items by their first layer (with `k = 10` what the paper draws);
  `occurrence_histogram` counts every layer where an item is found, as the paper's captions can be
  read.
- `effective_layers`: exp of the histogram's entropy: what the paper calls diversification. Over few
  items it comes out too low, which `effective_layers_interval` allows for.
- `rank_area`: \(1 - \ln(1 + \mathrm{rank}) / \ln(d_{vocab})\), averaged over layers; it needs no
  `k`.

Two controls say what another target would give: **shuffled targets**, each item with that of
another; and **frequency-matched tokens**, about as frequent in a corpus as the first of the target,
since early layers favour frequent tokens.

Source: Chen et al., "Continual Memorization of Factoids in Large Language Models", 2024: section 5
and Figures 4, 11 and 12.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from probes.corpus.token_batch import Batches, as_batches, as_token_batch
from probes.corpus_means import Interval, jackknife_interval
from probes.entropy import shannon_entropy
from probes.refusals import shown, whole_number
from probes.shown import Result, frame_of

NEVER = -1


@dataclass(frozen=True, eq=False)
class Localization(Result):
    """The layers at which the targets of some items become readable."""

    k: int
    """An item is found where its target is among so many top tokens."""
    first_layer: Int64[Tensor, "item"]
    """First layer where each item is found, -1 for never."""
    settling_layer: Int64[Tensor, "item"]
    """First layer from which it stays found, -1 for never."""
    first_histogram: Float[Tensor, "layer"]
    """Shares of the found items by first layer."""
    settling_histogram: Float[Tensor, "layer"]
    """Shares of the settled items by settling layer."""
    occurrence_histogram: Float[Tensor, "layer"]
    """Shares of all occurrences by layer."""
    rank_area: Float[Tensor, "item"]
    """Mean over layers of the rank on a logarithmic scale, from 0 to 1."""

    @property
    def share_found(self) -> float:
        """Share of the items that are found at any layer."""
        return share_found(self.first_layer)

    @property
    def share_settled(self) -> float:
        """Share of the items that are found at the last layer."""
        return share_found(self.settling_layer)

    @property
    def effective_layers(self) -> float:
        """Effective number of first layers."""
        return effective_layers(self.first_histogram)

    @property
    def mean_first_layer(self) -> float | None:
        """Mean first layer of the found items; None where none was found."""
        found = self.first_layer[self.first_layer != NEVER]
        return found.double().mean().item() if len(found) else None

    def _facts(self) -> Mapping[str, Any]:
        found = {"items": len(self.first_layer), "found": f"{self.share_found:.1%}"}
        mean = {"mean first layer": self.mean_first_layer}
        return {"": f"top {self.k}", **found, "settled": f"{self.share_settled:.1%}", **mean}

    def to_dataframe(self) -> Any:
        """One row per layer: shares of items by first and settling layer, and of occurrences."""
        names = ("first", "settling", "occurrence")
        shares = {name: getattr(self, f"{name}_histogram") for name in names}
        return frame_of({"layer": range(len(self.first_histogram)), **shares})


def localize(rank: Int[Tensor, "layer item"], k: int, d_vocab: int) -> Localization:
    """Find the layers at which the targets of items become readable.

    Args:
        rank: rank of each item's target at every layer, 0 for the top.
        k: an item is found where its target is among the top `k`.
        d_vocab: number of tokens that ranks run over.

    Raises:
        ValueError: `rank` is empty or out of range, or `k` is below 1 or not below `d_vocab`.
    """
    _among_top(rank, k)
    if k >= d_vocab:
        raise ValueError(f"k is {k}, but there are {d_vocab} tokens: give a k below that")
    first, settled = first_layer(rank, k), settling_layer(rank, k)
    return Localization(
        k=k,
        first_layer=first,
        settling_layer=settled,
        first_histogram=layer_histogram(first, len(rank)),
        settling_histogram=layer_histogram(settled, len(rank)),
        occurrence_histogram=occurrence_histogram(rank, k),
        rank_area=rank_area(rank, d_vocab),
    )


def first_layer(rank: Int[Tensor, "layer item"], k: int) -> Int64[Tensor, "item"]:
    """First layer at which each target is among the top `k`; -1 where it never is."""
    found = _among_top(rank, k)
    return found.int().argmax(dim=0).where(found.any(dim=0), NEVER)


def settling_layer(rank: Int[Tensor, "layer item"], k: int) -> Int64[Tensor, "item"]:
    """First layer from which each target stays among the top `k` up to the last; -1 for none."""
    found = _among_top(rank, k)
    stays = found.flip(0).long().cumprod(dim=0).sum(dim=0)
    return (len(rank) - stays).where(stays > 0, NEVER)


def layer_histogram(layers: Int[Tensor, "item"], n_layers: int) -> Float[Tensor, "layer"]:
    """Shares of items by layer, of those that have one; all zeros where none has."""
    if len(layers) and not (layers.min() >= NEVER and layers.max() < n_layers):
        raise ValueError(
            f"layers run from {int(layers.min())} to {int(layers.max())}: give {NEVER} to "
            f"{n_layers - 1} for {n_layers} layers"
        )
    return _shares(torch.bincount(layers[layers != NEVER], minlength=n_layers))


def occurrence_histogram(rank: Int[Tensor, "layer item"], k: int) -> Float[Tensor, "layer"]:
    """Shares by layer of all places where a target is among the top `k`; zeros if nowhere."""
    return _shares(_among_top(rank, k).sum(dim=1))


def share_found(layers: Int[Tensor, "item"]) -> float:
    """Share of items that have a layer at all, from 0 to 1."""
    if not len(layers):
        raise ValueError("there are no items: give the layers of one or more")
    return (layers != NEVER).double().mean().item()


def effective_layers(histogram: Float[Tensor, "layer"]) -> float:
    """How many layers items spread over: exp of the entropy of their histogram."""
    total = histogram.double().sum().item()
    # float32 shares of a hundred layers sum to 1 within 1e-5; counts miss it by far more.
    if (histogram < 0).any() or not (total == 0 or abs(total - 1) < 1e-5):
        raise ValueError(
            f"the histogram's lowest value is {histogram.min():.3g} and its sum {total:.6g}: give "
            f"shares that are not negative and sum to 1"
        )
    return math.exp(shannon_entropy(histogram.double()).item()) if total else 0.0


def effective_layers_interval(
    layers: Int[Tensor, "item"], n_layers: int, level: float = 0.95
) -> Interval | None:
    """Interval of the effective number of layers, over the items that have one."""
    histogram = layer_histogram(layers, n_layers)
    counts = (histogram * (layers != NEVER).sum()).round()
    used = counts.nonzero()[:, 0]
    without = counts.repeat(len(used), 1)
    without[torch.arange(len(used)), used] -= 1
    entropies = shannon_entropy(without / without.sum(dim=1, keepdim=True).clamp(min=1))
    interval = jackknife_interval(
        shannon_entropy(histogram).item(),
        entropies.repeat_interleave(counts[used].long()).tolist(),
        level,
    )
    if interval is None:
        return None
    low, high = (min(max(math.exp(end), 1.0), n_layers) for end in interval[:2])
    return Interval(low, high, level)


def rank_area(rank: Int[Tensor, "layer item"], d_vocab: int) -> Float[Tensor, "item"]:
    """Area under each item's rank curve, on a logarithmic scale, over the depth of the model."""
    _check_rank(rank)
    if d_vocab < 2 or rank.max() >= d_vocab:
        raise ValueError(
            f"ranks run up to {int(rank.max())} in a vocabulary of {d_vocab}: give d_vocab of the "
            f"model that was read out, 2 or more"
        )
    return (1 - rank.double().log1p() / math.log(d_vocab)).mean(dim=0)


def _among_top(rank: Int[Tensor, "layer item"], k: int) -> Bool[Tensor, "layer item"]:
    _check_rank(rank)
    if wrong := whole_number()(k):
        raise ValueError(f"k is {wrong}")
    return rank < k


def _check_rank(rank: Int[Tensor, "layer item"]) -> None:
    is_whole = isinstance(rank, Tensor) and not (rank.is_floating_point() or rank.is_complex())
    if not is_whole:
        own = "; the ranks of a lens are lens.rank" if hasattr(rank, "rank") else ""
        raise ValueError(f"rank is {shown(rank)}; give whole numbers [layer item]{own}")
    if not rank.numel():
        raise ValueError(
            f"ranks have shape {list(rank.shape)}: give one or more layers and items, [layer item]"
        )
    if rank.min() < 0:
        raise ValueError(f"a rank is {int(rank.min())}: give 0 for the top and count upwards")


def _shares(counts: Int64[Tensor, "layer"]) -> Float[Tensor, "layer"]:
    """Counts over their sum; zeros where that is 0."""
    return counts.double() / counts.sum().clamp(min=1)


POOL = 20  # from how many of the nearest tokens a frequency-matched one is drawn


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
    if not all(map(len, target_ids)):
        raise ValueError("a target has no tokens: give one or more")
    first = torch.tensor([ids[0] for ids in target_ids], dtype=torch.long)
    _check_ids(first, len(counts))
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


def _check_ids(ids: Int64[Tensor, "item"], d_vocab: int) -> None:
    if len(ids) and not (ids.min() >= 0 and ids.max() < d_vocab):
        raise ValueError(
            f"token ids run from {int(ids.min())} to {int(ids.max())}, but there are {d_vocab} "
            f"tokens: give ids of this vocabulary"
        )
