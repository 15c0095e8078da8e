"""Results: what a test found, alike for all tests, so that a table can hold any of them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from probes.intervals import Interval


@dataclass(frozen=True)
class Tested:
    """An effect, how sure it is, and whether it is more than chance.

    Attributes:
        effect: in the units of what was tested.
        interval: where it would be with other items, seeds or checkpoints.
        p_value: chance of data as extreme if there were no effect.
        n: how many independent ones the result rests on: what they are is said in `test`.
        test: what was done, in words.
    """

    effect: float
    interval: Interval
    p_value: float
    n: int
    test: str


@dataclass(frozen=True)
class Comparison(Tested):
    """Two measurements of the same items: the effect is the first less the second."""


@dataclass(frozen=True)
class Correlation(Tested):
    """How far two things rise together: the effect is from -1 to 1."""


Choice = TypeVar("Choice", bound=StrEnum)


class CorrelationKind(StrEnum):
    """What rises together."""

    PEARSON = "pearson"
    """The values: along a line."""
    SPEARMAN = "spearman"
    """Their ranks: along any rising or falling curve, and one stray value counts no more than
    another."""


class CheckpointCluster(StrEnum):
    """What is drawn anew when the correlation over checkpoints is asked of other data."""

    CHECKPOINT = "checkpoint"
    """Other checkpoints of the same pretraining run: seeds are averaged first, and add no number.
    For seeds that share their checkpoints."""
    SEED = "seed"
    """Other pretraining runs: each seed has its own checkpoints and a correlation of its own."""


class Direction(StrEnum):
    """Which way something is expected to go; a test of it is one-sided."""

    RISES = "rises"
    FALLS = "falls"

    @property
    def sign(self) -> int:
        """1 where it rises, -1 where it falls."""
        return 1 if self is Direction.RISES else -1


class SeedTest(StrEnum):
    """Where the p-value of a test over seeds comes from."""

    EXACT = "exact"
    """From all ways to put in another order what one seed gave: needs no distribution, but three
    seeds have few orders, and steps of one seed must not drift."""
    T = "t"
    """A t-test of one number for each seed: whatever happens within a seed, as long as the numbers
    of seeds are near normal."""


def chosen(kind: type[Choice], value: str, what: str) -> Choice:
    """The member of an enum that a string names."""
    if value not in list(kind):
        raise ValueError(f"{what} is {str(value)!r}: choose from {', '.join(kind)}")
    return kind(value)
