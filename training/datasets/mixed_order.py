"""Mixed order: in which order a stage goes through its own examples and its mix.

Every epoch has an order of its own, in which each example stands once; the orders follow each other
without a gap, and batches are cut from that stream. So every batch is full, none is dropped, and an
epoch may end within a batch.

Ordered by `batch`, the n examples of the stage stand evenly among the m of the mix: example number
i of N = n + m is one of the stage's own where floor((i + 1) n / N) exceeds floor(i n / N). Any run
of B has then floor(B n / N) of them, or one more.

Example:
    >>> order = MixedOrder(primary=2, mix=4, seed=0, mixing=Mixing.BATCH)
    >>> [bool(example < 2) for example in order.stream(0, 6)]
    [False, False, True, False, False, True]
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from training.datasets.row_choices import Mixing


@dataclass(frozen=True)
class MixedOrder:
    """The stream of examples; the stage's own are numbered from 0, then the mix.

    Attributes:
        primary: how many examples the stage has of its own.
        mix: how many are mixed in; 0 for none.
        seed: of the orders.
        mixing: "example" or "batch".
    """

    primary: int
    mix: int
    seed: int
    mixing: Mixing

    @property
    def size(self) -> int:
        """Examples of an epoch."""
        return self.primary + self.mix

    def stream(self, start: int, stop: int) -> Int64[np.ndarray, " example"]:
        """The examples from one place of the stream up to another."""
        epochs = range(start // self.size, -(-stop // self.size))
        orders = [_epoch_order(self, epoch) for epoch in epochs]
        first = epochs.start * self.size
        return np.concatenate(orders)[start - first : stop - first]

    def refuse_uneven(self, batch_size: int) -> None:
        """Make sure that, mixed by `batch`, every batch has some of both.

        Raises:
            ValueError: it would not.
        """
        if self.mixing is not Mixing.BATCH:
            return
        if not self.mix:
            raise ValueError("mixing 'batch' has nothing to mix in: give a mix, or use 'example'")
        rarer = min(self.primary, self.mix)
        needed = -(-self.size // rarer)
        if batch_size < needed:
            raise ValueError(
                f"batches of {batch_size} cannot all have some of {self.primary} examples and of "
                f"{self.mix} mixed in: give a batch_size of at least {needed}, or use mixing "
                "'example'"
            )


@lru_cache(maxsize=4)
def _epoch_order(order: MixedOrder, epoch: int) -> Int64[np.ndarray, " example"]:
    """The order of an epoch: a function of the seed and the epoch, and of nothing before."""
    generator = np.random.default_rng([order.seed, epoch])
    if order.mixing is Mixing.EXAMPLE:
        return generator.permutation(order.size)
    own = generator.permutation(order.primary)
    return _interleaved(own, order.primary + generator.permutation(order.mix))


def _interleaved(
    own: Int64[np.ndarray, " own"], mix: Int64[np.ndarray, " mix"]
) -> Int64[np.ndarray, " example"]:
    """Two orders as one, in which those of each kind are spread evenly."""
    size = len(own) + len(mix)
    ends = np.arange(size + 1) * len(own) // size
    is_own = np.diff(ends) == 1
    found = np.empty(size, dtype=np.int64)
    found[is_own], found[~is_own] = own, mix
    return found
