"""Target reductions: from the log-probabilities of a target's tokens to one score for the item.

| reduction    | score, in nats                                                                |
|--------------|-------------------------------------------------------------------------------|
| `token_mean` | mean over the tokens of the target                                             |
| `sum`        | sum over them: the log-probability of the whole target                         |
| `PaddedMean` | that sum over the positions of a padded row: what the released code reports    |

The released code takes the mean of the loss over the whole row, and a row is padded to the longest
of its batch; positions outside the target count as zeros. So a score depends on which items share
its batch: the longer the longest of them, the nearer to zero.

Source: evaluation code released with Kim et al., ICLR 2025; its Eq. 4 and text have the mean over
target tokens.

Example:
    >>> PaddedMean(batch_size=2, world_size=1).positions([5, 9, 4])
    [8, 8, 3]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class TargetReduction(StrEnum):
    """How the log-probabilities of a target's tokens become one number."""

    TOKEN_MEAN = "token_mean"
    """Their mean: nats per token."""
    SUM = "sum"
    """Their sum: nats per target."""


@dataclass(frozen=True)
class PaddedMean:
    """The released code's reduction; it depends on the order of the items.

    Items are dealt to processes in turn, the first ones once more until all have the same number,
    and every process takes its own in batches, in order.

    Attributes:
        batch_size: items in a batch of one process.
        world_size: processes.
    """

    batch_size: int = 16
    world_size: int = 4

    def __post_init__(self) -> None:
        for name in ("batch_size", "world_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more")

    def positions(self, lengths: Sequence[int]) -> list[int]:
        """Over how many positions each item's loss is averaged.

        Args:
            lengths: tokens of prompt and target together, item by item, in order.

        Returns:
            The longest of each item's batch, less one: nothing predicts the first token.
        """
        count = len(lengths)
        dealt = range(-(-count // self.world_size) * self.world_size)
        found = [0] * count
        for process in range(self.world_size):
            own = [place % count for place in dealt[process :: self.world_size]]
            for start in range(0, len(own), self.batch_size):
                batch = own[start : start + self.batch_size]
                longest = max(lengths[item] for item in batch)
                for item in batch:
                    # An item that is dealt twice keeps what it got first.
                    found[item] = found[item] or longest - 1
        return found


Reduction = TargetReduction | PaddedMean


def as_reduction(given: TargetReduction | PaddedMean | str) -> Reduction:
    """The reduction that is meant.

    Raises:
        ValueError: there is none of this name.
    """
    if isinstance(given, PaddedMean):
        return given
    try:
        return TargetReduction(given)
    except ValueError:
        raise ValueError(
            f"reduction must be one of {', '.join(TargetReduction)}, or a PaddedMean; found "
            f"{given!r}"
        ) from None
