r"""Means over the tokens that count, padding left out, and intervals of statistics.

`BlockedMean` is what the entropies are measured with: a weighted mean kept apart in a few blocks of
documents. All sums are float64.

**Jackknife.** With G blocks and \(\theta_{(g)}\) the statistic without block g, the standard error
is \(\sqrt{\frac{G-1}{G} \sum_g (\theta_{(g)} - \bar\theta)^2}\), and the interval is
\(G\theta - (G-1)\bar\theta \pm t_{G-1}\) times it. Its centre is not \(\theta\): the entropy of
means over few documents is too low, since chance makes them uneven, and the jackknife takes that
bias off. So does the **bootstrap** (basic: quantiles over blocks drawn with replacement, reflected
about the statistic). Documents must be independent of each other; the tokens of one need not be.

Source: Quenouille (1956); Tukey (1958); Kott (2001), "The Delete-a-Group Jackknife"; Davison and
Hinkley (1997), section 5.2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.choices import IntervalMethod, Weighting
from probes.corpus.token_batch import TokenBatch


class RunningMean:
    """Mean over the unmasked positions of `[batch pos ...]` tensors; one value per last axes."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.count = 0

    def update(
        self, values: Float[Tensor, "batch pos *rest"], mask: Bool[Tensor, "batch pos"]
    ) -> None:
        """Take the values of one batch; positions where the mask is False are left out."""
        added = values[mask].double().sum(dim=0)
        self.sum = added if self.sum is None else self.sum + added.to(self.sum.device)
        self.count += int(mask.sum())

    def merge(self, other: "RunningMean") -> None:
        """Take over what another one has seen."""
        if other.sum is not None:
            self.sum = other.sum if self.sum is None else self.sum + other.sum.to(self.sum.device)
            self.count += other.count

    def result(self) -> Float[Tensor, "*rest"]:
        """The mean, float64.

        Raises:
            ValueError: no position was seen, or a value is not finite.
        """
        if self.sum is None or self.count == 0:
            raise ValueError("a mean of no positions: every position was masked, or none came")
        return _finite(self.sum / self.count, self.count)


class RunningMoments:
    """Mean and variance over unmasked positions, by Chan's merge of centred sums."""

    def __init__(self) -> None:
        self.mean: Tensor | None = None
        self.centred: Tensor | None = None
        self.count = 0

    def update(
        self, values: Float[Tensor, "batch pos *rest"], mask: Bool[Tensor, "batch pos"]
    ) -> None:
        """Take the values of one batch; positions where the mask is False are left out."""
        chosen = values[mask].double()
        if not len(chosen):
            return
        batch = RunningMoments()
        batch.count, batch.mean = len(chosen), chosen.mean(dim=0)
        batch.centred = (chosen - batch.mean).square().sum(dim=0)
        self.merge(batch)

    def merge(self, other: "RunningMoments") -> None:
        """Take over what another one has seen."""
        if other.mean is None or other.centred is None:
            return
        if self.mean is None or self.centred is None:
            self.mean, self.centred, self.count = other.mean, other.centred, other.count
            return
        count = self.count + other.count
        step = other.mean.to(self.mean.device) - self.mean
        self.centred = (
            self.centred
            + other.centred.to(self.mean.device)
            + step.square() * (self.count * other.count / count)
        )
        self.mean = self.mean + step * (other.count / count)
        self.count = count

    def result(self) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
        """Mean and unbiased variance, float64.

        Raises:
            ValueError: fewer than two positions were seen, or a value is not finite.
        """
        if self.mean is None or self.centred is None or self.count < 2:
            raise ValueError(f"a variance needs two positions, found {self.count}")
        variance = _finite(self.centred / (self.count - 1), self.count)
        return _finite(self.mean, self.count), variance


def _finite(found: Tensor, count: int) -> Tensor:
    if not found.isfinite().all():
        raise ValueError(
            f"a mean over {count} positions is not finite, as one of its values is not; capture "
            "the hook point batch by batch to see where"
        )
    return found


@dataclass(frozen=True)
class BatchWeights:
    """How much each token of a batch counts, and in which blocks of documents.

    `matrix` has one row per block that the batch touches and one column per token that counts
    (rows of the batch one after the other), so that a single product sums a batch block by block.
    """

    matrix: Float[Tensor, "touched counted"]
    blocks: Int[Tensor, "touched"]
    tokens: Int[Tensor, "counted"] | None
    """Which tokens of the batch count; None for all. Pads are dropped, not given the weight 0:
    what a model computes on them may be NaN."""
    _copies: dict[tuple[torch.device, torch.dtype], Tensor] = field(
        default_factory=dict, repr=False
    )

    def sums(self, values: Float[Tensor, "token *rest"]) -> Float[Tensor, "touched *rest"]:
        """Weighted sums of a batch's values, in the wider of their type and float32."""
        wide = torch.promote_types(values.dtype, torch.float32)
        if self.tokens is not None:
            values = values[self.tokens.to(values.device)]
        product = self._matrix_on(values.device, wide) @ values.flatten(1).to(wide)
        return product.unflatten(1, values.shape[1:])

    def _matrix_on(self, device: torch.device, kind: torch.dtype) -> Tensor:
        # Every layer of a batch asks for it, and a copy to a GPU waits for what runs there.
        if (device, kind) not in self._copies:
            self._copies[device, kind] = self.matrix.to(device, kind)
        return self._copies[device, kind]


class BlockedMean:
    """Weighted means of one tensor per layer, kept apart in blocks of documents."""

    def __init__(self, n_layers: int, n_blocks: int) -> None:
        self.sums: list[Tensor | None] = [None] * n_layers
        self._room: Tensor | None = None
        self.weights = torch.zeros(n_blocks, dtype=torch.float64)

    def count(self, weights: BatchWeights) -> None:
        """Add the weights of a batch; once a batch, whatever the number of layers."""
        self.weights.index_add_(0, weights.blocks, weights.matrix.double().sum(dim=1))

    def add(self, layer: int, weights: BatchWeights, values: Float[Tensor, "token *rest"]) -> None:
        sums = weights.sums(values)
        # Not every device has float64; the CPU has.
        home = values.device if values.device.type in ("cpu", "cuda") else torch.device("cpu")
        held = self.sums[layer]
        if held is None:
            if self._room is None:
                # For all layers at once: one by one, they would lie in the gaps that activations
                # leave in the heap, which then grows by an activation a layer.
                shape = (len(self.sums), len(self.weights), *sums.shape[1:])
                self._room = torch.zeros(shape, dtype=torch.float64, device=home)
            held = self.sums[layer] = self._room[layer]
        held.index_add_(0, weights.blocks.to(held.device), sums.to(held.device).double())

    def merge(self, other: "BlockedMean") -> None:
        self.weights += other.weights
        for layer, theirs in enumerate(other.sums):
            if theirs is not None:
                ours = self.sums[layer]
                self.sums[layer] = theirs if ours is None else ours + theirs.to(ours.device)

    def all_reduce(self) -> None:
        """Add up what the processes of the default group have seen; all end with the same."""
        from torch import distributed as dist

        own = None if self.sums[0] is None else tuple(self.sums[0].shape)
        shapes: list[tuple[int, ...] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(shapes, own)
        shape = next((found for found in shapes if found is not None), None)
        dist.all_reduce(self.weights)
        if shape is None:
            return
        for layer, held in enumerate(self.sums):
            # On the CPU, so that gloo serves whatever device the model is on.
            total = torch.zeros(shape, dtype=torch.float64) if held is None else held.cpu()
            dist.all_reduce(total)
            self.sums[layer] = total

    def mean(self) -> Float[Tensor, "layer *rest"]:
        """The mean of every layer, float64 on the CPU."""
        return self.means(torch.ones_like(self.weights)[None])[0]

    def means(self, block_weights: Float[Tensor, "set block"]) -> Float[Tensor, "set layer *rest"]:
        """The means for several sets of block weights at once."""
        kept = block_weights.double()
        totals = kept @ self.weights
        held = [sums for sums in self.sums if sums is not None]
        if not bool((totals > 0).all()) or len(held) < len(self.sums):
            raise ValueError("nothing was counted: no batches came, or every position is a pad")
        found = torch.stack([torch.tensordot(kept.to(h.device), h, 1).cpu() for h in held], dim=1)
        found /= totals.view(-1, *(1,) * (found.ndim - 1))
        if not found.isfinite().all():
            layer = int((~found.isfinite()).nonzero()[0, 1])
            raise ValueError(
                f"the mean of layer {layer} is not finite: its values are too large to be added "
                "up; load the model in float32, or take off what makes them so large"
            )
        return found

    def touched_blocks(self) -> list[int]:
        """The blocks that hold any document."""
        return self.weights.nonzero().flatten().tolist()


def weigh(batch: TokenBatch, weighting: Weighting, n_blocks: int) -> BatchWeights:
    """The weights of a batch; pads have none."""
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


class Interval(NamedTuple):
    """A confidence interval, in the units of what it is about."""

    low: float
    high: float
    level: float = 0.95

    @property
    def centre(self) -> float:
        """The middle: the estimate less its bias."""
        return (self.low + self.high) / 2

    @property
    def width(self) -> float:
        return self.high - self.low


def estimate_of(value: float, interval: Interval | None) -> float:
    """The number that an interval of this module is of, and that lies within it."""
    return value if interval is None else interval.centre


def jackknife_interval(
    estimate: float, without_block: Sequence[float], level: float = 0.95
) -> Interval | None:
    """Interval of a statistic from its values without each block."""
    from scipy.special import stdtrit

    count = len(without_block)
    if count < 2:
        return None
    values = np.asarray(without_block, dtype=np.float64)
    error = np.sqrt((count - 1) / count * np.square(values - values.mean()).sum())
    centre = count * estimate - (count - 1) * values.mean()
    half = stdtrit(count - 1, (1 + level) / 2) * error
    return Interval(float(centre - half), float(centre + half), level)


def bootstrap_interval(
    estimate: float, resampled: Sequence[float], level: float = 0.95
) -> Interval | None:
    """Interval of a statistic from its values on resampled blocks."""
    if not len(resampled):
        return None
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(resampled, dtype=np.float64), [tail, 1 - tail])
    return Interval(float(2 * estimate - high), float(2 * estimate - low), level)


def resampling_counts(n_blocks: int, replicates: int, seed: int) -> np.ndarray:
    """How often each block is drawn in each replicate, `[replicate block]`."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=replicates)


Statistic = Callable[[Tensor], float]


@dataclass(frozen=True)
class Resampling:
    """How intervals are made, and of how many blocks of documents."""

    method: IntervalMethod = IntervalMethod.JACKKNIFE
    # Ten blocks: a t quantile of 2.26 instead of 1.96, for ten copies of the sums.
    blocks: int = 10
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.blocks < 2:
            raise ValueError(f"blocks must be at least 2 for an interval, found {self.blocks}")

    def interval(self, means: BlockedMean, statistic: Statistic) -> Interval | None:
        """Interval of a statistic of the means; None from fewer than two blocks of documents."""
        touched = means.touched_blocks()
        if len(touched) < 2:
            return None
        if self.method is IntervalMethod.JACKKNIFE:
            return jackknife(means, statistic)
        estimate = statistic(means.mean())
        drawn = resampling_counts(len(touched), self.replicates, self.seed)
        weights = torch.zeros(len(drawn), len(means.weights), dtype=torch.float64)
        weights[:, touched] = torch.from_numpy(drawn).double()
        return bootstrap_interval(estimate, _values(means, statistic, weights))


def jackknife(means: BlockedMean, statistic: Statistic) -> Interval | None:
    """Interval of a statistic of the means, each block of documents left out in turn."""
    kept = 1.0 - torch.eye(len(means.weights), dtype=torch.float64)[means.touched_blocks()]
    kept = kept[kept @ means.weights > 0]
    if not len(kept):
        return None
    whole, *without = _values(means, statistic, torch.cat([torch.ones_like(kept[:1]), kept]))
    return jackknife_interval(whole, without)


_AT_ONCE = 16  # means of all memory vectors that are held at once


def _values(
    means: BlockedMean, statistic: Statistic, weights: Float[Tensor, "set block"]
) -> list[float]:
    return [statistic(mean) for some in weights.split(_AT_ONCE) for mean in means.means(some)]
